"""What is asked for wrongly is refused before anything is computed, with what to do; a sound file among videos is not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import Result

from pipelines.prediction import prediction

Run = Callable[..., Result]
RUN = "work/models/fused/fold0/seed0"


@pytest.fixture
def sound(trained: Path) -> Path:
    """A second of noise without a picture."""
    path = Path("noise.wav")
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    return path


def test_a_sound_file_has_no_overlay_but_everything_else(trained: Path, video: Path, sound: Path, run: Run) -> None:
    asked = ("predict", video, sound, "--model", RUN, "--out", "answers", "--overlay", "drawn", "--plot", "plots")
    result = run(*asked)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert f"'{sound.resolve()}' has no pictures to draw on, so that it has no overlay." in said
    assert {path.name for path in Path("drawn").iterdir()} == {f"{video.stem}.mp4"}
    assert {path.stem for path in Path("plots").iterdir()} == {path.stem for path in Path("answers").glob("*.csv")}
    assert run(*asked, "--json").stdout.count('"kept"') == 2


def test_an_overlay_of_a_sound_file_alone_is_refused(sound: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "answer_all", None)
    result = run("predict", sound, "--model", RUN, "--out", "answers", "--overlay", "o.mp4")
    assert result.exit_code == 1
    assert f"--overlay 'o.mp4' draws on pictures, but '{sound.resolve()}' has only sound. Use --plot" in result.stderr
    assert not Path("answers").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["-"], "'-' is standard input, which is read with --live. Add it"),
        (["pipe"], "'pipe' is no file but a pipe or a device, which is read with --live. Add it"),
        (["a.mp4", "--window", "10", "--hop", "5000"], "--hop is 5000, expected 1 to 10, the window: frames between"),
        (["a.mp4", "--postprocess", "foo"], "names 'foo', expected one of median, exponential, savgol, delay, scale."),
    ],
)
def test_what_cannot_be_predicted_is_a_matter_of_usage(
    more: list[str], said: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    result = run("predict", *more, "--model", "run", "--out", "answers")
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split()), result.stderr
