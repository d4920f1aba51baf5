"""Claims: what a dead process leaves behind, and what is said about one that cannot be asked."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.errors import StoreError
from cache.places.folders import LocalFolder, RemoteFolder, open_folder
from cache.store import locks
from cache.store.store import FeatureStore

# Prints how many of some processes, released at once, got the lock of a dead one, round by round.
RACE = """
import json, multiprocessing, socket, sys
from cache.store import locks
from cache.places.folders import open_folder

locks.fcntl = None
store, rounds, count, dead, right = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "right"
context = multiprocessing.get_context("fork")
barrier, got = context.Barrier(count), context.Array("i", rounds)
folder = open_folder(locks.locks_place(store))

def put(name, mark):
    content = json.dumps({"pid": dead, "host": socket.gethostname(), "since": mark}).encode()
    folder.write(name, content)
    return content

def race(index):
    for number in range(rounds):
        if index == 0:
            content = put("x.P1.lock", f"round {number}")
            if right:
                put(locks._right("x.P1.lock", content), "a successor who died")
        barrier.wait(60)
        claim = locks.claim(store, "x.P1")
        if claim is not None:
            with got.get_lock():
                got[number] += 1
        barrier.wait(60)
        if claim is not None:
            claim.release()
        barrier.wait(60)

processes = [context.Process(target=race, args=(index,)) for index in range(count)]
for process in processes:
    process.start()
for process in processes:
    process.join()
