"""RECOLA as published and as of AVEC 2016: ratings every 40 ms, media by name, every fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from cache.errors import CorpusError, MissingFileError
from extract.corpora.recola import GOLD, RATERS, Config, Recola

TICKS = 26  # a second, and the row at its end


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def sound(path: Path, seconds: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(16_000 * seconds)), 16_000)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    for name in ("P16", "P17"):
        for target, sign in (("arousal", 1), ("valence", -1)):
            rows = [f"{0.04 * tick:.2f};{sign * 0.01 * tick:.2f};{sign * 0.03 * tick:.2f}" for tick in range(TICKS)]
            write(tmp_path / RATERS / target / f"{name}.csv", "time;FM1 ;FF1", *rows)
        sound(tmp_path / "RECOLA-Audio-recordings" / f"{name}.wav")
    return tmp_path


@pytest.fixture
def handed_out(tmp_path: Path) -> Path:
    for name in ("train_1", "dev_1"):
        for target in ("arousal", "valence"):
            rows = [f"'{name}',{0.04 * tick:.2f},{0.02 * tick:.2f}" for tick in range(TICKS)]
            header = [
                "@relation x",
                "@attribute name string",
                "@ATTRIBUTE frameTime numeric",
                "@attribute Gold numeric",
                "@data",
            ]
            write(tmp_path / GOLD / target / f"{name}.arff", *header, *rows)
    for name in ("train_1", "dev_1", "test_1"):
        sound(tmp_path / "recordings_audio" / f"{name}.wav", 2.0)
    return tmp_path


def test_the_label_is_the_mean_of_the_raters(published: Path) -> None:
    manifest = Recola().read(published)
    assert [(trial.id, trial.partition) for trial in manifest.trials] == [("P16", ""), ("P17", "")]
    trial = manifest.trials[0]
    assert (float(trial.clock.rate), trial.clock.num_frames) == (25.0, TICKS)
    expected = np.stack([-0.02 * np.arange(TICKS), 0.02 * np.arange(TICKS)], axis=1)
    assert np.allclose(trial.labels, expected, atol=1e-6)
    assert trial.media == {"audio": "RECOLA-Audio-recordings/P16.wav"}


def test_the_challenge_s_partitions_and_its_unrated_part(handed_out: Path) -> None:
    manifest = Recola().read(handed_out)
    found = {trial.id: (trial.partition, trial.clock.num_frames, trial.labels is None) for trial in manifest.trials}
    assert found == {
        "train_1": ("train", TICKS, False), "dev_1": ("validation", TICKS, False), "test_1": ("test", 50, True),
    }  # fmt: skip
    assert np.allclose(manifest.trials[0].labels[:, 0], 0.02 * np.arange(TICKS))


def test_one_target_alone(published: Path) -> None:
    manifest = Recola(Config(targets=("arousal",))).read(published)
    assert manifest.names == ("arousal",)
    with pytest.raises(MissingFileError, match="dominance"):
        Recola(Config(targets=("dominance",))).read(published)


@pytest.mark.parametrize(
    ("line", "values"),
    [(3, "0.08;0.1"), (3, "0.08;x;0"), (5, "0.16;0;1.5"), (4, "0.13;0;0"), (0, "time,FM1,FF1")],
    ids=["short", "word", "range", "time", "commas"],
)
def test_faulty_ratings_are_named(published: Path, line: int, values: str) -> None:
    path = published / RATERS / "valence" / "P17.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[line] = values
    write(path, *lines)
    (published / "RECOLA-Audio-recordings" / "P16.wav").unlink()
    with pytest.raises(CorpusError) as error:
        Recola().read(published)
    assert "P17.csv" in str(error.value)
    assert values[:9] in str(error.value)
    assert "'P16'" in str(error.value)


def test_targets_of_different_length(published: Path) -> None:
    path = published / RATERS / "valence" / "P17.csv"
    write(path, *path.read_text(encoding="utf-8").splitlines()[:-3])
    with pytest.raises(CorpusError, match=rf"{TICKS - 3} in .*P17.csv"):
        Recola().read(published)
