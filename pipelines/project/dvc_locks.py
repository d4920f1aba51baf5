"""DVC's own lock files, and what a killed DVC leaves behind.

In `.dvc/tmp`, `lock` and `rwlock.lock` are kernel locks, which end with their process and contain its number. `rwlock` is
JSON that says which process reads or writes which output. DVC empties that file before it rewrites it, so a DVC
that is killed in between leaves it empty, and every later one refuses to run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cache.documents.documents import Part, check_document, parse_json
from cache.errors import MissingFileError, StoreError
from cache.places.processes import is_alive, parse_pid

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TABLE = "rwlock"
LOCKS = ("lock", "rwlock.lock")


class _Process(Part):
    pid: int
    cmd: str


class _Table(Part):
    """Outputs, each with the process that writes it and those that read it."""

    write: dict[str, _Process] = {}  # noqa: RUF012 (pydantic copies it)
    read: dict[str, list[_Process]] = {}  # noqa: RUF012

    @property
    def processes(self) -> dict[int, str]:
        """Number of each process → its command."""
        found = [*self.write.values(), *(process for readers in self.read.values() for process in readers)]
        return {process.pid: process.cmd for process in found}


def unlock(folder: Path) -> str:
    """Remove the leftovers of a killed DVC that keep every later one from running.

    Args:
        folder: where to look for `.dvc`, also in the folders above.

    Returns:
        What was found and what was done about it, in sentences.

    Raises:
        MissingFileError: if there is no `.dvc`.
        StoreError: if DVC is running; names its process.
    """
    temporary = find_root(folder) / ".dvc" / "tmp"
    path = temporary / TABLE
    with ExitStack() as stack:
        for name in LOCKS:
            stack.enter_context(_held(temporary / name))
        content = path.read_bytes() if path.exists() else b"{}"
        try:
            table = check_document(parse_json(content), _Table)
        except ValueError as error:
            _refuse_running(temporary)
            what = f"is not valid ({error})" if content else "is empty"
            path.unlink()
            return (
                f"'{path}' {what}: a DVC was killed while writing it. It only lists running DVCs, and there are none, so it was "
                "removed; run 'dvc repro' again."
            )
        for pid, command in table.processes.items():
            if is_alive(pid):
                raise _running(path, pid, f" ('{command}')")
    if table.processes:
        return (
            f"'{path}' names dead processes ({', '.join(map(str, table.processes))}); DVC removes them by itself, so there is "
            "nothing to unlock."
        )
    return "DVC holds no locks here: there is nothing to unlock."


def find_root(folder: Path) -> Path:
    """The folder with `.dvc`: this one or the nearest above, as DVC finds it.

    Raises:
        MissingFileError: if there is none.
    """
    absolute = folder.absolute()
    for root in (absolute, *absolute.parents):
        if (root / ".dvc").is_dir():
            return root
    raise MissingFileError(
        f"There is no folder '.dvc' in '{absolute}' or above it, so there are no DVC locks. Run this in the project's folder."
    )


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold one of DVC's locks, so that no DVC starts in the meantime; raises if one is running. No file: DVC has never run."""
    if fcntl is None or not path.exists():
        yield
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _running(path, _written_pid(path)) from None
        yield
    finally:
        os.close(descriptor)


def _refuse_running(temporary: Path) -> None:
    """Raise if a process with a number in DVC's locks may be a DVC: it releases them while a stage runs, but leaves its number."""
    for name in LOCKS:
        pid = _written_pid(temporary / name)
        if pid is not None and is_alive(pid) and _may_be_dvc(pid):
            raise _running(temporary / name, pid)


def _running(path: Path, pid: int | None, command: str = "") -> StoreError:
    who = f"process {pid}{command}" if pid else "a process"
    return StoreError(
        f"DVC is running: {who} has '{path}'. Wait until it ends, or end it; if that process is not a DVC, delete "
        f"'{path.with_name(TABLE)}' yourself."
    )


def _written_pid(path: Path) -> int | None:
    """The number in one of DVC's locks: that of the process that holds it or held it last."""
    try:
        return parse_pid(path.read_text("ascii").strip())
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _may_be_dvc(pid: int) -> bool:
    """Whether a process is a DVC, judging by its command line; true if the system does not show it."""
    try:
        return b"dvc" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
