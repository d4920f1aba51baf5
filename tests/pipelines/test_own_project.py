"""A project of one's own: started anywhere, run to its end by the installed command, and what a lab may do wrong."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import Result

from cache.corpus.manifest import Manifest
from pipelines.cli.start import STARTED
from pipelines.project.params import EvaluateParams
from pipelines.project.params_file import read_params
from pipelines.stages.plan import CODE, PLOTS, plan_stages
from pipelines.starting.outdated import find_outdated

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
Run = Callable[..., Result]

pytestmark = pytest.mark.skipif(not (BIN / "avfusion").is_file(), reason="avfusion is not installed beside this Python")


@pytest.fixture
def media(finished: Path, tmp_path: Path) -> Path:
    """Videos of three people, and labels by frame, as `folder` reads them."""
    folder = tmp_path / "media"
    (folder / "labels").mkdir(parents=True)
    (folder / "videos").mkdir()
    manifest = Manifest.load(finished / "work/corpus")
    for trial in manifest.trials:
        shutil.copy(finished / "work/corpus/media" / trial.media["video"], folder / f"videos/{trial.id}.mp4")
        assert trial.labels is not None
        np.savetxt(folder / f"labels/{trial.id}.csv", trial.labels, "%.4f", ",", header="valence,arousal", comments="")
    return folder


def name_subjects(media: Path, subjects: str) -> None:
    names = sorted(path.stem for path in (media / "videos").iterdir())
    rows = [f"{name},{subject}," for name, subject in zip(names, subjects, strict=True)]
    (media / "subjects.csv").write_text("\n".join(["trial,subject,partition", *rows, ""]), encoding="utf-8")


def shell(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_folder_of_videos_becomes_a_report(
    media: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "lab/project"
    result = run("init", project, "--corpus", "folder", "--root", media, "--untrained")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in project.iterdir()) == sorted(
        [".dvc", ".dvcignore", ".gitignore", "README.md", "dvc.yaml", "params.yaml"]
    )
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    params["fusion"].update(seeds=[0], folds={"number": 0}, workers=1, train={"epochs": 2})
    del params["extract"]["vggish"], params["fusion"]["systems"]["fused"], params["fusion"]["systems"]["audio"]
    (project / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    done = shell(project, "dvc", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 system on partition `validation`" in (project / "results/report.md").read_text(encoding="utf-8")
    assert json.loads((project / "results/scores.json").read_text())["systems"].keys() == {"visual"}
    again = shell(project, "dvc", "repro")
    assert re.findall("Running stage '(.*)'", again.stdout) == ["plan"]
    assert_outdated_stages_are_known(project, monkeypatch)
    assert shell(project, "dvc", "plots", "show", "results/history.csv").returncode == 0
    video = next((media / "videos").iterdir())
    assert shell(project, "avfusion", "predict", str(video), "--model", "visual", "--out", "answers").returncode == 0
    with (project / "answers" / f"{video.stem}.csv").open(newline="") as file:
        assert float(next(csv.DictReader(file))["valence"]) == pytest.approx(0, abs=1)


def assert_outdated_stages_are_known(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a change would run again, with the first reason; nothing is written to find out."""
    with monkeypatch.context() as patch:
        patch.chdir(project)
        params = read_params()
        assert find_outdated(params) == {}
        crops = replace(params.crops, size=96)
        changed = find_outdated(replace(params, crops=crops))
        assert list(changed) == ["crops", "finetune", "extract@mobilefacenet", "train", "evaluate", "matrix", "report"]
        assert changed["crops"] == "'work/plan/crops.json' has changed"
        assert changed["train"] == "'features/receipts' will change"
        assert list(find_outdated(replace(params, evaluate=EvaluateParams(draws=10)))) == [
            "evaluate",
            "matrix",
            "report",
        ]
        text = Path("params.yaml").read_text(encoding="utf-8")
        Path("params.yaml").write_text(text.replace("epochs: 2", "epochs: 3"), encoding="utf-8")
        assert list(find_outdated(read_params())) == ["train", "evaluate", "report"]
        Path("params.yaml").write_text(text, encoding="utf-8")
        report = Path("results/report.md")
        kept = report.read_bytes()
        report.unlink()
        assert find_outdated(params) == {"report": "'results/report.md' is missing"}
        report.write_bytes(kept)


@pytest.mark.parametrize("corpus", STARTED)
def test_every_corpus_has_settings_that_can_be_read(corpus: str, tmp_path: Path, run: Run) -> None:
    assert run("init", tmp_path / "own", "--corpus", corpus).exit_code == 0
    params = read_params(tmp_path / "own/params.yaml")
    assert (params.corpus.name, params.corpus.root) == (corpus, "media")
    assert "/media\n" in (tmp_path / "own/.gitignore").read_text()
    text = (tmp_path / "own/README.md").read_text(encoding="utf-8")
    assert text.count("\n") == 10
    for word in re.findall(r"^    (?:avfusion|dvc) (\w+)", text, re.M):
        assert run(word, "--help").exit_code == 0 or word == "repro"


