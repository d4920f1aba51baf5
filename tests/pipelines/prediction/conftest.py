"""The small project with a trained system."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from cache.corpus.manifest import Manifest
from pipelines.cli.commands import avfusion


@pytest.fixture(scope="session")
def trained_once(finished: Path, made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The project with two networks of system `fused`."""

    def fill(folder: Path) -> None:
        shutil.copytree(finished, folder, dirs_exist_ok=True)
        path = folder / "params.yaml"
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
        params["fusion"]["folds"] = {"number": 0}
        path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            result = CliRunner().invoke(avfusion, ["train", "--system", "fused"])
            assert result.exit_code == 0, result.output

    return made_once("trained", fill)


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that project, as the current folder."""
    folder = tmp_path / "trained"
    shutil.copytree(trained_once, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def video(trained: Path) -> Path:
    """The video of the second trial, which has a label for each picture."""
    manifest = Manifest.load(Path("work/corpus"))
    return manifest.path(manifest.trials[1], "video")
