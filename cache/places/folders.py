"""Folders for stores: on a local file system, or anywhere that fsspec can reach.

Both kinds guarantee the same: a file appears whole or not at all, and an array appears after its chunks. Local folders use
fsync and rename; object stores put single objects atomically, so the metadata is put last.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cache.errors import SettingError
from cache.places.processes import is_alive, parse_pid
from cache.places.remote import GuardedFileSystem, wrap_remote_error

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

Where = str | Path
"""A local path, or an fsspec URL, e.g. `s3://bucket/features/facenet.zarr`."""


class Folder(Protocol):
    """A folder; names are relative to it, with `/` between levels."""

    where: Where

    def child(self, name: str) -> Folder:
        """A folder below this one."""

    def read(self, name: str) -> bytes | None:
        """Content of a file, None if it is absent."""

    def read_many(self, names: Sequence[str]) -> list[bytes | None]:
        """Content of several files, None for each that is absent."""

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file."""

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a file atomically."""

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless it exists; false if it did."""

    def write_array(self, name: str, chunks: Mapping[str, Buffer], metadata: bytes) -> None:
        """Write or replace an array: its chunks, then its `zarr.json`."""

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with its contents; does nothing if it is absent."""

    def folders(self) -> list[str]:
        """Names of the folders in this one, hidden ones left out."""

    def files(self) -> list[str]:
        """Names of the files in this one, hidden ones left out."""

    def leftovers(self) -> list[str]:
        """Names of folders left half-written by a killed process."""

    def sizes(self) -> dict[str, int]:
        """Every file below, with its size in bytes."""

    def size(self, name: str) -> int | None:
        """Size of a file in bytes, None if it is absent."""

    def stamp(self, name: str) -> Any:
        """A value that changes when a file is replaced, None if that would cost a request."""

    def zarr_store(self) -> Any:
        """For zarr to open."""


def open_folder(where: Where) -> Folder:
    """The folder of a path or URL; it need not exist.

    Raises:
        SettingError: if no library for the URL's protocol is installed.
    """
    if isinstance(where, str) and "://" in where and not where.startswith("file://"):
        return RemoteFolder(where)
    return LocalFolder(Path(str(where).removeprefix("file://")))


def split_place(where: Where) -> tuple[Folder, str]:
    """The folder of a file, and the file's name."""
    if isinstance(where, Path):
        return LocalFolder(where.parent), where.name
    head, slash, name = where.rpartition("/")
    return open_folder(head if slash else "."), name


def join_place(where: Where, name: str) -> Where:
    """A path or URL below another one; `name` has `/` between levels."""
    return open_folder(where).child(name).where


def is_file(where: Where) -> bool:
    """Whether this file exists."""
    folder, name = split_place(where)
    return folder.size(name) is not None


def remove_file(where: Where) -> None:
    """Remove a file; does nothing if it is absent."""
    folder, name = split_place(where)
    folder.remove(name)


def replace_suffix(where: Where, suffix: str) -> Where:
    """The same path or URL with another suffix, `a/b.json` → `a/b.zarr`."""
    if isinstance(where, Path):
        return where.with_suffix(suffix)
    head, slash, name = where.rpartition("/")
    return f"{head}{slash}{Path(name).with_suffix(suffix)}"


