"""Answers for everybody in a video, and what is said where the followed face may be the wrong one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from cache.clock import FrameClock
from cache.corpus.manifest import Trial
from pipelines.ensembles.ensemble import Ensemble
from pipelines.stages.crops import remarks

Run = Callable[..., Result]
RUN = "work/models/fused/fold0/seed0"


def test_each_person_has_an_answer_and_a_row_of_the_sheet(trained: Path, video: Path, run: Run) -> None:
    """The demo shows one person, so that the answer is that of the largest face."""
    name = video.stem
    asked = (
        "predict",
        video,
        "--model",
        RUN,
        "--face",
        "all",
        "--out",
        "everybody",
        "--format",
        "csv",
        "--format",
        "json",
    )
    result = run(*asked)
    assert result.exit_code == 0, result.output
    run("predict", video, "--model", RUN, "--out", "answers")
    files = sorted(path.name for path in Path("everybody").iterdir() if path.is_file())
    assert files == [f"{name}#1.affect.json", f"{name}#1.csv", f"{name}.people.png"]
    answer = Path("everybody", f"{name}#1.csv").read_text()
    assert answer == Path("answers", f"{name}.csv").read_text()
    assert '"kept"' in run(*asked, "--json").stdout
    assert run(*asked, "--redo", "--overlay", "drawn.mp4").exit_code == 0
    assert Path("drawn.mp4").is_file()
    assert Path("everybody", f"{name}#1.csv").read_text() == answer


def test_who_has_no_face_has_no_people(trained: Path, video: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Ensemble, "recipes", {})
        result = run("predict", video, "--model", RUN, "--face", "all", "--out", "answers")
    assert result.exit_code == 1
    assert "gives an answer for each face, but the model reads no faces" in " ".join(result.stderr.split())
    result = run("predict", video, "--model", RUN, "--identity", "nobody", "--out", "answers", "--redo")
    assert result.exit_code == 1
    assert "expected foamliu, vggface2 or the path" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("face", "present", "other", "elsewhere", "kinds"),
    [
        ("largest", 34, 100, 0, ["wrong"]),
        ("left", 34, 100, 0, []),
        ("largest", 60, 100, 0, []),
        ("centre", 34, 0, 66, ["lost"]),
        ("largest", 0, 0, 0, []),
    ],
)
def test_what_is_remarkable(face: str, present: int, other: int, elsewhere: int, kinds: list[str]) -> None:
    trial = Trial("v", "v", "", FrameClock(25, 105), {}, face=face)  # type: ignore[arg-type]
    record = {"present": present, "other": other, "elsewhere": elsewhere, "cuts": 3, "num_frames": 105}
    found = remarks(trial, record)
    assert list(found) == kinds
    for text in found.values():
        assert str(present) in text
        assert str(other or elsewhere) in text
