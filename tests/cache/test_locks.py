"""Claims: what a dead process leaves behind, and what is said about one that cannot be asked."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from cache import locks
from cache.errors import StoreError
from cache.places import RemoteFolder
from cache.store import FeatureStore


@pytest.fixture
def store() -> str:
    return f"memory://{uuid.uuid4().hex}/a.zarr"


def put_lock(store: str, host: str, pid: int) -> RemoteFolder:
    folder = RemoteFolder(str(locks.locks_place(store)))
    folder.write("x.P1.lock", json.dumps({"pid": pid, "host": host, "since": "2026-11-21T04:00:00+00:00"}).encode())
    return folder


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lock_object_of_a_dead_process_of_this_machine_is_taken_over(store: str) -> None:
    folder = put_lock(store, socket.gethostname(), dead_pid())
    claim = locks.claim(store, "x.P1")
    assert claim is not None
    assert json.loads(folder.read("x.P1.lock") or b"")["pid"] == os.getpid()
    claim.release()
    assert folder.read("x.P1.lock") is None


def test_a_lock_object_of_another_machine_is_left_alone_and_named(store: str) -> None:
    put_lock(store, "elsewhere", 7)
    assert locks.claim(store, "x.P1") is None
    locks.sweep(store)
    assert locks.holder(store, "x.P1") == (
        "taken by process 7 on 'elsewhere' since 2026-11-21T04:00:00+00:00; if that process is dead, delete "
        f"'{locks.locks_place(store)}/x.P1.lock'"
    )


def test_without_kernel_locks_a_lock_file_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    store = tmp_path / "a.zarr"
    claim = locks.claim(store, "x.P1")
    assert claim is not None
    assert locks.claim(store, "x.P1") is None
    claim.release()
    again = locks.claim(store, "x.P1")
    assert again is not None
    again.release()


def test_where_nothing_can_be_written_a_sentence_says_so(tmp_path: Path) -> None:
    (tmp_path / ".a.zarr.locks").write_text("a file in the way")
    with pytest.raises(StoreError, match=r"No lock can be made in .* free space or mend the permissions"):
        locks.claim(tmp_path / "a.zarr", "x.P1")


def test_create_sweeps_away_what_killed_processes_left(tmp_path: Path, made) -> None:  # type: ignore[no-untyped-def]
    place = tmp_path / ".a.zarr.locks"
    place.mkdir()
    (place / "x.P1").write_text("{}")
    FeatureStore.create(tmp_path / "a.zarr", made.spec)
    assert not place.exists()


@pytest.mark.parametrize(
    "pid", ["1" + "0" * 30, "-1", "0", "-7", "true", "1.5", '"text"', "null", "[]", "1e400", "9" * 5000, "[" * 100_000]
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_lock_that_names_no_process_is_of_someone_unknown(
    store: str, pid: str, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(number: int, signal: int) -> None:
        raise AssertionError(f"process {number} was asked")

    monkeypatch.setattr(os, "kill", kill)
    folder = RemoteFolder(str(locks.locks_place(store)))
    host = json.dumps(socket.gethostname())
    content = f'{{"pid": {pid}, "host": {host}, "since": "2026-11-21"}}' if whole else pid
    folder.write("x.P1.lock", content.encode())
    assert locks.claim(store, "x.P1") is None
    locks.sweep(store)
    said = locks.holder(store, "x.P1")
    assert said == (f"taken by another process; if that process is dead, delete '{locks.locks_place(store)}/x.P1.lock'")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{" * 10, b'{"pid": 7}', b'{"pid": 7, "host": 1, "since": 2}'])
def test_a_lock_that_is_not_ours_is_left_alone(store: str, content: bytes) -> None:
    RemoteFolder(str(locks.locks_place(store))).write("x.P1.lock", content)
    assert locks.claim(store, "x.P1") is None
    assert locks.holder(store, "x.P1").startswith("taken by another process; ")
