"""A run with nothing to do writes nothing: it ends well where nothing can be written, and no link is written into."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from cache.places.folders import LocalFolder

Run = Callable[..., Result]
COMMANDS = (("train",), ("evaluate",), ("matrix",), ("report",), ("compare",))


def shrink(params: dict) -> None:
    systems = {
        "audio": params["fusion"]["systems"]["audio"],
        "linear": {"model": "linear", "modalities": {"audio": "conv1d"}},
    }
    params["fusion"].update(seeds=[0, 1], train={"epochs": 1, "window": 30, "hop": 30}, systems=systems)
    params["evaluate"] = {"draws": 10}
    params["matrix"] = {"seeds": [0], "systems": {"linear_a": systems["linear"]}}


def look(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of everything below, folders too: a file that came and went changes those."""
    found = {path.relative_to(folder).as_posix(): path.lstat() for path in folder.rglob("*")}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


def run_all(run: Run, *more: tuple[str, ...]) -> None:
    for command in (*COMMANDS, *more):
        result = run(*command)
        assert result.exit_code == 0, (command, result.output)


@pytest.fixture
def done(project: Path, run: Run, edit_params: Callable) -> Path:
    """A project in which everything was run."""
    edit_params(shrink)
    run_all(run)
    return project


def refuse(self: LocalFolder, name: str, content: bytes) -> None:
    raise PermissionError(f"Read-only file system: '{self.path / name}'")


def test_a_second_run_writes_nothing(done: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = look(done)
    monkeypatch.setattr(LocalFolder, "write", refuse)
    run_all(run)
    assert look(done) == before


def test_nor_does_one_without_a_matrix(done: Path, run: Run, edit_params: Callable) -> None:
    edit_params(lambda params: params.pop("matrix"))
    assert run("matrix", "--if-any").exit_code == 0
    before = look(done)
    assert run("matrix", "--if-any").exit_code == 0
    assert look(done) == before


def test_networks_that_are_copies_are_left_as_they_are(done: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `dvc checkout`, `cp -r` and file systems without links leave them."""
    shutil.copytree(done / "work/models", done / "copy")
    shutil.rmtree(done / "work/models")
    (done / "copy").rename(done / "work/models")
    before = look(done)
    monkeypatch.setattr(LocalFolder, "write", refuse)
    assert run("train").exit_code == 0
    assert look(done) == before


def test_links_are_replaced_and_never_written_into(done: Path, run: Run, edit_params: Callable) -> None:
    """As DVC's links into its own cache, which other versions of the project share."""
    kept = done / "kept"
    outputs = [
        path for folder in ("results", "work/predictions") for path in (done / folder).rglob("*") if path.is_file()
    ]
    for path in outputs:
        (kept / path.relative_to(done)).parent.mkdir(parents=True, exist_ok=True)
        os.link(path, kept / path.relative_to(done))
    contents = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    edit_params(lambda params: params["fusion"]["train"].update(epochs=2))
    run_all(run)
    assert (done / "results/history.csv").read_bytes() != contents[kept / "results/history.csv"]
    assert {path: path.read_bytes() for path in contents} == contents


def test_metrics_of_systems_that_are_no_more_are_removed(done: Path, run: Run, edit_params: Callable) -> None:
    (done / "results/metrics/.gitignore").write_text("", encoding="utf-8")
    edit_params(lambda params: params["fusion"]["systems"].pop("linear"))
    run_all(run)
    assert sorted(path.name for path in (done / "results/metrics").iterdir()) == [".gitignore", "audio.json"]
