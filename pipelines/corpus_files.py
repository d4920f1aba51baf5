"""Which files a corpus was read from, by size and time of change: what tells that labels or media changed since.

Looking again only asks for the files and folders that were found before, so that three million crops cost nothing: a
folder's own time of change tells that a file came, went or was renamed. Of JPEGs only their folder is looked at;
extraction compares their content anyway.
"""

from __future__ import annotations

import os
from pathlib import Path
from string import punctuation
from urllib.parse import quote, unquote

from cache.documents import Document, read_document, write_document
from cache.errors import CorpusError
from cache.manifest import Manifest
from pipelines import paths
from pipelines.params import CorpusParams

Files = dict[str, list[int]]
"""Path below the root → size in bytes (0 for folders) and time of change in nanoseconds."""

FILES = "files.json"
"""Beside a manifest: the files that it was made of."""

_REMEDY = "Run 'avfusion corpus build' again (or 'dvc repro'); what did not change is not extracted again."
_PLAIN = "".join(mark for mark in f"{punctuation} " if mark != "%")
_PICTURES = (".jpg", ".jpeg")


class _FilesDocument(Document):
    """Files of a root; percent-encoded, since names may be any bytes."""

    root: str
    files: dict[str, list[int]]

    def check(self) -> None:
        """Refuse stamps that are not two numbers."""
        if any(len(stamp) != 2 for stamp in self.files.values()):
            raise ValueError("files: expected size and time of each")


def list_files(root: Path) -> Files:
    """All folders and files below a corpus's root but JPEGs and hidden ones."""
    found = {".": _stamp(root)}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        kept = [name for name in names if not name.startswith(".") and not name.lower().endswith(_PICTURES)]
        for name in (*folders, *sorted(kept)):
            path = Path(folder, name)
            found[path.relative_to(root).as_posix()] = _stamp(path)
    return found


def _stamp(path: Path) -> list[int]:
    """Size and time of change; that of the target of a link, zeros where it is gone."""
    try:
        status = path.stat()
    except OSError:
        return [0, 0]
    return [0 if path.is_dir() else status.st_size, status.st_mtime_ns]


def look(params: CorpusParams) -> Files:
    """What lies in the corpus's folder now; nothing where the corpus is generated."""
    root = Path(params.root).expanduser()
    return list_files(root) if params.root and root.is_dir() else {}


def look_again(params: CorpusParams, path: Path) -> None:
    """Write what lies in the corpus's folder, unless the file says it already: the same bytes as long as nothing changes."""
    try:
        known = load_files(path)
    except CorpusError:  # damaged
        known = None
    if known is None or known[0] != params.root or find_change(*known) is not None:
        save_files(params.root, look(params), path)


def save_files(root: str, files: Files, path: Path) -> None:
    """Write the files of a root."""
    write_document(path, _FilesDocument, {"root": _encode(root), "files": {_encode(k): v for k, v in files.items()}})


def load_files(path: Path) -> tuple[str, Files] | None:
    """What `save_files` wrote; None where there is nothing.

    Raises:
        CorpusError: if it is damaged.
    """
    found = read_document(path, _FilesDocument, _REMEDY, CorpusError)
    return None if found is None else (_decode(found.root), {_decode(k): v for k, v in found.files.items()})


def _encode(name: str) -> str:
    return quote(name, _PLAIN, errors="surrogateescape")


def _decode(name: str) -> str:
    return unquote(name, errors="surrogateescape")


def load_corpus() -> Manifest:
    """The project's manifest.

    Raises:
        MissingFileError: if the corpus was not built yet.
        CorpusError: if labels or media were changed since, or the manifest is damaged.
    """
    manifest = Manifest.load(paths.CORPUS)
    known = load_files(paths.CORPUS / FILES)
    changed = None if known is None else find_change(*known)
    if changed is not None:
        raise CorpusError(
            f"'{changed}' was changed after the corpus was built, so its labels or clocks may be old. {_REMEDY}"
        )
    return manifest


def find_change(root: str, files: Files) -> Path | None:
    """The first file or folder that is not as it was; None where all are, or the whole root is away."""
    folder = Path(root).expanduser()
    if not root or not folder.is_dir():
        return None
    return next((folder / name for name, stamp in files.items() if _stamp(folder / name) != stamp), None)
