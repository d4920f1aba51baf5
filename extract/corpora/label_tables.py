"""Label tables: a CSV with the targets in its header, by frame or by time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.errors import counted, list_faults
from cache.targets import MEAN, Target
from extract.corpora.reading import RowFaults, read_csv

TIME = "time"
_ABSENT = ("", "nan", "na")
_REMEDY = (
    "Fix the file; declare labels with a range other than [-1, 1] in params.yaml: "
    "corpus.settings.targets: {NAME: [LOWEST, HIGHEST], …}."
)
_LISTED_ROWS = 20  # faulty rows of one file that are named; more are counted


@dataclass(frozen=True)
class LabelTable:
    """Labels as written.

    Attributes:
        columns: names of the targets.
        rows: (N, C) float32, nan where a cell is empty.
        times_s: (N,) seconds, strictly increasing; None if row i is frame i.
    """

    columns: tuple[str, ...]
    rows: NDArray[np.float32]
    times_s: NDArray[np.float64] | None

    def select(self, targets: Sequence[Target]) -> NDArray[np.float32]:
        """(N, C) the columns of these targets."""
        return self.rows[:, [self.columns.index(target.name) for target in targets]]


def read_table(path: Path, targets: Sequence[Target] = ()) -> LabelTable:
    """Read a label file.

    Args:
        path: the file.
        targets: the columns to use, with their ranges; by default all of them, in [-1, 1].

    Raises:
        CorpusError: if it is not a CSV in UTF-8.
        RowFaults: if the header, a value or a time is wrong; names the file and every faulty line.
    """
    lines = read_csv(path)
    while lines and lines[-1] in ([], [""]):  # a line of commas, in contrast, is an unannotated row
        lines.pop()
    header = [name.lower() for name in lines[0]] if lines else []
    faults = _header_faults(header)
    columns = () if faults else tuple(name for name in header if name != TIME)
    declared = {target.name: target for target in targets or map(Target, columns)}
    if len(lines) < 2:
        faults.append("it has no rows")
    values: list[list[float]] = []
    outside: list[list[float]] = []
    for number, line in enumerate(lines[1:], start=2):
        shown = f"line {number} is '{','.join(line)[:60]}'"
        try:
            row = _parse(line, header)
        except ValueError as error:
            faults.append(f"{shown}, {error}")
            continue
        wrong = _outside(row, header, declared)
        if wrong:
            ends = f"[{wrong[0].low:g}, {wrong[0].high:g}]"
            faults.append(f"{shown}, expected {wrong[0].name} within {ends}, or nothing where not annotated")
            outside.append(row)
        elif values and TIME in header and row[header.index(TIME)] <= values[-1][header.index(TIME)]:
            faults.append(f"line {number}: time {row[header.index(TIME)]} s is not later than the line before")
        else:
            values.append(row)
    if outside and len(outside) == len(faults):
        names = {target.name for row in outside for target in _outside(row, header, declared)}
        faults = [f"{_say_found([*values, *outside], header, names, len(outside))}; {faults[0]}"]
    if faults:
        message = f"Label file '{path}': {list_faults(faults, _LISTED_ROWS)}. {_REMEDY}"
        raise RowFaults(message, 0 if TIME in header else max(0, len(lines) - 1), columns)
    table = np.array(values)
    places = [at for at, name in enumerate(header) if name != TIME]
    times = table[:, header.index(TIME)] if TIME in header else None
    return LabelTable(columns, table[:, places].astype(np.float32), times)


def _header_faults(header: list[str]) -> list[str]:
    names = [name for name in header if name != TIME]
    if not names or len(set(header)) < len(header) or any(name in ("", MEAN) or _is_number(name) for name in header):
        shown = ",".join(header)[:60]
        return [
            f"line 1 is '{shown}', expected the names of the targets, each once and none of them '{MEAN}', and '{TIME}' where rows are not frames"
        ]
    return []


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _outside(row: list[float], header: list[str], declared: Mapping[str, Target]) -> list[Target]:
    """The targets whose label in a row is outside their range."""
    targets = [(declared[name], value) for name, value in zip(header, row, strict=True) if name in declared]
    return [target for target, value in targets if target.outside(np.float32(value))]


def _say_found(rows: list[list[float]], header: list[str], names: set[str], number: int) -> str:
    """Say which labels of these targets a file has, if a number of its rows are outside their range."""
    columns = [(name, [row[at] for row in rows if math.isfinite(row[at])]) for at, name in enumerate(header)]
    found = [f"{name} in [{min(column):g}, {max(column):g}]" for name, column in columns if name in names]
    return f"{counted(number, 'row')} outside the range, with {', '.join(found)}"


def _parse(line: list[str], header: list[str]) -> list[float]:
    """Values of a line, nan for empty labels.

    Raises:
        ValueError: if it does not fit the header; says what was expected.
    """
    if not line and len(header) == 1:  # with a single column, an empty line is an empty cell
        line = [""]
    if len(line) != len(header):
        raise ValueError(f"expected {len(header)} values")
    values = []
    for name, cell in zip(header, line, strict=True):
        if name != TIME and cell.lower() in _ABSENT:
            values.append(math.nan)
            continue
        value = float(cell) if _is_number(cell) else math.nan
        if not math.isfinite(value):
            raise ValueError(f"expected {'seconds' if name == TIME else f'a number as {name}, or nothing'}")
        values.append(value)
    return values
