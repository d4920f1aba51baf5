"""Claims: only one process works on a trial at a time.

On a local file system a claim is an advisory lock of the kernel, which ends with its process, however that dies. On file
systems without such locks, and on object stores, it is a lock file. If its process was on this machine and is dead, exactly
one other process takes the lock over; for other machines, the message names the file to delete.
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


_PAUSE_S = 0.2  # between two checks of others' claims
_LONGEST = 4096  # bytes of a lock file; longer ones are ignored
_FILE = ".lock"  # suffix of files that lock by existing; names without it are the kernel's locks
_RIGHT = "="  # prefix of the right to take over a dead lock file; names of claims never start with it


class _Holder(Document):
    """Content of a lock file: who took it, and when.

    Attributes:
        pid: number of the process.
        host: its machine.
        since: when it was taken.
        token: unique to each lock file.
    """

    pid: int
    host: str
    since: str
    token: str = ""

    def check(self) -> None:
        """Check that the number can be that of a process."""
        if not is_pid(self.pid):
            raise ValueError(f"process {self.pid}")


class Claim:
    """A trial claimed by this process, until `release`, the end of the `with` block, or the end of the process."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Release the trial; calling it again has no effect."""
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
    """The folder of a store's locks: beside it, so that the store contains only arrays."""
    where = open_folder(store).where
    if isinstance(where, Path):
        return where.with_name(f".{where.name}.locks")
    head, _, name = where.rpartition("/")
    return f"{head}/.{name}.locks"


def claim(store: Where, name: str) -> Claim | None:
    """Claim `name` in a store; None if another process or thread has it.

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
            "kept; free space or fix the permissions and run again."
        ) from error


def sweep(store: Where) -> None:
    """Remove the lock files left by killed processes, if the folder is writable."""
    folder = open_folder(locks_place(store))
    with contextlib.suppress(StoreError, OSError):
        for name in folder.sizes():
            is_right = name.startswith(_RIGHT)
            found = _claim_file(folder, name) if is_right else claim(store, name.removesuffix(_FILE))
            if found is not None:
                found.release()


def holder(store: Where, name: str) -> str:
    """Who has a claim, in words, and when it is free: a lock file of a dead process may have to be deleted; "" if nobody has it."""
    folder = open_folder(locks_place(store))
    found = {place: content for place in (name, name + _FILE) if (content := folder.read(place)) is not None}
    if not found:
        return ""
    place, content = next(iter(found.items()))
    known = _parse(content)
    who = f"process {known.pid} on '{known.host}' since {known.since}" if known else "another process"
    if place == name:  # the kernel's, which ends with its process
        return f"taken by {who}, and free when that ends"
    return f"taken by {who}; if that process is dead, delete '{folder.where}/{place}'"


def free(store: Where, names: Sequence[str], host: str, pid: int) -> None:
    """Free claims that are lock files of a process known to be dead, on any machine; the kernel frees its own locks.

    Args:
        store: path or URL of the store.
        names: of the claims.
        host: machine of the process.
        pid: its number.
    """
    folder = open_folder(locks_place(store))
    for name in names:
        content = folder.read(name + _FILE)
        known = _parse(content)
        if content is not None and known is not None and (known.host, known.pid) == (host, pid):
            taken = _succeed(folder, name + _FILE, content)
            if taken is not None:
                taken.release()


def wait_for_any(store: Where, names: Sequence[str], patience_s: float) -> list[str]:
    """Wait until at least one of these claims is free; returns the free ones, or none when patience runs out."""
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
    """An exclusive flock. The file is removed with the claim, so once locked it must still be the one with this name."""
    while True:
        # Whoever releases the last claim removes the folder, also between two steps of `mkdir` and before `open`.
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            if path.parent.is_symlink():  # to nowhere
                raise
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same_file(descriptor, path):
                with contextlib.suppress(OSError):  # only for people to read; a full disk does no harm here
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
    """Take over a dead process's lock file with this content; None if another process does or did.

    Only the holder of the right to this content may replace it. Contents are unique, so the same lock file never comes
    back. The right is itself a lock file, so if its holder dies it is taken over in turn. If the lock has other content by
    now, the right to the old one is void and is simply released. The lock never ceases to exist in between.
    """
    right = _right(name, dead)
    held = _claim_file(folder, right)
    if held is None:
        return None
    with held:
        if folder.read(name) != dead:
            return None
        if isinstance(folder, LocalFolder):
            (folder.path / right).replace(folder.path / name)  # also releases the right, in the same step
        else:
            folder.write(name, _identity())
    return Claim(partial(folder.remove, name))


def _right(name: str, dead: bytes) -> str:
    """Name of the right to take over a lock file; hashed, as names of locks may already have 254 of 255 bytes."""
    return f"{_RIGHT}{hashlib.sha256(f'{name}/'.encode() + dead).hexdigest()}"


def _identity() -> bytes:
    """Content of a lock file: process, machine and time, and a token that makes it unique."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    known = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "token": secrets.token_hex(8)}
    return json.dumps(sign(known)).encode()


def _parse(content: bytes | None) -> _Holder | None:
    """The parsed content of a lock file; None if it differs from what `_identity` writes."""
    if content is None or len(content) > _LONGEST:
        return None
    try:
        return check_document(parse_json(content), _Holder)
    except ValueError:
        return None


def _is_dead(content: bytes | None) -> bool:
    """Whether a lock file belongs to a dead process of this machine; false if that is unknown."""
    known = _parse(content)
    return known is not None and known.host == socket.gethostname() and not is_alive(known.pid)
