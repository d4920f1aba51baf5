"""Claims: one process works on a trial, others leave it alone.

On a local file system a claim is an advisory lock of the kernel, which ends with its process, however that dies.
Where the file system has none, and on object stores, it is a lock file; a dead process of this machine is noticed and
succeeded by one process, for any other one the message names the file to delete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType

from cache.documents.documents import Document, check_document, parse_json, sign
from cache.errors import StoreError
from cache.places.folders import Folder, LocalFolder, Where, open_folder
from cache.places.processes import is_alive, is_pid

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


_PAUSE_S = 0.2  # between two looks at the claims of others
_LONGEST = 4096  # bytes of a lock file that is looked at
_FILE = ".lock"  # a lock by being there; a name without it belongs to the kernel's locks
_RIGHT = "="  # begins the name of a right to succeed a dead lock file, and no name of a claim


class _Holder(Document):
    """Content of a lock file: who took it, and when.

    Attributes:
        pid: number of the process.
        host: its machine.
        since: moment.
        token: no two lock files have the same.
    """

    pid: int
    host: str
    since: str
    token: str = ""

    def check(self) -> None:
        """Refuse numbers that no process has."""
        if not is_pid(self.pid):
            raise ValueError(f"process {self.pid}")


class Claim:
    """A trial taken for this process; ends with `release`, with the `with` block, or with the process."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Give the trial back; may be called again."""
        if self._release is not None:
            release, self._release = self._release, None
            release()

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def locks_place(store: Where) -> Where:
    """Where the locks of a store lie: beside it, so that the store holds arrays only."""
    where = open_folder(store).where
    if isinstance(where, Path):
        return where.with_name(f".{where.name}.locks")
    head, _, name = where.rpartition("/")
    return f"{head}/.{name}.locks"


def claim(store: Where, name: str) -> Claim | None:
    """Take `name` in a store, None where another process or thread has it.

    Args:
        store: path or URL of the store.
        name: a file name.

    Raises:
        StoreError: if no lock can be made there (disk full, read-only).
    """
    folder = open_folder(locks_place(store))
    try:
        if isinstance(folder, LocalFolder) and fcntl is not None:
            try:
                return _claim_kernel(folder.path / name)
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                (folder.path / name).unlink(missing_ok=True)
        return _claim_file(folder, name + _FILE)
    except OSError as error:
        raise StoreError(
            f"No lock can be made in '{folder.where}' ({error}), so nothing can be written to '{store}'. Finished trials are "
            "kept; free space or mend the permissions and run again."
        ) from error


def sweep(store: Where) -> None:
    """Remove the lock files that killed processes left, where that can be written to."""
    folder = open_folder(locks_place(store))
    with contextlib.suppress(StoreError, OSError):
        for name in folder.sizes():
            is_right = name.startswith(_RIGHT)
            found = _claim_file(folder, name) if is_right else claim(store, name.removesuffix(_FILE))
            if found is not None:
                found.release()


def holder(store: Where, name: str) -> str:
    """Who has a claim, in words, with the file to delete if that process is dead; "" where nobody has it."""
    folder = open_folder(locks_place(store))
    found = {place: content for place in (name, name + _FILE) if (content := folder.read(place)) is not None}
    if not found:
        return ""
    place, content = next(iter(found.items()))
    known = _parse(content)
    who = f"process {known.pid} on '{known.host}' since {known.since}" if known else "another process"
    return f"taken by {who}; if that process is dead, delete '{folder.where}/{place}'"


def wait_for_any(store: Where, names: Sequence[str], patience_s: float) -> list[str]:
    """Wait until nobody has one of these claims; those that are free then, none when patience ends."""
    start = time.monotonic()
    while time.monotonic() - start < patience_s:
        free = [name for name in names if _is_free(store, name)]
        if free:
            return free
        time.sleep(_PAUSE_S)
    return []


def _is_free(store: Where, name: str) -> bool:
    found = claim(store, name)
    if found is not None:
        found.release()
    return found is not None


def _claim_kernel(path: Path) -> Claim | None:
    """An exclusive flock; the file goes away with the claim, so it must still be the one under this name once locked."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # the last claim just went, and the folder with it
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same_file(descriptor, path):
                with contextlib.suppress(OSError):  # only for people to read; a full disk must not matter here
                    os.write(descriptor, _identity())
                return Claim(partial(_release_kernel, descriptor, path))
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _release_kernel(descriptor: int, path: Path) -> None:
    path.unlink(missing_ok=True)
    os.close(descriptor)
    with contextlib.suppress(OSError):  # others still hold claims
        path.parent.rmdir()


def _claim_file(folder: Folder, name: str) -> Claim | None:
    if folder.create(name, _identity()):
        return Claim(partial(folder.remove, name))
    content = folder.read(name)
    return _succeed(folder, name, content) if content is not None and _is_dead(content) else None


def _succeed(folder: Folder, name: str, dead: bytes) -> Claim | None:
    """Take over a lock file with this content of a dead process, None where another one does or did.

    Only who has the right to succeed this content replaces it; a lock file with it never comes back, as all differ. The
    right is a lock file like any other, so a successor who died is succeeded too. Where the lock has another content by
    now, the right to the old one is worth nothing, whoever gives it back. The lock is absent at no moment.
    """
    right = _right(name, dead)
    held = _claim_file(folder, right)
    if held is None:
        return None
    with held:
        if folder.read(name) != dead:
            return None
        if isinstance(folder, LocalFolder):
            (folder.path / right).replace(folder.path / name)  # which gives the right back too, in one step
        else:
            folder.write(name, _identity())
    return Claim(partial(folder.remove, name))


def _right(name: str, dead: bytes) -> str:
    """Name of the lock file that is the right to succeed another one; short, as names of locks fill 254 of 255 bytes."""
    return f"{_RIGHT}{hashlib.sha256(f'{name}/'.encode() + dead).hexdigest()}"


def _identity() -> bytes:
    """Content of a lock file: process, machine and moment, and a token, so that no two are the same."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    known = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "token": secrets.token_hex(8)}
    return json.dumps(sign(known)).encode()


def _parse(content: bytes | None) -> _Holder | None:
    """What a lock file says; None where it is not just as `_identity` wrote it."""
    if content is None or len(content) > _LONGEST:
        return None
    try:
        return check_document(parse_json(content), _Holder)
    except ValueError:
        return None


def _is_dead(content: bytes | None) -> bool:
    """Whether a lock file is of a process of this machine that is gone; not where that cannot be known."""
    known = _parse(content)
    return known is not None and known.host == socket.gethostname() and not is_alive(known.pid)
