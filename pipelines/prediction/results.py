"""Files of answers: written atomically, kept while they are right, never written over those of somebody else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from cache.documents.documents import Document, read_document, write_document
from cache.errors import SettingError, StoreError
from cache.foreign import one_line, sha256_file
from cache.names import encode_trial_id


class _ResultDocument(Document):
    """The video, what its files were made of, and their digests by path, those in the folder of answers relative to it."""

    video: str
    content: str
    made_of: str
    files: dict[str, str]


class Results:
    """The files of one video.

    Args:
        cache: folder of the cache.
        name: of the video.
        video: its absolute path.
        content: digest of the video; "" if it is not known yet.
        made_of: digest of everything that decides their content.
        redo: whether to make finished files again.
    """

    def __init__(self, cache: Path, name: str, video: Path, content: str, made_of: str, redo: bool = False) -> None:
        self._out = cache.parent
        self._place = cache / "results" / f"{encode_trial_id(name)}.json"
        try:
            known = read_document(self._place, _ResultDocument, "")
        except StoreError:  # damaged: all is made again
            known = None
        self._files = {} if known is None else dict(known.files)
        self._current = known is not None and known.made_of == made_of and not redo
        self._made_of = made_of
        self._name = name
        self._video = video.as_posix()
        self._content = content
        self._other = ""  # the video of the same name whose answer is there
        if known is not None and not redo and known.video != self._video and known.content != content:
            self._other = known.video

    def is_finished(self, path: Path) -> bool:
        """Whether a file is as it was made, of what it would be made of now."""
        return self._current and path.is_file() and self._files.get(self._key(path)) == sha256_file(path)

    def refuse_foreign(self, files: Iterable[Path]) -> None:
        """Check that none of some files is somebody else's, and no answer is there for another video of this name.

        Raises:
            StoreError: if a file is there and was not written for this video, or another video's answer is finished.
        """
        if self._other and any(digest and (self._out / key).is_file() for key, digest in self._files.items()):
            raise StoreError(
                f"'{self._out}' has the answer named '{self._name}' of another video, '{self._other}'; it is not replaced. Give "
                f"another --out, rename '{self._video}', or replace the answer with --redo."
            )
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
        document = {
            "video": self._video,
            "content": self._content,
            "made_of": self._made_of,
            "files": self._files,
        }
        write_document(self._place, _ResultDocument, document, sort_keys=True)

    def _key(self, path: Path) -> str:
        inside = path.is_relative_to(self._out)  # a folder of answers may be moved
        return (path.relative_to(self._out) if inside else path.absolute()).as_posix()


def choose_file(option: str, place: Path, suffix: str, name: str, count: int) -> Path:
    """The file to draw one of some videos in: a place of this suffix, or a file named after the video in a folder.

    Raises:
        SettingError: if the place has another suffix, or is one file for several videos.
    """
    own = place.suffix.lower()
    if own == suffix and count > 1:
        raise SettingError(
            f"'{place}' is one file for {count} videos; expected a folder. Give --overlay and --plot folders."
        )
    if own not in (suffix, "") and not place.is_dir():
        raise SettingError(
            f"{option} '{place}' ends in '{place.suffix}'; expected a file ending in '{suffix}', or a folder. Name it "
            f"'{place.with_suffix(suffix)}', or make the folder first."
        )
    return place if own == suffix else place / f"{name}{suffix}"


def make_folders(folders: Iterable[Path]) -> None:
    """Make folders, and check that files can be written in them.

    Raises:
        SettingError: if one cannot be made or written in.
    """
    for folder in sorted(set(folders)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            there = next(path for path in (folder, *folder.parents) if path.exists())
            why = one_line(error) if there.is_dir() else f"'{there}' is a file"
            raise SettingError(
                f"Nothing can be written in '{folder}' ({why}); expected a folder, or the name of a new one. Fix the permissions, "
                "or name another place with --out, --overlay or --plot."
            ) from error
