"""The organisers' sample: handed in as it is, and with rows after the last frame of a trial."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from click.testing import Result

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.errors import CorpusError
from pipelines.submission import abaw

HEADER = "image_location,valence,arousal\n"


def write(path: Path, *rows: str) -> Path:
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def test_the_sample_as_it_was_handed_out_has_no_predictions(tmp_path: Path, run: Callable[..., Result]) -> None:
    for name, rows in (("empty", ["a/1.jpg,,", "a/2.jpg,,"]), ("zeros", ["a/1.jpg,0,0", "a/2.jpg,0,0"])):
        sample = write(tmp_path / f"{name}.txt", *rows)
        copy = Path(shutil.copy(sample, tmp_path / "copy.txt"))
        result = run("submit", "abaw", "--sample", sample, "--check", copy)
        assert (result.exit_code, "is the organisers' sample as it was handed out" in result.stderr) == (1, True)
        with copy.open("a") as file:
            file.write("\n")
        if name == "empty":
            with pytest.raises(CorpusError, match="1 fault:\n  has rows without values, as a sample"):
                abaw.check(copy, abaw.read_sample(sample))
    absent = run("submit", "abaw", "--sample", sample, "--check", "nowhere.txt")
    assert (absent.exit_code, "'nowhere.txt'" in absent.stderr) == (1, True)


def test_a_missing_header_is_the_only_fault(tmp_path: Path) -> None:
    sample = abaw.read_sample(write(tmp_path / "sample.txt", "a/1.jpg,,", "a/2.jpg,,"))
    (tmp_path / "own.txt").write_text("a/1.jpg,0.1,0.2\na/2.jpg,0.1,0.2\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="1 fault:\n  line 1: .*, expected 'image_location,valence,arousal'"):
        abaw.check(tmp_path / "own.txt", sample)


def test_rows_beyond_the_end_are_named_by_trial_and_line(tmp_path: Path) -> None:
    clock = {"video59": 3, "video59_right": 2}
    trials = tuple(Trial(name, name, "test", FrameClock(Fraction(4), count), {}) for name, count in clock.items())
    manifest = Manifest(tmp_path, trials)
    rows = ["video59/00003.jpg", "video59_right/00003.jpg", "", "video59_right/00009.jpg", "video59/00004.jpg"]
    found = abaw.say_repeated(abaw.read_sample(write(tmp_path / "sample.txt", *rows)), manifest)
    assert found == (
        "3 rows of the sample are after the last frame of the trial and repeat its prediction: 2 rows of 'video59_right', which has 2 "
        "frames, from line 3; 1 row of 'video59', which has 3 frames, from line 6."
    )
    assert abaw.say_repeated(abaw.read_sample(write(tmp_path / "sample.txt", rows[0])), manifest) == ""
