"""What is wrong in files of predictions: every file, and of each the first lines, all counted; and where they can be written."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from cache.errors import CorpusError, StoreError, counted
from extract.corpora.reading import read_csv

_SHOWN, _LEAST = 20, 2  # faulty lines that are shown of all files together, and at least of each


class Faults:
    """Faults of a file, or of the files in a folder: all those of whole files first, then the first lines of each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._whole: list[str] = []
        self._lines: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, line: int, text: str, file: str = "") -> None:
        """Add one fault: of a line, or of the whole if that is 0; in a file of the folder, if one is named."""
        if not line:
            self._whole.append(f"  {file}: {text}\n" if file else f"  {text}\n")
            return
        self._counts[file] += 1
        if self._counts[file] <= _SHOWN:
            self._lines.setdefault(file, []).append(f"  {f'{file} ' if file else ''}line {line}: {text}\n")

    def refuse(self, remedy: str) -> None:
        """Raise an error if there was any fault.

        Raises:
            CorpusError: with the faults, and how many there are.
        """
        if count := len(self._whole) + self._counts.total():
            shown = "".join([*self._whole, *map(self._show, self._lines)])
            raise CorpusError(f"'{self._path}' has {counted(count, 'fault')}:\n{shown}{remedy}")

    def _show(self, file: str) -> str:
        """The first faulty lines of a file, fewer where many files have some, and how many more there are."""
        most = max(_LEAST, _SHOWN // len(self._lines))
        left = self._counts[file] - most
        return "".join(self._lines[file][:most]) + (
            f"  {f'{file}: ' if file else ''}and {left} more\n" if left > 0 else ""
        )


def read_lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header of a CSV, and its other lines with their numbers; empty lines do not count.

    Raises:
        CorpusError: as `read_csv`.
    """
    lines = [(number, cells) for number, cells in enumerate(read_csv(path), start=1) if cells]
    return (lines[0][1], lines[1:]) if lines else ([], [])


def check_above(path: Path) -> None:
    """Check that no file stands where a folder above the path is needed.

    Raises:
        StoreError: if one does.
    """
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise StoreError(
                f"'{path}' cannot be written, as '{parent}' is a file, expected a folder. Name another place with --out."
            )


def find_fault(cell: str, low: float, high: float) -> str:
    """What is wrong with a cell that should hold a number in a closed range; "" if nothing is.

    >>> find_fault("0.5", -1, 1), find_fault("nan", -1, 1)
    ('', "'nan', expected a number from -1 to 1")
    """
    try:
        right = low <= float(cell) <= high
    except ValueError:
        right = False
    return "" if right else f"'{cell[:20]}', expected a number from {low:g} to {high:g}"
