"""Which files a corpus was read from, by size and time of change: what tells that labels or media changed since.

Looking again only asks for the files and folders that were found before, so that three million crops cost nothing: a
folder's own time of change tells that a file came, went or was renamed. Of JPEGs only their folder is looked at;
extraction compares their content anyway.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from cache.errors import CorpusError
from cache.manifest import Manifest
from cache.receipt import write_text
from pipelines import paths
from pipelines.params import CorpusParams

Files = dict[str, list[int]]
"""Path below the root → size in bytes (0 for folders) and time of change in nanoseconds."""

FILES = "files.json"
"""Beside a manifest: the files that it was made of."""

_PICTURES = (".jpg", ".jpeg")


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
    known = load_files(path)
    if known is None or known[0] != params.root or find_change(*known) is not None:
        save_files(params.root, look(params), path)


def save_files(root: str, files: Files, path: Path) -> None:
    """Write the files of a root."""
    write_text(path, json.dumps({"root": root, "files": files}, indent=1) + "\n")  # ASCII: names may be any bytes


def load_files(path: Path) -> tuple[str, Files] | None:
    """What `save_files` wrote; None where there is nothing, or nothing sound."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return str(document["root"]), dict(document["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
            f"'{changed}' was changed after the corpus was built, so its labels or clocks may be old. Run 'avfusion corpus "
            "build' (or 'dvc repro'); what did not change is not extracted again."
        )
    return manifest


def find_change(root: str, files: Files) -> Path | None:
    """The first file or folder that is not as it was; None where all are, or the whole root is away."""
    folder = Path(root).expanduser()
    if not root or not folder.is_dir():
        return None
    return next((folder / name for name, stamp in files.items() if _stamp(folder / name) != stamp), None)
