"""What is wrong in files of predictions: line by line, the first ones shown and all counted; and where they can be written."""

from __future__ import annotations

from pathlib import Path

from cache.errors import CorpusError, StoreError, counted
from extract.corpora.reading import read_csv

_SHOWN = 20


class Faults:
    """Faults of a file, or of the files in a folder."""

    def __init__(self, path: Path) -> None:
        self._path, self._count = path, 0
        self._shown: list[str] = []

    def add(self, line: int, text: str, file: str = "") -> None:
        """Add one fault: of a line, or of the whole if that is 0; in a file of the folder, if one is named."""
        self._count += 1
        if len(self._shown) < _SHOWN:
            where = " ".join(([file] if file else []) + ([f"line {line}"] if line else []))
            self._shown.append(f"  {where}: {text}\n" if where else f"  {text}\n")

    def refuse(self, remedy: str) -> None:
        """Raise an error if there was any fault.

        Raises:
            CorpusError: with the first faults, and how many there are.
        """
        if self._count:
            more = f"  and {self._count - len(self._shown)} more\n" if self._count > len(self._shown) else ""
            raise CorpusError(
                f"'{self._path}' has {counted(self._count, 'fault')}:\n{''.join(self._shown)}{more}{remedy}"
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
