"""Label tables of one's own: a CSV whose header names the targets, by frame or by time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extract.corpora.reading import RowFaults, read_csv

TIME = "time"
_ABSENT = ("", "nan", "na")
_LISTED_ROWS = 20  # faulty rows of one file that are named; more are counted


@dataclass(frozen=True)
class LabelTable:
    """Labels as written.

    Attributes:
        columns: names of the targets.
        rows: (N, C) float32 in [-1, 1], nan where a cell is empty.
        times_s: (N,) seconds, strictly increasing; None where row i is frame i.
    """

    columns: tuple[str, ...]
    rows: NDArray[np.float32]
    times_s: NDArray[np.float64] | None

    def select(self, targets: tuple[str, ...]) -> NDArray[np.float32]:
        """(N, C) the columns of these targets; a row that lacks one of them counts as not annotated."""
        rows = self.rows[:, [self.columns.index(name) for name in targets]].copy()
        rows[np.isnan(rows).any(axis=1)] = np.nan
        return rows


def read_table(path: Path) -> LabelTable:
    """Read a label file.

    Raises:
        CorpusError: if it is no CSV in UTF-8.
        RowFaults: if the header, a value or a time is wrong; names the file and every faulty line.
    """
    lines = read_csv(path)
    while lines and lines[-1] in ([], [""]):  # a line of commas is a row that is not annotated
        lines.pop()
    header = [name.lower() for name in lines[0]] if lines else []
    faults = _header_faults(header)
    columns = () if faults else tuple(name for name in header if name != TIME)
    if len(lines) < 2:
        faults.append("it has no rows")
    values: list[list[float]] = []
    for number, line in enumerate(lines[1:], start=2):
        row = _parse(line, header)
        if row is None:
            faults.append(
                f"line {number} is '{','.join(line)[:60]}', expected {len(header)} values: labels in [-1, 1] or empty where "
                "not annotated, times in seconds"
            )
        elif values and TIME in header and row[header.index(TIME)] <= values[-1][header.index(TIME)]:
            faults.append(f"line {number}: time {row[header.index(TIME)]} s is not later than the line before")
        else:
            values.append(row)
    if faults:
        more = f"; and {len(faults) - _LISTED_ROWS} more" if len(faults) > _LISTED_ROWS else ""
        message = f"Label file '{path}': {'; '.join(faults[:_LISTED_ROWS])}{more}. Mend the file."
        raise RowFaults(message, 0 if TIME in header else max(0, len(lines) - 1), columns)
    table = np.array(values)
    targets = [at for at, name in enumerate(header) if name != TIME]
    times = table[:, header.index(TIME)] if TIME in header else None
    return LabelTable(columns, table[:, targets].astype(np.float32), times)


def _header_faults(header: list[str]) -> list[str]:
    names = [name for name in header if name != TIME]
    if not names or len(set(header)) < len(header) or any(not name or _is_number(name) for name in header):
        shown = ",".join(header)[:60]
        return [
            f"line 1 is '{shown}', expected the names of the targets, each once, and '{TIME}' where rows are no frames"
        ]
    return []


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parse(line: list[str], header: list[str]) -> list[float] | None:
    """Values of a line, nan for empty labels; None if one is illegal."""
    if len(line) != len(header):
        return None
    values = []
    for name, cell in zip(header, line, strict=True):
        if name != TIME and cell.lower() in _ABSENT:
            values.append(math.nan)
            continue
        if not _is_number(cell):
            return None
        value = float(cell)
        if not math.isfinite(value) or (name != TIME and abs(value) > 1):
            return None
        values.append(value)
    return values