class LocalFolder:
    """A `Folder` of a local file system."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where: Where = path

    def child(self, name: str) -> LocalFolder:
        return LocalFolder(self.path / name)

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def read_many(self, names: Sequence[str]) -> list[bytes | None]:
        return [self.read(name) for name in names]

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        with open(self.path / name, "rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def write(self, name: str, content: bytes) -> None:
        """Write under a temporary name, fsync, rename."""
        path = self.path / name
        _make_folders(path.parent)
        start = f".{path.name}.{socket.gethostname()}."
        for leftover in _hidden(path.parent.absolute()):
            if leftover.startswith(start) and not is_alive(parse_pid(leftover.removeprefix(start)) or 0):
                path.with_name(leftover).unlink(missing_ok=True)
        temporary = path.with_name(f"{start}{os.getpid()}")
        try:
            _write_synced(temporary, content)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)

    def create(self, name: str, content: bytes) -> bool:
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with open(self.path / name, "xb") as file:
                file.write(content)
        except FileExistsError:
            return False
        return True

    def write_array(self, name: str, chunks: Mapping[str, Buffer], metadata: bytes) -> None:
        """Build the array under a hidden name, fsync its files, and rename the folder to its final name.

        Folders are not fsynced, as each would cost as much as the chunk. If the power fails, journaling file systems lose
        the newest renames first, so a trial is either complete or absent; if a chunk's entry is lost after all, opening
        the trial reports it, and the next extraction computes the trial again.

        Processes that mapped an older array of this name keep its bytes: files are replaced, never overwritten.
        """
        path = self.path / name
        partial, old = (path.with_name(f".{name}.{kind}") for kind in ("partial", "old"))
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            for key, content in chunks.items():
                chunk = partial / key
                chunk.parent.mkdir(parents=True, exist_ok=True)
                _write_synced(chunk, content)
            _write_synced(partial / "zarr.json", metadata)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if path.exists():
            path.rename(old)
        partial.rename(path)
        shutil.rmtree(old, ignore_errors=True)

    def remove(self, name: str) -> None:
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path)
        elif os.path.lexists(path):  # read-only file systems raise even if the file is absent
            path.unlink(missing_ok=True)

    def folders(self) -> list[str]:
        if not self.path.is_dir():
            return []
        with os.scandir(self.path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))

    def files(self) -> list[str]:
        if not self.path.is_dir():
            return []
        return sorted(path.name for path in self.path.iterdir() if path.is_file() and not path.name.startswith("."))

    def leftovers(self) -> list[str]:
        return sorted(path.name for kind in ("partial", "old") for path in self.path.glob(f".*.{kind}"))

    def sizes(self) -> dict[str, int]:
        files = (path for path in self.path.rglob("*") if path.is_file())
        return {path.relative_to(self.path).as_posix(): path.stat().st_size for path in files}

    def size(self, name: str) -> int | None:
        try:
            return (self.path / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def stamp(self, name: str) -> Any:
        """Inode and modification time of a file; they change when a trial is rewritten."""
        try:
            status = os.stat(f"{self.path}/{name}")
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def zarr_store(self) -> Any:
        return str(self.path)


class RemoteFolder:
    """A `Folder` at an fsspec URL."""

    def __init__(self, url: str) -> None:
        self.where: Where = url.rstrip("/")
        try:
            import fsspec

            # listings must never be cached, as another process may be writing
            system, self._root = fsspec.core.url_to_fs(self.where, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise SettingError(
                f"'{url}' cannot be opened: {error}. Install the library of that protocol, e.g. pip install 'avfusion[s3]'."
            ) from error
        self._fs = GuardedFileSystem(system, url)

    def child(self, name: str) -> RemoteFolder:
        return RemoteFolder(f"{self.where}/{name}")

    def read(self, name: str) -> bytes | None:
        try:
            return self._fs.cat_file(self._key(name))
        except FileNotFoundError:
            return None

    def read_many(self, names: Sequence[str]) -> list[bytes | None]:
        keys = [self._key(name) for name in names]
        found = self._fs.cat(keys, on_error="return") if keys else {}
        results = [found.get(key) for key in keys]
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, FileNotFoundError):
                raise wrap_remote_error(result, str(self.where))
        return [result if isinstance(result, bytes) else None for result in results]

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        return self._fs.cat_file(self._key(name), start=start, end=stop)

    def write(self, name: str, content: bytes) -> None:
        """Put an object; object stores do this atomically."""
        self._fs.pipe_file(self._key(name), content)

    def create(self, name: str, content: bytes) -> bool:
        try:
            self._fs.pipe_file(self._key(name), content, mode="create")
        except FileExistsError:
            return False
        return True

    def write_array(self, name: str, chunks: Mapping[str, Buffer], metadata: bytes) -> None:
        """Remove the commit record, put the chunks, then put the new record."""
        self.remove(name)
        for key, content in chunks.items():
            self.write(f"{name}/{key}", bytes(content))
        self.write(f"{name}/zarr.json", metadata)

    def remove(self, name: str) -> None:
        """Remove an object or a whole prefix, metadata first, so that a half-removed array never looks finished."""
        key = self._key(name)
        for first in (f"{key}/zarr.json", key):
            try:
                self._fs.rm(first, recursive=first == key)
            except FileNotFoundError:
                continue

    def folders(self) -> list[str]:
        return self._list("directory")

    def files(self) -> list[str]:
        return self._list("file")

    def leftovers(self) -> list[str]:
        """Always empty, as objects are put atomically."""
        return []

    def sizes(self) -> dict[str, int]:
        found = self._fs.find(self._root, detail=True)
        start = len(self._fs._strip_protocol(self._root)) + 1
        return {name[start:]: entry["size"] for name, entry in found.items()}

    def size(self, name: str) -> int | None:
        try:
            return self._fs.size(self._key(name))
        except FileNotFoundError:
            return None

    def stamp(self, name: str) -> Any:
        """Always None, as it would cost a request per read."""
        return None

    def zarr_store(self) -> Any:
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(str(self.where), read_only=True)

    def _list(self, kind: str) -> list[str]:
        try:
            entries = self._fs.ls(self._root, detail=True)
        except FileNotFoundError:
            return []
        names = (entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == kind)
        return sorted(name for name in names if name and not name.startswith("."))

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}"


@functools.cache
def _hidden(folder: Path) -> tuple[str, ...]:
    """Hidden names in a folder when this process first wrote there; a look at each write would be quadratic in its files."""
    with os.scandir(folder) as entries:
        return tuple(entry.name for entry in entries if entry.name.startswith("."))


def _write_synced(path: Path, content: Buffer) -> None:
    with open(path, "wb", buffering=0) as file:
        view = memoryview(content).cast("B")
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())


def _make_folders(path: Path) -> None:
    """Make a folder and its parents; each entry is on disk before anything is written below it."""
    absent: Iterable[Path] = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in absent:
        sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk; otherwise a new file may be lost if the power fails."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