print(json.dumps([list(got), [process.exitcode for process in processes], sorted(folder.sizes())]))
"""


@pytest.fixture
def store() -> str:
    return f"memory://{uuid.uuid4().hex}/a.zarr"


def put_lock(store: str, host: str, pid: int) -> RemoteFolder:
    folder = RemoteFolder(str(locks.locks_place(store)))
    folder.write("x.P1.lock", json.dumps({"pid": pid, "host": host, "since": "2026-11-21T04:00:00+00:00"}).encode())
    return folder


def put_dead(folder: LocalFolder | RemoteFolder, name: str, since: str) -> bytes:
    """A lock file of a dead process of this machine, in the form that has no token."""
    content = json.dumps({"pid": dead_pid(), "host": socket.gethostname(), "since": since}).encode()
    folder.write(name, content)
    return content


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


def test_a_lock_object_of_another_machine_is_freed_by_who_knows_that_its_process_is_dead(store: str) -> None:
    folder = put_lock(store, "elsewhere", 7)
    for host, pid in (("elsewhere", 8), ("here", 7)):
        locks.free(store, ["x.P1", "x.P2"], host, pid)
        assert locks.claim(store, "x.P1") is None
    locks.free(store, ["x.P2", "x.P1"], "elsewhere", 7)
    assert folder.sizes() == {}
    claimed = locks.claim(store, "x.P1")
    assert claimed is not None
    claimed.release()


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
    with pytest.raises(StoreError, match=r"No lock can be made in .* free space.*permissions"):
        locks.claim(tmp_path / "a.zarr", "x.P1")


def test_a_folder_of_locks_that_another_removes_while_it_is_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `Path.mkdir` raises when the folder was there for the kernel and is gone for its own check."""
    mkdir, removed = Path.mkdir, [True]

    def lose(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if removed:
            removed.pop()
            raise FileExistsError(17, "File exists", str(path))
        mkdir(path, mode, parents, exist_ok)

    monkeypatch.setattr(Path, "mkdir", lose)
    taken = locks.claim(tmp_path / "a.zarr", "x.P1")
    assert taken is not None
    assert locks.claim(tmp_path / "a.zarr", "x.P1") is None
    taken.release()


def test_create_sweeps_away_what_killed_processes_left(tmp_path: Path, made) -> None:  # type: ignore[no-untyped-def]
    place = tmp_path / ".a.zarr.locks"
    place.mkdir()
    (place / "x.P1").write_text("{}")
    FeatureStore.create(tmp_path / "a.zarr", made.recipe)
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
    assert "taken by another process" in said
    assert f"delete '{locks.locks_place(store)}/x.P1.lock'" in said


def test_the_lock_of_a_living_process_is_never_taken_whatever_flips(store: str) -> None:
    """One digit of its number is another process, which may be dead."""
    folder, held = RemoteFolder(str(locks.locks_place(store))), locks.claim(store, "x.P1")
    whole, said = folder.read("x.P1.lock") or b"", locks.holder(store, "x.P1")
    unknown = re.sub("process .* since [^;]*;", "another process;", said)
    assert unknown != said
    for place in range(len(whole)):
        for bit in range(8):
            flipped = whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
            folder.write("x.P1.lock", flipped)
            assert locks.claim(store, "x.P1") is None, flipped
            assert locks.holder(store, "x.P1") in (said, unknown), flipped
    assert held is not None
    held.release()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{" * 10, b'{"pid": 7}', b'{"pid": 7, "host": 1, "since": 2}'])
def test_a_lock_that_is_not_ours_is_left_alone(store: str, content: bytes) -> None:
    RemoteFolder(str(locks.locks_place(store))).write("x.P1.lock", content)
    assert locks.claim(store, "x.P1") is None
    assert locks.holder(store, "x.P1").startswith("taken by another process; ")


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("left", ["lock", "right"])
def test_of_many_processes_one_succeeds_a_dead_one(tmp_path: Path, left: str) -> None:
    """Real processes, released at once, without kernel locks; a second time where a successor died too."""
    rounds, count = 150, 4
    arguments = [str(tmp_path / "a.zarr"), str(rounds), str(count), str(dead_pid()), left]
    done = subprocess.run([sys.executable, "-c", RACE, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    got, codes, files = json.loads(done.stdout)
    assert codes == [0] * count, done.stderr
    assert got == [1] * rounds
    assert files == []


@pytest.mark.parametrize("place", ["local", "remote"])
def test_who_read_a_dead_lock_before_another_one_took_it_leaves_it(
    store: str, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    where = tmp_path / "a.zarr" if place == "local" else store
    folder = open_folder(locks.locks_place(where))
    assert isinstance(folder, (LocalFolder, RemoteFolder))
    dead = put_dead(folder, "x.P1.lock", "2026-11-21T04:00:00+00:00")
    taken: list[locks.Claim | None] = []
    is_dead: Callable[[bytes | None], bool] = locks._is_dead

    def pause(content: bytes | None) -> bool:
        found = is_dead(content)
        if content == dead and not taken:
            taken.append(None)  # the other one does not pause
            taken[0] = locks.claim(where, "x.P1")
        return found

    monkeypatch.setattr(locks, "_is_dead", pause)
    assert locks.claim(where, "x.P1") is None
    assert taken[0] is not None
    assert is_dead(folder.read("x.P1.lock")) is False
    assert sorted(folder.sizes()) == ["x.P1.lock"], "the right is given back"
    taken[0].release()
    assert folder.sizes() == {}


def test_the_right_to_a_dead_lock_is_not_a_claim_of_a_trial(store: str) -> None:
    """One of a process that lives, or may, is respected; one of a dead process is succeeded, or swept away."""
    folder = RemoteFolder(str(locks.locks_place(store)))
    dead = put_dead(folder, "x.P1.lock", "2026-11-21T04:00:00+00:00")
    right = locks._right("x.P1.lock", dead)
    folder.write(right, json.dumps({"pid": 7, "host": "elsewhere", "since": "2026-11-21"}).encode())
    assert locks.claim(store, "x.P1") is None
    locks.sweep(store)
    assert sorted(folder.sizes()) == [right, "x.P1.lock"]
    assert f"delete '{locks.locks_place(store)}/x.P1.lock'" in locks.holder(store, "x.P1")
    put_dead(folder, right, "2026-11-22")
    claim = locks.claim(store, "x.P1")
    assert claim is not None
    claim.release()
    put_dead(folder, right, "2026-11-23")
    assert locks.holder(store, "x.P1") == ""
    locks.sweep(store)
    assert folder.sizes() == {}


def test_a_right_is_swept_away_where_the_kernel_locks(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path / ".a.zarr.locks")
    put_dead(folder, locks._right("x.P1.lock", b""), "2026-11-21")
    locks.sweep(tmp_path / "a.zarr")
    assert folder.sizes() == {}


def test_the_longest_name_of_a_trial_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    name = f"01234567.{'x' * 240}"
    folder = LocalFolder(tmp_path / ".a.zarr.locks")
    folder.create(f"{name}.lock", json.dumps({"pid": dead_pid(), "host": socket.gethostname(), "since": ""}).encode())
    claim = locks.claim(tmp_path / "a.zarr", name)
    assert claim is not None
    claim.release()
    assert folder.sizes() == {}
