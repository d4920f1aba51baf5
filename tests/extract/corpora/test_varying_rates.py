"""Label row i, crop i + 1, picture i and the sound at that picture's own time belong together at any rate."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from extract.corpora.affwild2 import AffWild2
from extract.corpora.affwild2 import Config as AffWild2Config
from extract.corpora.folder import Folder
from extract.corpora.muse import MuSe
from extract.inputs.spectrogram import LogMelPatches
from extract.media.audio import AudioWindows, load_audio
from extract.media.video import read_frames
from extract.words.words import Word, spread_words

NUMBER = 120
TIMES = [Fraction(i, 15) for i in range(60)] + [4 + Fraction(i, 30) for i in range(60)]
RATE_HZ = 48000


def clicks() -> np.ndarray:
    """A click in the middle of every tenth picture."""
    sound = np.zeros(round((TIMES[-1] + Fraction(1, 30)) * RATE_HZ), np.float32)
    for i in range(0, NUMBER, 10):
        sound[round((TIMES[i] + (TIMES[i + 1] - TIMES[i]) / 2) * RATE_HZ)] = 0.9
    return sound


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def folder(root: Path, video: Callable[[Path], Path], rows: int) -> Manifest:
    video(root / "videos" / "clip.mkv")
    write_text(root / "labels" / "clip.csv", "valence\n" + "".join(f"{i / 200}\n" for i in range(rows)))
    return Folder().read(root)


def affwild2(root: Path, video: Callable[[Path], Path], rows: int) -> Manifest:
    video(root / "batch1" / "clip.mkv").rename(root / "batch1" / "clip.mp4")
    text = "valence,arousal\n" + "".join(f"{i / 200},0\n" for i in range(rows))
    write_text(root / "VA_Set" / "Train_Set" / "clip.txt", text)
    write_text(root / "VA_Set" / "Validation_Set" / "clip_left.txt", text)
    return AffWild2(AffWild2Config()).read(root)


@pytest.fixture
def video(media: SimpleNamespace) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        return media.write_video(path, NUMBER, 30, times=TIMES, audio=clicks(), audio_codec="flac", audio_rate=RATE_HZ)

    return write


@pytest.mark.parametrize("corpus", [folder, affwild2])
@pytest.mark.parametrize("rows", [NUMBER - 2, NUMBER, NUMBER + 1])
def test_row_i_is_picture_i_with_its_sound(
    tmp_path: Path,
    media: SimpleNamespace,
    video: Callable[[Path], Path],
    caplog: pytest.LogCaptureFixture,
    corpus: Callable[[Path, Callable[[Path], Path], int], Manifest],
    rows: int,
) -> None:
    with caplog.at_level(logging.WARNING, "extract.corpora"):
        manifest = corpus(tmp_path, video, rows)
    told = [record.getMessage() for record in caplog.records if "variable frame rate" in record.getMessage()]
    assert len(told) == 1
    assert "1 of 1 videos" in told[0]
    assert "'clip" in told[0]
    manifest.save(tmp_path / "saved")
    for trial in Manifest.load(tmp_path / "saved").trials:
        check(media, manifest, trial, rows)


def check(media: SimpleNamespace, manifest: Manifest, trial: Trial, rows: int) -> None:
    path = manifest.path(trial, "video")
    assert trial.clock.num_frames == rows
    shown = [media.read_code(picture) for _, picture in read_frames(path, trial.clock, trial.id)]
    assert shown == [min(i, NUMBER - 1) for i in range(rows)]
    windows = AudioWindows(load_audio(path), trial.clock, 0.02)
    for i in range(0, NUMBER - 10, 10):
        window = np.abs(windows.read(np.array([i]))[0])
        assert window.max() > 0.1, i
        assert abs(int(window.argmax()) - len(window) // 2) <= 12, i  # Matroska rounds to milliseconds
    patches = LogMelPatches(load_audio(path), trial.clock, "centred")
    assert patches.valid[: NUMBER - 2].all()
    for i in range(20, NUMBER - 20, 10):  # a click is loudest in the middle of the patch of its picture
        loudness = np.exp(patches.read(np.array([i]))[0]).sum(axis=1)
        assert abs(int(loudness[44:52].argmax()) - 4) <= 1, i
        assert loudness[44:52].max() > 5 * np.median(loudness)
    starts = [max(0.0, float(time) - 0.01) for time in TIMES]  # a little before their pictures
    words = [Word(str(i), start, end) for i, (start, end) in enumerate(pairwise(starts))]
    assert spread_words(words, trial.clock).rows[: NUMBER - 2].tolist() == list(range(NUMBER - 2))


def test_labels_by_time_lie_at_the_times_of_the_pictures(tmp_path: Path, video: Callable[[Path], Path]) -> None:
    video(tmp_path / "videos" / "clip.mkv")
    write_text(tmp_path / "labels" / "clip.csv", "time,valence\n0,0\n6,0.6\n")
    labels = Folder().read(tmp_path).trial("clip").labels
    assert labels is not None
    np.testing.assert_allclose(labels[:NUMBER, 0], [float(time) / 10 for time in TIMES], atol=1e-4)


def test_rows_with_times_take_the_nearest_picture(
    tmp_path: Path, media: SimpleNamespace, video: Callable[[Path], Path]
) -> None:
    video(tmp_path / "raw_data" / "videos" / "1.mkv")
    write_text(tmp_path / "metadata" / "partition.csv", "Id,Partition\n1,train\n")
    for target in ("valence", "arousal"):
        rows = "".join(f"{time},0.1\n" for time in range(0, 6000, 250))
        write_text(tmp_path / "label_segments" / target / "1.csv", f"timestamp,value\n{rows}")
    manifest = MuSe().read(tmp_path)
    trial = manifest.trials[0]
    assert trial.clock == FrameClock(Fraction(4), 24)
    shown = [media.read_code(picture) for _, picture in read_frames(manifest.path(trial, "video"), trial.clock, "1")]
    assert shown == [min(range(NUMBER), key=lambda i: abs(TIMES[i] - Fraction(tick, 4))) for tick in range(24)]
