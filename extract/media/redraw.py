"""A copy of a video whose pictures are drawn on: the times of its pictures are kept, and so is its sound."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from cache.errors import StoreError
from extract.media.container import demux, find_sound, open_media
from extract.media.timeline import scan
from extract.media.video import Converter, timed_pictures

Draw = Callable[[int, NDArray[np.uint8]], NDArray[np.uint8]]
"""Maps the number of a picture, and the picture (H, W, 3) RGB as a player shows it, to another one of a fixed size."""

_COPIED = {"aac", "mp3", "ac3", "eac3", "alac", "opus"}  # sound that players read in MP4
_LOWEST_MP3_HZ = 16_000  # MP4 has no place for slower MP3
_AAC_HZ = (48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000)
_QUALITY = {"crf": "20", "preset": "veryfast"}


def redraw_video(video: Path, out: Path, draw: Draw) -> None:
    """Write an MP4 (H.264) with changed pictures, atomically, in constant memory.

    Every picture is shown when it is in the video, at whatever intervals. Sound that MP4 can hold is copied, other sound is
    encoded again as AAC; it stays where it is relative to the pictures.

    Args:
        video: the video.
        out: where to write.
        draw: changes a picture; its number is its rank by time.

    Raises:
        MissingFileError: if there is no such video.
        MediaError: if it is damaged or has no pictures.
        StoreError: if the file cannot be written (disk full).
    """
    temporary = out.with_name(f".{out.stem[:60]}.{os.getpid()}.tmp.mp4")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(video, temporary, draw)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _write(video: Path, out: Path, draw: Draw) -> None:
    timeline = scan(video)
    base, times = timeline.base, timeline.times
    place = find_sound(video)
    with (
        _writing(out),
        av.open(f"file:{out.absolute()}", "w", format="mp4") as container,
        open_media(video) as source,
    ):
        pictures: Any = container.add_stream("libx264", rate=timeline.clock.rate.limit_denominator(60_000))
        sound = None if place is None else _Sound(video, source, source.streams[place], container, out)
        convert = Converter(None, timeline.pixel_aspect)
        started = False
        last = -1
        for time, frame in timed_pictures(video, timeline):
            number = min(bisect_left(times, time), len(times) - 1)
            drawn = draw(number, convert(frame))
            if not started:
                _prepare(pictures, drawn, base)
                started = True
            picture = av.VideoFrame.from_ndarray(drawn, format="rgb24")
            picture.pts = max(time - times[0], last + 1)  # two pictures may have one time
            last = picture.pts
            picture.time_base = base
            if sound is not None:
                sound.write_until((time - times[0]) * base, times[0] * base)
            with _writing(out):
                container.mux(pictures.encode(picture))
        with _writing(out):
            container.mux(pictures.encode(None))
        if sound is not None:
            sound.write_until(None, times[0] * base)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Convert an error of writing, which is none of the video that is read."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise StoreError(
            f"No video can be written to '{out.parent}' ({error.strerror or error}). Check that it is a folder that you may write "
            "to and has free space, and run again; finished files are kept."
        ) from error


def _prepare(stream: Any, picture: NDArray[np.uint8], base: Fraction) -> None:
    """Settings of the encoder that depend on the pictures."""
    stream.height, stream.width = picture.shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.options = _QUALITY
    stream.time_base = stream.codec_context.time_base = base
    stream.codec_context.thread_count = 2


class _Sound:
    """The sound of a video, written along with the pictures."""

    def __init__(self, path: Path, source: Any, stream: Any, container: Any, out: Path) -> None:
        self._container, self._place = container, out
        name, rate = stream.codec.canonical_name, stream.codec_context.sample_rate
        self._copied = name in _COPIED and (name != "mp3" or rate >= _LOWEST_MP3_HZ)
        if self._copied:
            self._out = container.add_stream_from_template(stream)
        else:
            layout = "mono" if stream.codec_context.channels == 1 else "stereo"
            rate = min(_AAC_HZ, key=lambda known: (known < min(rate, _AAC_HZ[0]), known))
            self._out = container.add_stream("aac", rate=rate, layout=layout)
        self._last: int | None = None
        self._left: deque[Any] = deque()
        self._packets = self._read(path, source, stream)

    def _read(self, path: Path, source: Any, stream: Any) -> Iterator[tuple[Fraction, Any]]:
        """Start in seconds, and a packet to copy or a decoded frame."""
        for packet in demux(path, source, stream):
            if self._copied and packet.dts is not None and packet.size:
                yield packet.dts * packet.time_base, packet
            elif not self._copied and (packet.size or packet.dts is None):
                for frame in packet.decode():
                    if frame.pts is not None and frame.time_base:
                        yield frame.pts * frame.time_base, frame

    def write_until(self, moment_s: Fraction | None, first_picture_s: Fraction) -> None:
        """Write what starts before a moment after the first picture; everything if there is none."""
        while True:
            if not self._left:
                found = next(self._packets, None)
                if found is None:
                    break
                self._left.append(found)
            start_s, piece = self._left[0]
            if moment_s is not None and start_s - first_picture_s > moment_s:
                return
            self._left.popleft()
            self._write(piece, first_picture_s)
        if moment_s is None and not self._copied:
            with _writing(self._place):
                self._container.mux(self._out.encode(None))

    def _write(self, piece: Any, first_picture_s: Fraction) -> None:
        shift = round(first_picture_s / piece.time_base)
        piece.pts -= shift
        if self._copied:
            piece.dts -= shift
            if not piece.duration and self._last is not None:  # else the last packet would be cut off
                piece.duration = piece.dts - self._last
            self._last = piece.dts
            piece.stream = self._out
        with _writing(self._place):
            self._container.mux(piece if self._copied else self._out.encode(piece))
