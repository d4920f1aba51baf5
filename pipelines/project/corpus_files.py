"""The files that a corpus was read from, by content: this is how changed labels or media are noticed, on any machine.

A file is read once on each machine. Its digest is saved with its size and times of change, and only those are looked at
afterwards. For a folder, the names in it count. JPEGs only count as such names: three million crops cost a listing of their
folders, and nothing while those do not change; extraction compares their content anyway.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from string import punctuation
from typing import NamedTuple
from urllib.parse import quote, unquote

from cache.corpus.manifest import Manifest, read_target_names
from cache.documents.documents import Document, digest_bytes, read_document, write_document
from cache.errors import CorpusError
from cache.foreign import sha256_file
from pipelines.console.console import progress
from pipelines.project import paths
from pipelines.project.params import CorpusParams

Files = dict[str, str]
"""Path below the root → sha256 of a file's content or of the names in a folder; "" if it is neither."""

FILES = "files.json"
"""File beside a manifest that lists the files it was made of."""

_REMEDY = "Run 'avfusion corpus build' again (or 'dvc repro'); what did not change is not extracted again."
_PLAIN = "".join(mark for mark in f"{punctuation} " if mark != "%")
_PICTURES = (".jpg", ".jpeg")
_READERS = 4  # files that are read in parallel
_SETTLED_NS = 2_000_000_000  # a file that changed more recently may change again without a change of its times


class Listing(NamedTuple):
    """The files of a corpus: its root as given, the digest of all its settings, and the digests of its files."""

    root: str
    settings: str
    files: Files

    def is_of(self, params: CorpusParams) -> bool:
        """Whether it belongs to a corpus with these settings."""
        return self.settings == _digest_settings(params)


class _FilesDocument(Document):
    """A listing; names are percent-encoded because they may be any bytes."""

    root: str
    settings: str
    files: dict[str, str]


class _SeenDocument(Document):
    """What was read on this machine: size and times of change of each file, and its digest."""

    root: str
    stamps: dict[str, list[int]]
    digests: dict[str, str]

    def check(self) -> None:
        """Check that every stamp has a digest."""
        if self.stamps.keys() != self.digests.keys():
            raise ValueError("stamps and digests are not of the same files")


def list_names(root: Path) -> list[str]:
    """All folders and files below a corpus's root except JPEGs and hidden ones, the root first."""
    found = ["."]
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        kept = [name for name in names if not name.startswith(".") and not name.lower().endswith(_PICTURES)]
        found += [Path(folder, name).relative_to(root).as_posix() for name in (*folders, *sorted(kept))]
    return found


def look(params: CorpusParams) -> Files:
    """The files in the corpus's folder now; none if the corpus is generated or its folder is missing."""
    root = Path(params.root).expanduser()
    return _digest_files(params.root, list_names(root)) if params.root and root.is_dir() else {}


def look_again(params: CorpusParams, path: Path) -> None:
    """Save the files in the corpus's folder, unless they are unchanged; then the saved file stays as it is."""
    try:
        known = load_files(path)
    except CorpusError:  # damaged
        known = None
    if known is None or not known.is_of(params) or find_change(known) is not None:
        save_files(params, look(params), path)


def save_files(params: CorpusParams, files: Files, path: Path) -> None:
    """Save the files of a corpus."""
    content = {
        "root": _encode(params.root),
        "settings": _digest_settings(params),
        "files": {_encode(name): digest for name, digest in files.items()},
    }
    write_document(path, _FilesDocument, content)


def load_files(path: Path) -> Listing | None:
    """The files that `save_files` saved; None if there are none.

    Raises:
        CorpusError: if it is damaged.
    """
    found = read_document(path, _FilesDocument, _REMEDY, CorpusError)
    if found is None:
        return None
    return Listing(_decode(found.root), found.settings, {_decode(k): v for k, v in found.files.items()})


