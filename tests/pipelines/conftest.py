"""A small project on a small demo corpus, made once per run; tests work on copies."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from cache.corpus.manifest import Manifest
from pipelines.cli.commands import avfusion

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def finished(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A project with corpus, crops and features of three trials of two to three seconds."""
    return made_once("project", finish_project)


def finish_project(folder: Path) -> None:
    """Build the corpus and extract the features."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    freeze(params)
    params["corpus"]["settings"] = {"num_trials": 3, "num_subjects": 3, "min_s": 2.0, "max_s": 3.0}
    for section in params["extract"].values():
        section.pop("runtime", None)
    params["extract"]["conv1d"]["settings"] = {"window_s": 0.1}  # a fifth of the work
    params["matrix"] = yaml.safe_load((ROOT / "matrix.yaml").read_text(encoding="utf-8"))
    params["fusion"]["seeds"] = [0, 1]
    del params["fusion"]["workers"]
    params["fusion"]["train"] = {"epochs": 2}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    run_all(folder, ["corpus", "build"], ["extract", "--backbone", "mobilefacenet", "--backbone", "conv1d"])


def run_all(folder: Path, *commands: list[str]) -> None:
    """Run commands in a folder, which must succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands:
            result = CliRunner().invoke(avfusion, command)
            assert result.exit_code == 0, result.output


def change_params(folder: Path, change: Callable[[dict], None]) -> None:
    """Change the params.yaml of a folder."""
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(params)
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def freeze(params: dict) -> None:
    """Leave out the fine-tunings of the demo, and what is made of their weights: tests bring their own."""
    del params["finetune"]
    tuned = {name for name, section in params["extract"].items() if section["weights"] == "finetuned"}
    params["extract"] = {name: section for name, section in params["extract"].items() if name not in tuned}
    systems = params["fusion"]["systems"]
    params["fusion"]["systems"] = {
        name: system for name, system in systems.items() if tuned.isdisjoint(system["modalities"].values())
    }


@pytest.fixture(scope="session")
def trained_once(finished: Path, made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The project with two networks of system `fused`."""

    def fill(folder: Path) -> None:
        shutil.copytree(finished, folder, dirs_exist_ok=True)
        change_params(folder, lambda params: params["fusion"].update(folds={"number": 0}))
        run_all(folder, ["train", "--system", "fused"])

    return made_once("trained", fill)


@pytest.fixture
def enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Copy a project and make the copy the current folder."""

    def copy(source: Path) -> Path:
        folder = tmp_path / source.name.removesuffix("-once")
        shutil.copytree(source, folder)
        monkeypatch.chdir(folder)
        return folder

    return copy


@pytest.fixture
def project(finished: Path, enter: Callable[[Path], Path]) -> Path:
    """A copy of the finished project, as the current folder."""
    return enter(finished)


@pytest.fixture
def trained(trained_once: Path, enter: Callable[[Path], Path]) -> Path:
    """A copy of the project with trained networks, as the current folder."""
    return enter(trained_once)


@pytest.fixture
def media(finished: Path, tmp_path: Path) -> Path:
    """Videos of three people, and labels by frame, as corpus `folder` reads them."""
    folder = tmp_path / "my-videos"
    (folder / "labels").mkdir(parents=True)
    (folder / "videos").mkdir()
    for trial in Manifest.load(finished / "work/corpus").trials:
        shutil.copy(finished / "work/corpus/media" / trial.media["video"], folder / f"videos/{trial.id}.mp4")
        assert trial.labels is not None
        place = folder / f"labels/{trial.id}.csv"
        np.savetxt(place, trial.labels, "%.4f", ",", header="valence,arousal", comments="")
    return folder


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run a command of `avfusion` in this process."""
    return lambda *arguments: CliRunner().invoke(avfusion, [str(argument) for argument in arguments])


@pytest.fixture
def edit_params(project: Path) -> Callable[[Callable[[dict], None]], None]:
    """Change the project's params.yaml."""
    return lambda change: change_params(project, change)
