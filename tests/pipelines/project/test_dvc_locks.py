"""`avfusion unlock`: what a killed DVC leaves in `.dvc/tmp`, with the real DVC, and the cases that a test can write down."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

DVC = Path(sys.executable).with_name("dvc")
NEEDS_DVC = pytest.mark.skipif(not DVC.is_file(), reason="dvc is not installed beside this Python")
STAGES = """stages:
  hello:
    cmd: echo hello > out.txt
    outs: [out.txt]
  slow:
    cmd: echo > begun && sleep 60
    outs: [slow.txt]
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of DVC's locks in a project without any, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".dvc" / "tmp"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def repository(temporary: Path) -> Path:
    """A repository of DVC's with two stages, of which one ends at once and one does not."""
    folder = temporary.parents[1]
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n", encoding="utf-8")
    (folder / "dvc.yaml").write_text(STAGES, encoding="utf-8")
    return folder


@pytest.fixture
def dead_pid() -> int:
    """Number of a process that was."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def slow_dvc(repository: Path) -> Iterator[subprocess.Popen]:
    """A DVC in the middle of a stage."""
    process = subprocess.Popen(
        [str(DVC), "repro", "slow"],
        cwd=repository,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (repository / "begun").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # the test may have killed it already
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def repro(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run([str(DVC), "repro", "--force", "hello"], cwd=folder, capture_output=True, text=True)


@NEEDS_DVC
@pytest.mark.slow
@pytest.mark.parametrize("content", ["", '{"write": {"/out', "[]"])
def test_dvc_runs_again_after_its_table_was_left_damaged(
    repository: Path, run: Callable[..., Result], content: str
) -> None:
    assert repro(repository).returncode == 0
    table = repository / ".dvc/tmp/rwlock"
    assert json.loads(table.read_text()) is not None
    table.write_text(content)
    refused = repro(repository)
    assert refused.returncode != 0
    assert "RWLock-file" in refused.stderr

    result = run("unlock")
    assert result.exit_code == 0
    assert str(table) in result.stdout
    assert ("is empty" in result.stdout) == (content == "")
    assert not table.exists()
    assert repro(repository).returncode == 0
    again = run("unlock")
    assert (again.exit_code, "nothing to unlock" in again.stdout) == (0, True)


@NEEDS_DVC
@pytest.mark.slow
def test_a_running_dvc_is_left_alone(repository: Path, slow_dvc: subprocess.Popen, run: Callable[..., Result]) -> None:
    table = repository / ".dvc/tmp/rwlock"
    before = table.read_bytes()
    for content in (before, b""):  # another DVC may have been killed meanwhile
        table.write_bytes(content)
        result = run("unlock")
        assert result.exit_code == 1
        assert f"process {slow_dvc.pid}" in result.stderr
        assert table.read_bytes() == content
    table.write_bytes(before)
    os.killpg(slow_dvc.pid, signal.SIGKILL)
    slow_dvc.wait()
    result = run("unlock")
    assert result.exit_code == 0
    assert str(slow_dvc.pid) in result.stdout
    assert "by itself" in result.stdout
    assert table.read_bytes() == before


@pytest.mark.parametrize("name", ["lock", "rwlock.lock"])
def test_a_lock_that_is_held_is_a_running_dvc(temporary: Path, run: Callable[..., Result], name: str) -> None:
    (temporary / "rwlock").touch()
    (temporary / name).write_text(" 4711\n")
    with (temporary / name).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = run("unlock")
    assert result.exit_code == 1
    assert "process 4711" in result.stderr
    assert (temporary / "rwlock").exists()
    assert run("unlock").exit_code == 0  # the lock was given back


def test_processes_of_the_table(temporary: Path, run: Callable[..., Result], dead_pid: int) -> None:
    table = temporary / "rwlock"
    dead, alive = ({"pid": pid, "cmd": "dvc repro"} for pid in (dead_pid, os.getpid()))
    table.write_text(json.dumps({"write": {"/out": dead}, "read": {"/in": [dead, alive]}}))
    result = run("unlock")
    assert (result.exit_code, f"process {os.getpid()}" in result.stderr) == (1, True)
    for number in (0, -1, 2**31, 10**30):  # groups of processes, and no process at all
        table.write_text(json.dumps({"write": {"/out": dead | {"pid": number}}}))
        assert run("unlock").exit_code == 0
    assert table.exists()


def test_a_number_that_another_program_has_by_now_is_no_dvc(temporary: Path, run: Callable[..., Result]) -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        for content in (f" {other.pid}\n", "-1", "²", "\udcff"):
            (temporary / "lock").write_bytes(content.encode(errors="surrogateescape"))
            (temporary / "rwlock").touch()
            result = run("unlock")
            assert result.exit_code == 0, content
            assert not (temporary / "rwlock").exists()
    finally:
        other.kill()
        other.wait()


def test_the_project_is_found_from_below_and_its_absence_told(
    temporary: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary / "rwlock").touch()
    below = temporary.parents[1] / "work" / "corpus"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert run("unlock").exit_code == 0
    assert not (temporary / "rwlock").exists()
    temporary.rmdir()
    assert run("unlock").exit_code == 0  # a fresh clone
    temporary.parent.rmdir()
    result = run("unlock")
    assert (result.exit_code, "no folder '.dvc'" in result.stderr) == (1, True)
