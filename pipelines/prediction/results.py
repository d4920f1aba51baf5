"""Files of answers: written atomically, kept while they are right, never written over those of somebody else."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cache.documents.documents import Document, read_document, write_document
from cache.errors import StoreError
from cache.foreign import sha256_file
from cache.names import encode_trial_id


class _ResultDocument(Document):
    """What a video's files were made of, and their digests by path, those in the folder of answers relative to it."""

    made_of: str
    files: dict[str, str]


class Results:
    """The files of one video.

    Args:
        cache: folder of the cache.
        name: of the video.
        made_of: digest of everything that decides their content.
        redo: whether to make finished files again.
    """

    def __init__(self, cache: Path, name: str, made_of: str, redo: bool = False) -> None:
        self._out = cache.parent
        self._place = cache / "results" / f"{encode_trial_id(name)}.json"
        try:
            known = read_document(self._place, _ResultDocument, "")
        except StoreError:  # damaged: all is made again
            known = None
        self._files = {} if known is None else dict(known.files)
        self._current = known is not None and known.made_of == made_of and not redo
        self._made_of = made_of

    def is_finished(self, path: Path) -> bool:
        """Whether a file is as it was made, of what it would be made of now."""
        return self._current and path.is_file() and self._files.get(self._key(path)) == sha256_file(path)

    def refuse_foreign(self, files: Iterable[Path]) -> None:
        """Check that none of some files is somebody else's.

        Raises:
            StoreError: if a file is there and was not written for this video.
        """
        for path in files:
            if path.exists() and self._key(path) not in self._files:
                raise StoreError(
                    f"'{path}' exists and was not written by predict-affect for this video; it is not replaced. Rename or remove "
                    "it, or give another --out."
                )

    def claim(self, files: Iterable[Path]) -> None:
        """Record that files will be written, so that a killed run can replace them, and those of other content are stale."""
        if not self._current:
            self._files = dict.fromkeys(self._files, "")
        self._files |= {self._key(path): "" for path in files}
        self._current = True
        self._save()

    def finish(self, path: Path) -> None:
        """Record a file that was written."""
        self._files[self._key(path)] = sha256_file(path)
        self._save()

    def _save(self) -> None:
        document = {"made_of": self._made_of, "files": self._files}
        write_document(self._place, _ResultDocument, document, sort_keys=True)

    def _key(self, path: Path) -> str:
        inside = path.is_relative_to(self._out)  # a folder of answers may be moved
        return (path.relative_to(self._out) if inside else path.absolute()).as_posix()
