"""What is wrong in a file of predictions: line by line, the first ones shown and all counted."""

from __future__ import annotations

from pathlib import Path

from cache.errors import CorpusError, counted

_SHOWN = 20


class Faults:
    """Faulty lines of a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._count = path, 0
        self._shown: list[str] = []

    def add(self, line: int, text: str) -> None:
        """Add one fault of a line."""
        self._count += 1
        if len(self._shown) < _SHOWN:
            self._shown.append(f"  line {line}: {text}\n")

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
