"""A small project on a small demo corpus, made once per run; tests work on copies."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

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
    params["extract"]["conv1d"]["settings"] = {"window_s": 0.1}  # a fifth of the work
    params["matrix"] = yaml.safe_load((ROOT / "matrix.yaml").read_text(encoding="utf-8"))
    params["fusion"]["seeds"] = [0, 1]
    del params["fusion"]["workers"]
    params["fusion"]["train"] = {"epochs": 2}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in (["corpus", "build"], ["extract", "--backbone", "mobilefacenet", "--backbone", "conv1d"]):
            result = CliRunner().invoke(avfusion, command)
            assert result.exit_code == 0, result.output


def freeze(params: dict) -> None:
    """Leave out the fine-tunings of the demo, and what is made of their weights: tests bring their own."""
    del params["finetune"]
    tuned = {name for name, section in params["extract"].items() if section["weights"] == "finetuned"}
    params["extract"] = {name: section for name, section in params["extract"].items() if name not in tuned}
    systems = params["fusion"]["systems"]
    params["fusion"]["systems"] = {
        name: system for name, system in systems.items() if tuned.isdisjoint(system["modalities"].values())
    }


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished project, as the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run a command of `avfusion` in this process."""
    return lambda *arguments: CliRunner().invoke(avfusion, [str(argument) for argument in arguments])


@pytest.fixture
def edit_params(project: Path) -> Callable[[Callable[[dict], None]], None]:
    """Change the project's params.yaml."""

    def edit(change: Callable[[dict], None]) -> None:
        path = project / "params.yaml"
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
        change(params)
        path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")

    return edit
