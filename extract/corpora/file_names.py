"""Names of files as names of trials: one Unicode form, suffixes in any case; hidden files and names that are not text left out."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from cache.errors import CorpusError


def normal(name: str) -> str:
    """A name in Unicode's composed form (NFC), as macOS, archives and spreadsheets write one name in different ways."""
    return unicodedata.normalize("NFC", name)


def trial_name(path: Path) -> str:
    """Name of the trial that a file belongs to: its own without the suffix."""
    return normal(path.stem)


def is_text(name: str) -> bool:
    """Whether a name is Unicode: file systems allow any bytes, manifests and receipts do not."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def printable(path: Path) -> str:
    r"""A path with what is not Unicode in it as escapes.

    >>> printable(Path("a\udcff.mp4"))
    'a\\udcff.mp4'
    """
    return str(path).encode("utf-8", "backslashreplace").decode()


def require_text(path: Path) -> None:
    """Refuse a file whose name is not Unicode.

    Raises:
        CorpusError: naming it with escapes.
    """
    if not is_text(str(path)):
        raise CorpusError(f"The name of '{printable(path)}' is not UTF-8, expected UTF-8. Rename it.")


def visible(folder: Path) -> list[Path]:
    """Entries of a folder by name, without hidden ones such as the "._…" that macOS strews; none if there is no folder.

    Entries whose names are not text are left out; `name_faults` tells them.
    """
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and is_text(path.name))


def name_faults(folder: Path) -> list[str]:
    """One sentence for each entry of a folder whose name is not text."""
    if not folder.is_dir():
        return []
    strange = sorted(printable(path) for path in folder.iterdir() if not is_text(path.name))
    return [f"the name of '{name}' is not UTF-8, expected UTF-8; rename it" for name in strange]


class FolderIndex:
    """Entries of a folder by name, so that looking one up for every trial reads the folder once.

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
        """Entries of this name with one of the suffixes, in their order; "" stands for the name alone."""
        return [path for suffix in suffixes for path in self._places.get((normal(name), suffix.lower()), ())]