def test_stages_depend_on_nothing_outside_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """Every file that dvc.yaml needs and no other stage makes is written by stage `plan`, and what that writes is used."""
    assert run("init", tmp_path / "own", "--corpus", "folder").exit_code == 0
    monkeypatch.chdir(tmp_path / "own")
    (tmp_path / "own/media/videos").mkdir(parents=True)
    plan_stages(read_params())
    text = Path("dvc.yaml").read_text(encoding="utf-8")
    stages = yaml.safe_load(text)["stages"].values()
    needed = {each for stage in stages for each in stage.get("do", stage).get("deps", ())}
    assert all(each.startswith(("work/", "features/", "results/")) for each in needed)
    assert {each for each in needed if each.startswith("work/plan/code/")} == {f"work/plan/code/{x}.json" for x in CODE}
    assert set(re.findall("template: (.*)", text)) == {f"work/plan/plots/{x.name}" for x in (ROOT / PLOTS).iterdir()}
    written = re.findall(r"work/plan/[\w/]+\.json", text)
    assert all(Path(name).is_file() for name in written)
    before = Path("work/plan/code/fusion.json").read_text()
    monkeypatch.setattr("pipelines.stages.plan.digest_folder", lambda folder: folder.name)
    plan_stages(read_params())
    assert Path("work/plan/code/fusion.json").read_text() == '"fusion"\n' != before


@pytest.mark.parametrize("place", ["repository", "folder of a repository"])
def test_in_a_git_repository(tmp_path: Path, run: Run, place: str) -> None:
    shell(tmp_path, "git", "init", "-q")
    project = tmp_path if place == "repository" else tmp_path / "own"
    assert run("init", project, "--corpus", "folder").exit_code == 0
    assert "no_scm" not in (project / ".dvc/config").read_text()
    assert shell(project, "dvc", "stage", "list").returncode == 0


def test_nothing_is_overwritten(tmp_path: Path, run: Run) -> None:
    (tmp_path / "README.md").write_text("mine")
    result = run("init", tmp_path, "--corpus", "folder")
    assert (result.exit_code, list(tmp_path.iterdir())) == (1, [tmp_path / "README.md"])
    assert f"'{tmp_path / 'README.md'}' exists already, and nothing was written. Give another folder" in result.stderr
    assert run("init", tmp_path / "README.md", "--corpus", "folder").exit_code == 1
    assert (tmp_path / "README.md").read_text() == "mine"


def test_places_that_are_refused(tmp_path: Path, run: Run) -> None:
    assert run("init", tmp_path / "own", "--corpus", "muse").exit_code == 0
    result = run("init", tmp_path / "own/inner", "--corpus", "folder")
    assert result.exit_code == 1
    assert f"lies in the DVC project '{tmp_path / 'own'}'" in result.stderr
    assert not (tmp_path / "own/inner").exists()
    result = run("init", tmp_path / "other", "--corpus", "folder", "--root", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert f"no folder '{tmp_path / 'nowhere'}'" in result.stderr
    result = run("init", tmp_path / "other", "--corpus", "folder", "--root", tmp_path / "own")
    assert "does not look like corpus 'folder'" in result.stderr
    assert result.exit_code == 0


def remove_labels(media: Path) -> None:
    shutil.rmtree(media / "labels")


def break_videos(media: Path) -> None:
    for path in (media / "videos").iterdir():
        path.write_bytes(b"no video")


def shorten_labels(media: Path) -> None:
    path = next((media / "labels").iterdir())
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-9]))


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (remove_labels, 0, "No trial has labels, .* Add the labels"),
        (lambda media: name_subjects(media, "AAA"), 0, "Only subject 'A' has labels, .* Label another one"),
        (lambda media: name_subjects(media, "AAB"), 0, "^$"),
        (break_videos, 1, "has 3 faults.*truncated, damaged or of an unknown format.*Copy or download it again"),
        (shorten_labels, 1, r"labels but \d+ video frames; a difference of 2 is allowed. Check"),
    ],
)
def test_what_a_lab_may_get_wrong(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, spoil: Callable, code: int, said: str
) -> None:
    """It is said when the corpus is read, before hours of extraction, with what to do."""
    spoil(media)
    assert run("init", tmp_path / "own", "--corpus", "folder", "--root", media).exit_code == 0
    monkeypatch.chdir(tmp_path / "own")
    result = run("corpus", "build")
    assert result.exit_code == code
    assert re.search(said, result.stderr, re.S), result.stderr
