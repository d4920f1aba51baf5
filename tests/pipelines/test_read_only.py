"""On a file system that nobody can write to, commands that have nothing to do end well and say what they always say."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from cache.places.folders import LocalFolder

ROOT = Path(__file__).parents[2]
Run = Callable[..., Result]
EXTRACT = ("extract", "--backbone", "conv1d", "--backbone", "mobilefacenet")
LOOSE = ("extract", "--backbone", "conv1d", "--weights", "random", "--out", "out", "a.mp4")
MADE = (
    ("plan",),
    ("crops",),
    EXTRACT,
    ("extract", "--if-read", "--backbone", "facenet"),
    ("transcribe",),
    ("train",),
    ("evaluate",),
    ("matrix",),
    ("matrix", "--if-any"),
    ("report",),
    LOOSE,
    ("transcribe", "--out", "words", "a.mp4"),
)
READ = (
    ("compare",),
    (*EXTRACT, "--dry-run"),
    ("cache", "ls"),
    ("cache", "info", "conv1d"),
    ("cache", "verify"),
    ("corpus", "check", "work/corpus/media"),
    ("models", "ls"),
    ("params",),
)
PROGRAM = """
import json, sys
from click.testing import CliRunner
from pipelines.cli.commands import avfusion
try:
    open("probe", "w")
    sys.exit("the folder can be written to")
except OSError:
    pass
results = [CliRunner().invoke(avfusion, command) for command in json.load(sys.stdin)]
print(json.dumps([[result.exit_code, result.stdout, result.stderr] for result in results]))
"""
MOUNT = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && cd "$1" && exec "$2" -c "$3"'


@pytest.fixture
def done(project: Path, run: Run, edit_params: Callable) -> Path:
    """A project in which everything was run, with a loose file beside it, its features and its transcript."""

    def shrink(params: dict) -> None:
        system = {"model": "linear", "modalities": {"audio": "conv1d"}}
        params["fusion"].update(seeds=[0], train={"epochs": 1}, systems={"linear": system})
        params["evaluate"] = {"draws": 10}
        params["matrix"] = {"seeds": [0], "systems": {"linear_a": system}}

    edit_params(shrink)
    shutil.copy(next((project / "work/corpus/media").rglob("*.mp4")), project / "a.mp4")
    (project / "words").mkdir()
    (project / "words/a.json").write_text('{"words": []}', encoding="utf-8")
    for command in MADE:
        result = run(*command)
        assert result.exit_code == 0, (command, result.output)
    return project


def fingerprinted(command: tuple[str, ...], project: Path) -> list[str]:
    """The command, with a fingerprint where `cache info` wants one."""
    if command[:2] != ("cache", "info"):
        return list(command)
    receipt = json.loads((project / "features/receipts/conv1d.json").read_text(encoding="utf-8"))
    return ["cache", "info", receipt["fingerprint"]]


def told(result: Result) -> list[Any]:
    return [result.exit_code, result.stdout, result.stderr]


def mounted(folder: Path, commands: list[list[str]]) -> list[list[Any]]:
    """Run commands in a folder that is mounted read-only for them alone; skips where that is not allowed."""
    tool = shutil.which("unshare")
    if tool is None:
        pytest.skip("there is no 'unshare' here")
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    arguments = [tool, *user, "--mount", "sh", "-c", MOUNT, "sh", str(folder), sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    if subprocess.run([*arguments, ""], capture_output=True, stdin=subprocess.DEVNULL).returncode:
        pytest.skip("no folder can be mounted here")
    result = subprocess.run(
        [*arguments, PROGRAM], input=json.dumps(commands), capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_nothing_to_do_on_a_read_only_mount(done: Path, run: Run) -> None:
    commands = [fingerprinted(command, done) for command in MADE + READ]
    expected = [told(run(*command)) for command in commands]
    for command, before, found in zip(commands, expected, mounted(done, commands), strict=True):
        assert found[0] == 0, (command, found)
        assert found[1] == before[1], command


@pytest.mark.slow
def test_something_to_do_on_a_read_only_mount_is_a_sentence(done: Path) -> None:
    commands = [["crops", "--redo"], [*EXTRACT, "--redo"], ["train", "--redo"], [*LOOSE, "--redo"]]
    for command, found in zip(commands, mounted(done, commands), strict=True):
        assert found[0] == 1, (command, found)
        assert "Error: " in found[2], command
        assert "Read-only" in found[2], command


@pytest.mark.slow
def test_a_corpus_built_on_a_read_only_mount_names_the_path(project: Path, edit_params: Callable) -> None:
    edit_params(lambda params: params["corpus"]["settings"].update(seed=8))
    ((code, shown, said),) = mounted(project, [["corpus", "build"]])
    assert (code, shown) == (1, "")
    assert re.fullmatch(r"Error: .*'work/corpus\S*' \(.*Read-only.*\n", said), said


def refuse_changes(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let whatever would change this folder fail as on a read-only file system: `mkdir` looks first, `unlink` does not."""

    def refusing(name: str) -> Callable[..., Any]:
        call = getattr(os, name)

        def refuse(*arguments: Any, **options: Any) -> Any:
            places = [os.path.abspath(argument) for argument in arguments if isinstance(argument, str | Path)]
            below = [place for place in places if Path(place).is_relative_to(folder)]
            if not below or options.get("dir_fd") is not None:
                return call(*arguments, **options)
            code = errno.EEXIST if name == "mkdir" and os.path.lexists(below[0]) else errno.EROFS
            raise OSError(code, os.strerror(code), below[0])

        return refuse

    def refuse_file(self: LocalFolder, name: str, content: bytes) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self.path / name))

    for name in ("unlink", "rmdir", "rename", "replace", "link", "symlink", "utime", "mkdir"):
        patch.setattr(os, name, refusing(name))
    for name in ("write", "create", "write_array"):
        patch.setattr(LocalFolder, name, refuse_file)


def look(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of everything below, folders too: a file that came and went changes those."""
    found = {path.relative_to(folder).as_posix(): path.lstat() for path in folder.rglob("*")}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


@pytest.mark.slow
def test_nothing_to_do_changes_nothing(done: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = [fingerprinted(command, done) for command in MADE + READ]
    expected, before = [told(run(*command)) for command in commands], look(done)
    with monkeypatch.context() as patch:
        refuse_changes(done, patch)
        found = [told(run(*command)) for command in commands]
    assert found == expected
    assert look(done) == before


def test_no_matrix_changes_nothing(
    project: Path, run: Run, edit_params: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_params(lambda params: params.pop("matrix"))
    assert run("matrix", "--if-any").exit_code == 0
    before = look(project)
    refuse_changes(project, monkeypatch)
    result = run("matrix", "--if-any")
    assert result.exit_code == 0, result.stderr
    assert look(project) == before


def test_removing_what_is_absent_asks_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    LocalFolder(tmp_path).remove("dangling")
    assert not os.path.lexists(tmp_path / "dangling")
    refuse_changes(tmp_path, monkeypatch)
    LocalFolder(tmp_path).remove("absent")