def load_corpus() -> Manifest:
    """The project's manifest.

    Raises:
        MissingFileError: if the corpus was not built yet.
        CorpusError: if labels or media have changed since, or the manifest is damaged.
    """
    manifest = Manifest.load(paths.CORPUS)
    known = load_files(paths.CORPUS / FILES)
    changed = None if known is None else find_change(known)
    if changed is not None:
        raise CorpusError(
            f"'{changed}' was changed after the corpus was built, so its labels or clocks may be old. {_REMEDY}"
        )
    return manifest


def built_targets(params: CorpusParams, folder: Path) -> tuple[str, ...]:
    """Names of the targets of the corpus whose manifest is in a folder; none if it has other settings or cannot be read."""
    try:
        known = load_files(folder / FILES)
        return read_target_names(folder) if known is not None and known.is_of(params) else ()
    except CorpusError:  # reported where the corpus is needed
        return ()


def has_changed(folder: Path) -> bool:
    """Whether files of the corpus whose manifest is in a folder have changed since."""
    known = load_files(folder / FILES)
    return known is not None and find_change(known) is not None


def find_change(known: Listing) -> Path | None:
    """The first file or folder that has changed; None if none has, or the whole root is missing."""
    root = Path(known.root).expanduser()
    if not known.root or not root.is_dir():
        return None
    now = _digest_files(known.root, known.files)
    return next((root / name for name, digest in known.files.items() if now[name] != digest), None)


def _digest_files(root: str, names: Iterable[str]) -> Files:
    """Digests of files and folders below a root; only reads what has changed since it was last read on this machine."""
    folder = Path(root).expanduser()
    seen = _load_seen(root)
    stamps = {name: _stamp(folder / name) for name in names}
    found = {name: seen[name][1] for name, stamp in stamps.items() if name in seen and seen[name][0] == stamp}
    unknown = [name for name in stamps if name not in found]
    if unknown:
        with ThreadPoolExecutor(_READERS) as pool, progress("looking at the corpus", len(unknown)) as advance:
            for name, digest in zip(unknown, pool.map(_digest, (folder / name for name in unknown)), strict=True):
                found[name] = digest
                advance(1, name)
        _save_seen(root, {**seen, **{name: (stamps[name], found[name]) for name in unknown}})
    return {name: found[name] for name in stamps}


def _digest(path: Path) -> str:
    if path.is_dir():
        names = sorted(os.fsencode(name) for name in os.listdir(path) if not name.startswith("."))
        return digest_bytes(b"\0".join(names))
    return sha256_file(path) if path.is_file() else ""


def _stamp(path: Path) -> list[int]:
    """Size and times of change, for a link those of its target; zeros if it is missing."""
    try:
        status = path.stat()
    except OSError:
        return [0, 0, 0]
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _load_seen(root: str) -> dict[str, tuple[list[int], str]]:
    """Stamps and digests of the files read before; none if they are damaged or belong to another root."""
    try:
        known = read_document(paths.CORPUS_SEEN, _SeenDocument, _REMEDY, CorpusError)
    except CorpusError:
        known = None
    if known is None or known.root != _encode(os.path.abspath(Path(root).expanduser())):
        return {}
    return {_decode(name): (stamp, known.digests[name]) for name, stamp in known.stamps.items()}


def _save_seen(root: str, seen: dict[str, tuple[list[int], str]]) -> None:
    """Save what was read, except for files that have only just changed; without it everything would be read again."""
    latest = time.time_ns() - _SETTLED_NS
    settled = {_encode(name): pair for name, pair in sorted(seen.items()) if max(pair[0][1:]) < latest}
    content = {
        "root": _encode(os.path.abspath(Path(root).expanduser())),
        "stamps": {name: stamp for name, (stamp, _) in settled.items()},
        "digests": {name: digest for name, (_, digest) in settled.items()},
    }
    with contextlib.suppress(OSError):  # a full or read-only disk must not matter here
        write_document(paths.CORPUS_SEEN, _SeenDocument, content)


def _digest_settings(params: CorpusParams) -> str:
    return digest_bytes(json.dumps(asdict(params), sort_keys=True, default=str).encode())


def _encode(name: str) -> str:
    return quote(name, _PLAIN, errors="surrogateescape")


def _decode(name: str) -> str:
    return unquote(name, errors="surrogateescape")
