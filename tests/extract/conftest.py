"""Small generated media: the index of every frame is written into its pixels as a bar code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

BITS = 8
SHARED_MEDIA = Path(__file__).resolve().parents[3] / "shared" / "media"


def draw_code(index: int, height: int, width: int) -> NDArray[np.uint8]:
    """(H, W, 3) picture of eight bars, black or white, the lowest bit on the left."""
    bits = (index >> np.arange(BITS)) & 1
    row = bits[np.minimum(np.arange(width) * BITS // width, BITS - 1)] * 255
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (height, width, 3)).astype(np.uint8))


def read_code(picture: NDArray[np.uint8]) -> int:
    """Index that `draw_code` wrote."""
    width = picture.shape[1]
    columns = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    bits = picture[:, columns].mean(axis=(0, 2)) > 127
    return int((bits << np.arange(BITS)).sum())


def write_video(
    path: Path,
    num_frames: int,
    rate: Fraction | int = 25,
    *,
    times: Sequence[Fraction] | None = None,
    size: tuple[int, int] = (48, 64),
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    rotation: int = 0,
    audio: NDArray[np.float32] | None = None,
    audio_codec: str = "aac",
    audio_rate: int = 48000,
    audio_offset_s: Fraction = Fraction(0),
    draw: Callable[[int, int, int], NDArray[np.uint8]] = draw_code,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a video whose frame i shows the code i at `times[i]` (default i / rate) seconds."""
    base = Fraction(1, 60000)  # MPEG-4 part 2 allows at most 65535
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(rate), options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        if rotation:
            stream.set_display_rotation(rotation)
        if times is not None:
            stream.codec_context.time_base = base
        tones: Any = container.add_stream(audio_codec, rate=audio_rate, layout="mono") if audio is not None else None
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(draw(index, *size), format="rgb24")
            if times is not None:
                frame.time_base, frame.pts = base, round(times[index] / base)
            else:
                frame.time_base, frame.pts = 1 / Fraction(rate), index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if tones is not None:
            assert audio is not None
            _encode_audio(container, tones, audio, audio_rate, audio_offset_s)
    return path


def write_audio(path: Path, audio: NDArray[np.float32], codec: str = "aac", rate: int = 48000) -> Path:
    """Write a sound file or a container without pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono" if audio.ndim == 1 else "stereo")
        _encode_audio(container, stream, audio, rate, Fraction(0))
    return path


def _encode_audio(container: Any, stream: Any, audio: NDArray[np.float32], rate: int, offset_s: Fraction) -> None:
    """Encode (S,) or (2, S) samples in [-1, 1]; the first one stands at `offset_s`."""
    planes = np.atleast_2d(audio).astype(np.float32)
    layout = "mono" if len(planes) == 1 else "stereo"
    resampler = av.AudioResampler(format=stream.format.name, layout=layout, rate=rate)
    for start in range(0, planes.shape[1], 1024):
        block = np.ascontiguousarray(planes[:, start : start + 1024])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = start + round(offset_s * rate)
        for converted in resampler.resample(frame):
            container.mux(stream.encode(converted))
    container.mux(stream.encode())


@pytest.fixture(scope="session")
def media() -> SimpleNamespace:
    """The helpers above, for the tests of this folder."""
    return SimpleNamespace(
        draw_code=draw_code,
        read_code=read_code,
        write_video=write_video,
        write_audio=write_audio,
        shared=SHARED_MEDIA,
    )
