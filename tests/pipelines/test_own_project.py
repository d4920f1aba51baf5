"""A project of one's own: started anywhere, run to its end by the installed command, and what a lab may do wrong."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from pipelines.cli.start import STARTED
from pipelines.project.params_file import read_params
from pipelines.stages.plan import CODE, PLOTS, plan_stages

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
Run = Callable[..., Result]

pytestmark = pytest.mark.skipif(not (BIN / "avfusion").is_file(), reason="avfusion is not installed beside this Python")


def name_subjects(media: Path, subjects: str) -> None:
    names = sorted(path.stem for path in (media / "videos").iterdir())
    rows = [f"{name},{subject}," for name, subject in zip(names, subjects, strict=True)]
    (media / "subjects.csv").write_text("\n".join(["trial,subject,partition", *rows, ""]), encoding="utf-8")


def shell(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)


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


@pytest.mark.parametrize("left", [[], ["params.yaml"], ["params.yaml", "dvc.yaml", ".gitignore"]])
def test_an_interrupted_start_goes_on(tmp_path: Path, run: Run, left: list[str]) -> None:
    whole = tmp_path / "whole/own"
    assert run("init", whole, "--corpus", "folder").exit_code == 0
    begun = tmp_path / "begun/own"
    shutil.copytree(
        whole, begun, ignore=lambda folder, names: set(names) - {*left, ".dvc", *os.listdir(whole / ".dvc")}
    )
    (begun / ".dvc/cache").mkdir()
    assert run("init", begun, "--corpus", "folder").exit_code == 0
    for path in (path for path in whole.rglob("*") if path.is_file() and "tmp" not in path.parts):
        assert (begun / path.relative_to(whole)).read_bytes() == path.read_bytes()
    assert (begun / ".dvc/cache").is_dir()
    (begun / "README.md").unlink()
    (begun / "params.yaml").write_text("mine")
    result = run("init", begun, "--corpus", "folder")
    assert (result.exit_code, f"'{begun / 'params.yaml'}' exists already" in result.stderr) == (1, True)


def test_a_start_below_a_file_or_with_dvc_settings_of_others(tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").touch()
    result = run("init", tmp_path / "file/a/b", "--corpus", "folder")
    assert (result.exit_code, f"'{tmp_path / 'file'}' is a file, expected a folder" in result.stderr) == (1, True)
    (tmp_path / "own/.dvc").mkdir(parents=True)
    (tmp_path / "own/.dvc/config").write_text("[core]\n    remote = mine\n")
    result = run("init", tmp_path / "own", "--corpus", "folder")
    assert (result.exit_code, f"'{tmp_path / 'own/.dvc'}' exists already" in result.stderr) == (1, True)


def test_what_is_to_be_typed_next_is_quoted(tmp_path: Path, run: Run) -> None:
    place, root = tmp_path / """o'dd # "dir\"""", tmp_path / """my 'vi # deos"""
    root.mkdir()
    result = run("init", place, "--corpus", "folder", "--root", root)
    words = re.search(r"Next: cd (.*), then as", result.stderr)
    assert words is not None
    assert shlex.split(words[1]) == [str(place)]
    (check,) = re.findall(r"^    (avfusion corpus check .*)$", (place / "README.md").read_text(), re.M)
    assert shlex.split(check)[-1] == str(root)


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
