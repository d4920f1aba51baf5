"""A copy with other pictures: the same moments, the same sound at the same place."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from cache.errors import MediaError
from extract.media.redraw import redraw_video
from extract.media.video import probe


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


def test_other_sound_is_encoded_again(tmp_path: Path, media: SimpleNamespace) -> None:
    video = media.write_video(tmp_path / "v.mkv", 25, audio=tone(1), audio_codec="flac")
    redraw_video(video, tmp_path / "out.mp4", invert)
    start_s, samples = sound(tmp_path / "out.mp4")
    assert start_s == pytest.approx(0, abs=0.03)
    assert len(samples) / 48000 == pytest.approx(1, abs=0.05)
    assert np.sqrt(np.square(samples).mean()) == pytest.approx(0.3 / np.sqrt(2), abs=0.02)


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
