"""A command with nothing to do imports none of the libraries that would do it, and looks again as soon as anything has changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from fusion.training import checkpoint_files
from pipelines.finished import state
from pipelines.project import runs
from pipelines.report import page_tables

Run = Callable[..., Result]
ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "matplotlib", "bokeh", "scipy", "sklearn", "transformers"}
EXTRACT = ("extract", "--backbone", "conv1d", "--backbone", "mobilefacenet")


def shrink(params: dict) -> None:
    fusion = params["fusion"]
    fusion.update(
        seeds=[0],
        train={"epochs": 1, "window": 30, "hop": 30},
        folds={"kind": "partition"},
        systems={"audio": fusion["systems"]["audio"]},
    )
    params["evaluate"] = {"draws": 10}
    params.pop("matrix")


def run_all(run: Run, *commands: tuple[str, ...]) -> None:
    for command in commands:
        result = run(*command)
        assert result.exit_code == 0, (command, result.output)


@pytest.fixture
def extracted(project: Path, run: Run, edit_params: Callable, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with features, noted although its files are new."""
    monkeypatch.setattr(state, "_SETTLED_NS", 0)
    edit_params(shrink)
    run_all(run, ("crops",), EXTRACT)
    return project


@pytest.fixture
def done(extracted: Path, run: Run) -> Path:
    """A project in which everything was run."""
    run_all(run, ("train",), ("evaluate",), ("report",))
    return extracted


def imported(*command: str) -> tuple[set[str], str]:
    """Heavy libraries that a command imports in a process of its own, and what it prints."""
    program = (
        "import sys; from pipelines.cli.commands import avfusion\n"
        f"avfusion({list(command)!r}, standalone_mode=False)\n"
        f"print('imported:', *({HEAVY!r} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    said, _, names = result.stdout.rpartition("imported:")
    return set(names.split()), said


def test_nothing_heavy_is_imported_where_there_is_nothing_to_do(done: Path) -> None:
    for command in (("crops",), EXTRACT, ("train",), ("report",)):
        names, said = imported(*command)
        assert names == set(), command
        assert said.strip()


def test_a_finished_extraction_says_what_it_keeps(extracted: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pipelines.clusters.cluster", None)  # an import of it fails
    result = run(*EXTRACT, "--json")
    rows = {row["features"]: (row["computed"], row["kept"]) for row in json.loads(result.stdout)}
    assert rows == {"conv1d": (0, 3), "mobilefacenet": (0, 3)}
    assert "random weights" in result.stderr


def change_medium(project: Path) -> None:
    path = next((project / "work/corpus/media").rglob("*.mp4"))
    os.utime(path, ns=(1, 1))


def remove_features(project: Path) -> None:
    next((project / "features/conv1d.zarr").glob("*/*/c/0/0")).unlink()


def change_receipt(project: Path) -> None:
    path = project / "features/receipts/conv1d.json"
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize("change", [change_medium, remove_features, change_receipt])
def test_an_extraction_looks_again_where_a_file_has_changed(
    extracted: Path, run: Run, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    change(extracted)
    monkeypatch.setitem(sys.modules, "pipelines.clusters.cluster", None)
    assert run(*EXTRACT).exit_code == 1


def test_and_where_settings_have(
    extracted: Path, run: Run, edit_params: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_params(lambda params: params["extract"]["conv1d"].update(weights="random:7"))
    monkeypatch.setitem(sys.modules, "pipelines.clusters.cluster", None)
    assert run(*EXTRACT).exit_code == 1
    assert run("extract", "--backbone", "mobilefacenet").exit_code == 0


def test_a_report_that_was_edited_is_written_again(done: Path, run: Run) -> None:
    path = done / "results/report.md"
    before = path.read_bytes()
    path.write_text("edited", encoding="utf-8")
    assert run("report").exit_code == 0
    assert path.read_bytes() == before


def test_files_that_have_just_changed_are_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "medium").write_text("new", encoding="utf-8")
    state.Watch("new", {}, [Path("medium")], []).keep([{"kept": 1}])
    assert state.Watch("new", {}, [Path("medium")], []).rows() is None
    monkeypatch.setattr(state, "_SETTLED_NS", 0)
    state.Watch("new", {}, [Path("medium")], []).keep([{"kept": 1}])
    assert state.Watch("new", {}, [Path("medium")], []).rows() == [{"kept": 1}]
    assert state.Watch("new", {"other": 1}, [Path("medium")], []).rows() is None


def test_parameters_are_those_that_were_counted_in_training(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = next(runs.saved_runs(Path("work/models"), "audio"))
    document, _ = checkpoint_files.read_files(folder)
    built = sum(each.numel() for each in runs.load_networks(folder)[0].model.parameters())
    assert document.parameters == built > 0
    read = checkpoint_files.read_files
    older = document.model_copy(update={"parameters": None})
    monkeypatch.setattr(
        checkpoint_files, "read_files", lambda path: (older, read(path)[1])
    )  # as older versions left it
    assert page_tables._count_parameters(Path("work/models"), "audio") == built
