"""Which files a corpus was read from, by content: how changed labels or media are noticed, on any machine.

A file is read once on each machine: its digest is kept beside its size and times of change, which are all that is asked
for afterwards. Of a folder, the names in it count. So is it with JPEGs: three million crops cost the listing of their
folders, and nothing as long as those do not change; extraction compares their content anyway.
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

from cache.corpus.manifest import Manifest
from cache.documents.documents import Document, digest_bytes, read_document, write_document
from cache.errors import CorpusError
from extract.media.video import sha256_file
from pipelines.console.console import progress
from pipelines.project import paths
from pipelines.project.params import CorpusParams

Files = dict[str, str]
"""Path below the root → sha256 of a file's content or of the names in a folder; "" of what is neither."""

FILES = "files.json"
"""Beside a manifest: the files that it was made of."""

_REMEDY = "Run 'avfusion corpus build' again (or 'dvc repro'); what did not change is not extracted again."
_PLAIN = "".join(mark for mark in f"{punctuation} " if mark != "%")
_PICTURES = (".jpg", ".jpeg")
_READERS = 4  # files that are read in parallel
_SETTLED_NS = 2_000_000_000  # a file that changed later than so long ago may change again within a tick of its times


class Listing(NamedTuple):
    """The files of a corpus: its root as it was given, the digest of all its settings, and the digests of its files."""

    root: str
    settings: str
    files: Files

    def is_of(self, params: CorpusParams) -> bool:
        """Whether it is of a corpus of these settings."""
        return self.settings == _digest_settings(params)


class _FilesDocument(Document):
    """A listing; names are percent-encoded, since they may be any bytes."""

    root: str
    settings: str
    files: dict[str, str]


class _SeenDocument(Document):
    """What was read on this machine: size and times of change of each file, and its digest."""

    root: str
    stamps: dict[str, list[int]]
    digests: dict[str, str]

    def check(self) -> None:
        """Refuse stamps without a digest."""
        if self.stamps.keys() != self.digests.keys():
            raise ValueError("stamps and digests are not of the same files")


def list_names(root: Path) -> list[str]:
    """All folders and files below a corpus's root but JPEGs and hidden ones, the root first."""
    found = ["."]
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        kept = [name for name in names if not name.startswith(".") and not name.lower().endswith(_PICTURES)]
        found += [Path(folder, name).relative_to(root).as_posix() for name in (*folders, *sorted(kept))]
    return found


def look(params: CorpusParams) -> Files:
    """What lies in the corpus's folder now; nothing where the corpus is generated, or its folder is away."""
    root = Path(params.root).expanduser()
    return _digest_files(params.root, list_names(root)) if params.root and root.is_dir() else {}


def look_again(params: CorpusParams, path: Path) -> None:
    """Write what lies in the corpus's folder, unless the file says it already: the same bytes as long as nothing changes."""
    try:
        known = load_files(path)
    except CorpusError:  # damaged
        known = None
    if known is None or not known.is_of(params) or find_change(known) is not None:
        save_files(params, look(params), path)


def save_files(params: CorpusParams, files: Files, path: Path) -> None:
    """Write the files of a corpus."""
    content = {
        "root": _encode(params.root),
        "settings": _digest_settings(params),
        "files": {_encode(name): digest for name, digest in files.items()},
    }
    write_document(path, _FilesDocument, content)


def load_files(path: Path) -> Listing | None:
    """What `save_files` wrote; None where there is nothing.

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
        CorpusError: if labels or media were changed since, or the manifest is damaged.
    """
    manifest = Manifest.load(paths.CORPUS)
    known = load_files(paths.CORPUS / FILES)
    changed = None if known is None else find_change(known)
    if changed is not None:
        raise CorpusError(
            f"'{changed}' was changed after the corpus was built, so its labels or clocks may be old. {_REMEDY}"
        )
    return manifest


def find_change(known: Listing) -> Path | None:
    """The first file or folder that is not as it was; None where all are, or the whole root is away."""
    root = Path(known.root).expanduser()
    if not known.root or not root.is_dir():
        return None
    now = _digest_files(known.root, known.files)
    return next((root / name for name, digest in known.files.items() if now[name] != digest), None)


def _digest_files(root: str, names: Iterable[str]) -> Files:
    """Digests of files and folders below a root; only what changed since it was last read on this machine is read."""
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
    """Size and times of change; those of the target of a link, zeros where it is gone."""
    try:
        status = path.stat()
    except OSError:
        return [0, 0, 0]
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _load_seen(root: str) -> dict[str, tuple[list[int], str]]:
    """Stamp and digest of what was read; nothing where that is damaged or of another root."""
    try:
        known = read_document(paths.CORPUS_SEEN, _SeenDocument, _REMEDY, CorpusError)
    except CorpusError:
        known = None
    if known is None or known.root != _encode(os.path.abspath(Path(root).expanduser())):
        return {}
    return {_decode(name): (stamp, known.digests[name]) for name, stamp in known.stamps.items()}


def _save_seen(root: str, seen: dict[str, tuple[list[int], str]]) -> None:
    """Keep what was read, but of files that changed just now; without it everything is read again."""
    latest = time.time_ns() - _SETTLED_NS
    settled = {_encode(name): pair for name, pair in sorted(seen.items()) if max(pair[0][1:]) < latest}
    content = {
        "root": _encode(os.path.abspath(Path(root).expanduser())),
        "stamps": {name: stamp for name, (stamp, _) in settled.items()},
        "digests": {name: digest for name, (_, digest) in settled.items()},
    }
    with contextlib.suppress(OSError):  # a full disk or a read-only one must not matter here
        write_document(paths.CORPUS_SEEN, _SeenDocument, content)


def _digest_settings(params: CorpusParams) -> str:
    return digest_bytes(json.dumps(asdict(params), sort_keys=True, default=str).encode())


def _encode(name: str) -> str:
    return quote(name, _PLAIN, errors="surrogateescape")


def _decode(name: str) -> str:
    return unquote(name, errors="surrogateescape")
