"""The state of the files that a finished command read and wrote, by their sizes and times of change.

While settings, this program and those files stay as they were, the command has nothing to do, and says what it would say then. Anything
else, such as a touched file, makes it look at contents as ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cache.documents.documents import Cell, Document, read_document, write_document
from cache.errors import StoreError
from pipelines.project.code_digest import digest_folder
from pipelines.project.runs import ROOT, Row

FOLDER = Path("work/finished")
_PACKAGES = ("cache", "extract", "fusion", "pipelines")
_SETTLED_NS = 2_000_000_000  # a file that changed more recently may change again without a change of its times

_Stamp = tuple[str, int, int, int]


class _FinishedDocument(Document):
    state: str
    rows: list[dict[str, Cell]]


class Watch:
    """A command about to run.

    Args:
        name: of the command and of what it makes, as a file name.
        settings: JSON values that decide what it does.
        reads: files and folders that it reads.
        writes: files and folders that it writes.
    """

    def __init__(self, name: str, settings: Any, reads: Sequence[Path], writes: Sequence[Path]) -> None:
        self._path = FOLDER / f"{name}.json"
        self._reads, self._writes = reads, writes
        self._settings = json.dumps([settings, _program()], sort_keys=True, default=str)
        self._started = time.time_ns()
        self._before = _stamps(reads)

    def rows(self) -> list[Row] | None:
        """What the command says where it has nothing to do; None where it may have."""
        try:
            found = read_document(self._path, _FinishedDocument, "")
        except StoreError:
            return None
        return None if found is None or found.state != self._state() else list(found.rows)

    def keep(self, rows: Sequence[Row]) -> None:
        """Note that the command has finished; not if files changed while it ran, or just before.

        Args:
            rows: what it will say where it has nothing to do.
        """
        newest = max((max(stamp[2:]) for stamp in self._before), default=0)
        if newest < self._started - _SETTLED_NS and _stamps(self._reads) == self._before:
            with contextlib.suppress(OSError):  # a full or read-only disk must not matter here
                write_document(self._path, _FinishedDocument, {"state": self._state(), "rows": list(rows)})

    def _state(self) -> str:
        content = repr((self._settings, self._before, _stamps(self._writes)))
        return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()


@cache
def _program() -> list[str]:
    """Digests of the code, whose changes may change any result."""
    return [digest_folder(ROOT / package) for package in _PACKAGES]


def _stamps(places: Iterable[Path]) -> list[_Stamp]:
    """Path, size and times of change of every file in some places; zeros for a place that is missing."""
    return [stamp for place in places for stamp in sorted(_walk(os.fspath(place)))]


def _walk(place: str) -> Iterator[_Stamp]:
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir():
                    yield from _walk(entry.path)
                else:
                    yield _stamp(entry.path)
    except NotADirectoryError:
        yield _stamp(place)
    except FileNotFoundError:
        yield place, 0, 0, 0


def _stamp(path: str) -> _Stamp:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return path, 0, 0, 0
    return path, found.st_size, found.st_mtime_ns, found.st_ctime_ns
