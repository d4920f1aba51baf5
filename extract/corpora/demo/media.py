"""Files of the demo corpus: H.264 and AAC in mp4, the same bytes every time, renamed into place once complete."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from numpy.typing import NDArray

from cache.places.processes import is_alive, parse_pid

# One thread, no macroblock trees and no processor-specific code: with x264's defaults, the same pictures give one of
# several bit streams, depending on memory addresses.
_VIDEO_OPTIONS = {"preset": "veryfast", "crf": "20", "threads": "1", "x264-params": "mbtree=0:cpu-independent=1"}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Provide a temporary path beside `path`, renamed to it when the block ends without an error.

    Its name is this process's own, because another process may be writing the same file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(root: Path) -> None:
    """Remove the temporary files of processes that were killed."""
    for leftover in root.rglob(".*.unfinished"):
        if not is_alive(parse_pid(leftover.stem.rpartition(".")[2]) or 0):
            leftover.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_video(
    path: Path,
    pictures: Iterable[NDArray[np.uint8]],
    size: tuple[int, int],
    rate: Fraction,
    samples: NDArray[np.float32],
    source_rate: int,
    sample_rate: int,
) -> None:
    """Write an mp4 atomically.

    Args:
        path: the file.
        pictures: (H, W, 3) RGB each, one per tick of `rate`.
        size: width and height, pixels, both even.
        rate: pictures per second.
        samples: (S,) in [-1, 1], one channel.
        source_rate: of `samples`, Hz.
        sample_rate: of the sound track, Hz.
    """
    with whole_file(path) as unfinished, av.open(str(unfinished), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=rate, options=_VIDEO_OPTIONS)
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = 1 / rate
        audio = container.add_stream("aac", rate=sample_rate, layout="mono", bit_rate=64_000)
        written = 0
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            frame.time_base = 1 / rate
            container.mux(video.encode(frame))
            until = round((index + 1) / rate * source_rate)
            _write_sound(container, audio, samples[written:until], written, source_rate)
            written = until
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def _write_sound(
    container: OutputContainer, audio: AudioStream, samples: NDArray[np.float32], start: int, source_rate: int
) -> None:
    sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
    sound.sample_rate = source_rate
    sound.pts = start
    sound.time_base = Fraction(1, source_rate)
    container.mux(audio.encode(sound))  # PyAV resamples to the stream's rate and cuts to the codec's frame size
