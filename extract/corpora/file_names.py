"""File names as trial names: in one Unicode form, suffixes in any case, without hidden files and undecodable names."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from cache.errors import CorpusError


def normal(name: str) -> str:
    """Convert a name to Unicode NFC, because macOS, archives and spreadsheets write the same name differently."""
    return unicodedata.normalize("NFC", name)


def trial_name(path: Path) -> str:
    """Name of the trial that a file belongs to: the file name without suffix."""
    return normal(path.stem)


def is_text(name: str) -> bool:
    """Whether a name is valid Unicode: file systems allow any bytes, manifests and receipts do not."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def printable(path: Path) -> str:
    r"""A path with undecodable bytes shown as escapes.

    >>> printable(Path("a\udcff.mp4"))
    'a\\udcff.mp4'
    """
    return str(path).encode("utf-8", "backslashreplace").decode()


def require_text(path: Path) -> None:
    """Raise if a file name is not valid Unicode.

    Raises:
        CorpusError: with the name, escaped.
    """
    if not is_text(str(path)):
        raise CorpusError(f"The name of '{printable(path)}' is not UTF-8, expected UTF-8. Rename it.")


def visible(folder: Path) -> list[Path]:
    """Entries of a folder by name, without hidden ones such as macOS's "._…"; none if there is no folder.

    Undecodable names are left out; `name_faults` reports them.
    """
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and is_text(path.name))


def name_faults(folder: Path) -> list[str]:
    """One sentence for each undecodable name in a folder."""
    if not folder.is_dir():
        return []
    strange = sorted(printable(path) for path in folder.iterdir() if not is_text(path.name))
    return [f"the name of '{name}' is not UTF-8, expected UTF-8; rename it" for name in strange]


class FolderIndex:
    """Entries of a folder by name, so that the folder is read only once for all trials.

    Attributes:
        folder: the folder, which need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[tuple[str, str], list[Path]] = {}
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        for path in (path for path in entries if is_text(path.name)):
            for key in {(trial_name(path), path.suffix.lower()), (normal(path.name), "")}:
                self._places.setdefault(key, []).append(path)

    def find(self, name: str, suffixes: Sequence[str]) -> list[Path]:
        """Entries with this name and one of the suffixes, in the order of the suffixes; "" means no suffix."""
        return [path for suffix in suffixes for path in self._places.get((normal(name), suffix.lower()), ())]
