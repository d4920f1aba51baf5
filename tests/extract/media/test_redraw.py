"""A copy with other pictures: the same moments, the same sound at the same place."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from cache.errors import MediaError
from extract.media.audio import load_audio
from extract.media.redraw import redraw_video
from extract.media.video import probe, read_frames


def tone(seconds: float, rate: int = 48000) -> np.ndarray:
    return (0.3 * np.sin(np.arange(round(seconds * rate)) * 0.05)).astype(np.float32)


def pictures(path: Path, media: SimpleNamespace) -> dict[float, int]:
    """Seconds → code."""
    with av.open(str(path)) as container:
        return {
            round(frame.time, 4): media.read_code(frame.to_ndarray(format="rgb24"))
            for frame in container.decode(video=0)
        }


def sound(path: Path) -> tuple[float, np.ndarray]:
    """Start in seconds, and all samples."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    return frames[0].time, np.concatenate([frame.to_ndarray()[0] for frame in frames])


def noise(index: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)


def invert(number: int, picture: np.ndarray) -> np.ndarray:
    return 255 - picture


@pytest.mark.parametrize("varies", [False, True])
def test_moments_and_sound_are_kept(tmp_path: Path, media: SimpleNamespace, varies: bool) -> None:
    steps = [1 + (index % 3 if varies else 0) for index in range(30)]
    times = [Fraction(sum(steps[:index]), 25) for index in range(30)]
    samples = tone(float(times[-1]))
    video = media.write_video(tmp_path / "v.mp4", 30, times=times, audio=samples, audio_offset_s=Fraction(1, 5))
    numbers = []

    def draw(number: int, picture: np.ndarray) -> np.ndarray:
        numbers.append(number)
        return invert(number, picture)

    redraw_video(video, tmp_path / "out.mp4", draw)
    assert numbers == list(range(30))
    found = pictures(tmp_path / "out.mp4", media)
    assert list(found.values()) == [255 - code for code in range(30)]
    np.testing.assert_allclose(list(found), [float(time) for time in times], atol=1e-4)
    assert probe(tmp_path / "out.mp4").clock.times_s() == pytest.approx(probe(video).clock.times_s(), abs=1e-4)
    before, after = sound(video), sound(tmp_path / "out.mp4")
    assert after[0] == pytest.approx(before[0], abs=1e-3)
    np.testing.assert_array_equal(after[1], before[1])
    assert {path.name for path in tmp_path.iterdir()} == {"v.mp4", "out.mp4"}


@pytest.mark.parametrize(
    ("name", "codec", "rate", "kept"),
    [
        ("v.mp4", "libmp3lame", 48000, "mp3"),
        ("v.mkv", "libmp3lame", 44100, "mp3"),
        ("v.avi", "libmp3lame", 8000, "aac"),  # too slow for MP4
        ("v.mkv", "libopus", 48000, "opus"),
        ("v.mkv", "alac", 48000, "alac"),  # its packets have no duration
        ("v.mkv", "flac", 48000, "aac"),
        ("late.mkv", "aac", 48000, "aac"),
        ("late.mkv", "flac", 48000, "aac"),
        ("v.mov", "pcm_s16le", 10000, "aac"),  # a rate that AAC does not have
    ],
)
def test_any_sound_stays_in_its_place(
    tmp_path: Path, media: SimpleNamespace, name: str, codec: str, rate: int, kept: str
) -> None:
    """As our own reader hears both: at the same moments to a millisecond, and as long to a block of the encoder."""
    time_s = np.arange(rate) / rate
    sweep = (0.3 * np.sin(2 * np.pi * (300 * time_s + 500 * time_s**2))).astype(np.float32)
    late = Fraction(1, 5)
    times = [Fraction(2 * name.startswith("late") + index, 25) for index in range(25)]
    video = media.write_video(
        tmp_path / name, 25, times=times, audio=sweep, audio_codec=codec, audio_rate=rate, audio_offset_s=late
    )
    redraw_video(video, tmp_path / "out.mp4", invert)
    with av.open(str(tmp_path / "out.mp4")) as container:
        (stream,) = container.streams.audio
        assert stream.codec.canonical_name == kept
    before, after = (load_audio(path) for path in (video, tmp_path / "out.mp4"))
    assert abs(len(after) - len(before)) <= 1024 / min(rate, 48000) * 16000
    size = len(before) + len(after)
    likeness = np.fft.irfft(np.fft.rfft(before, size).conj() * np.fft.rfft(after, size), size)
    lag = (int(likeness.argmax()) + size // 2) % size - size // 2
    assert abs(lag) <= 16
    assert likeness.max() >= 0.95 * np.linalg.norm(before) * np.linalg.norm(after)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "rotation"), [("mpeg4", "yuv420p", 90), ("ffv1", "gray", 0), ("ffv1", "yuv420p10le", 0)]
)
def test_pictures_are_those_of_a_player(
    tmp_path: Path, media: SimpleNamespace, codec: str, pix_fmt: str, rotation: int
) -> None:
    name = "v.mov" if rotation else "v.mkv"
    video = media.write_video(tmp_path / name, 5, codec=codec, pix_fmt=pix_fmt, rotation=rotation)
    redraw_video(video, tmp_path / "out.mp4", lambda number, picture: picture)
    before, after = probe(video), probe(tmp_path / "out.mp4")
    assert (after.height, after.width) == (before.height, before.width) == ((64, 48) if rotation else (48, 64))
    (first, *_), (other, *_) = (
        [picture for _, picture in read_frames(path, before.clock, "v")] for path in (video, tmp_path / "out.mp4")
    )
    np.testing.assert_allclose(first.mean(axis=(0, 2)), other.mean(axis=(0, 2)), atol=12)
    np.testing.assert_allclose(first.mean(axis=(1, 2)), other.mean(axis=(1, 2)), atol=12)


def test_a_full_disk_is_not_blamed_on_the_video(tmp_path: Path, media: SimpleNamespace) -> None:
    """A limit to the size of files, in a process of its own, is the full disk that a test can have."""
    video = media.write_video(tmp_path / "v.mp4", 25, draw=noise)
    program = (
        "import resource, sys; from pathlib import Path; from extract.media.redraw import redraw_video;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));"
        "redraw_video(Path(sys.argv[1]), Path(sys.argv[2]), lambda number, picture: picture)"
    )
    command = [sys.executable, "-c", program, str(video), str(tmp_path / "out.mp4")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"StoreError: No video can be written to '{tmp_path}' (File too large)" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"v.mp4"}


def test_without_sound_and_odd_size(tmp_path: Path, media: SimpleNamespace) -> None:
    video = media.write_video(tmp_path / "v.mp4", 8, size=(48, 64))
    redraw_video(video, tmp_path / "out.mp4", lambda number, picture: np.repeat(picture, 2, axis=0))
    info = probe(tmp_path / "out.mp4")
    assert (info.height, info.width, info.num_frames, info.has_audio) == (96, 64, 8, False)


def test_nothing_is_left_of_a_damaged_video(tmp_path: Path, media: SimpleNamespace) -> None:
    video = media.write_video(tmp_path / "v.mp4", 40)
    video.write_bytes(video.read_bytes()[:-1500])
    with pytest.raises(MediaError, match="'.*v.mp4'"):
        redraw_video(video, tmp_path / "out.mp4", invert)
    with pytest.raises(MediaError, match="no video stream"):
        redraw_video(media.write_audio(tmp_path / "a.wav", tone(1), "pcm_s16le"), tmp_path / "out.mp4", invert)
    assert {path.name for path in tmp_path.iterdir()} == {"v.mp4", "a.wav"}
