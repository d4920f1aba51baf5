"""Annotation files in the style of Aff-Wild2: sides in trial names, and one row of values per video frame."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.errors import MissingFileError, list_faults
from cache.targets import AFFECT, names_of
from extract.corpora.reading import RowFaults, read_text, separator_fault

NOT_ANNOTATED = -5.0
_LISTED_ROWS = 20  # faulty rows of one file that are named; more are counted

_log = logging.getLogger(__name__)


def split_side(trial_id: str) -> tuple[str, str]:
    """Split a trial's name into its video and the face that is meant; only a side at the end of the name counts.

    >>> split_side("10-60-1280x720_right"), split_side("video_left_3")
    (('10-60-1280x720', 'right'), ('video_left_3', 'largest'))
    """
    for side in ("left", "right"):
        if trial_id.endswith(f"_{side}"):
            return trial_id.removesuffix(f"_{side}"), side
    return trial_id, "largest"


def read_annotation(path: Path, columns: Sequence[str] = names_of(AFFECT)) -> NDArray[np.float32]:
    """Read one annotation file: a header, then one row per video frame, values in [-1, 1] or -5 for "not annotated".

    A row counts as not annotated when any of its values is -5, as in [Karas2022]; a logged warning counts the rows where
    only some are.

    Args:
        path: the text file.
        columns: names that its header must hold, in this order.

    Returns:
        (T, C) float32 in [-1, 1], nan in every column of a row that is not annotated.

    Raises:
        MissingFileError: if the file does not exist.
        CorpusError: if it is not UTF-8 text.
        RowFaults: if the header, a row or the length is wrong; names the file and every faulty line.
    """
    if not path.exists():
        raise MissingFileError(f"No annotation file '{path}'. Check the corpus folder.")
    lines = read_text(path).rstrip().splitlines()
    if lines and (fault := separator_fault(lines[0])):
        raise RowFaults(f"Annotation file '{path}': {fault}. Save the file with commas.", max(0, len(lines) - 1))
    faults: list[str] = []
    header = ",".join(columns)
    if lines and lines[0].replace(" ", "").lower() != header:
        faults.append(f"line 1 is '{lines[0][:60]}', expected '{header}'")
    if len(lines) < 2:
        faults.append("it has no rows, expected one per video frame")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        values = _parse_row(line, len(columns))
        if values is None:
            faults.append(
                f"line {number} is '{line[:60]}', expected {len(columns)} values in [-1, 1], or -5 where not annotated"
            )
        else:
            rows.append(values)
    if faults:
        message = f"Annotation file '{path}': {list_faults(faults, _LISTED_ROWS)}. Fix the file."
        raise RowFaults(message, max(0, len(lines) - 1))
    return _without_unannotated(np.array(rows, np.float32), path)


def _parse_row(line: str, count: int) -> list[float] | None:
    try:
        values = [float(field) for field in line.split(",")]
    except ValueError:
        return None
    legal = all(-1.0 <= value <= 1.0 or value == NOT_ANNOTATED for value in values)
    return values if legal and len(values) == count else None


def _without_unannotated(labels: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
    absent = labels == NOT_ANNOTATED
    either = absent.any(axis=1)
    half = int((either & ~absent.all(axis=1)).sum())
    if half:
        _log.warning("'%s': %d rows are annotated in part; they count as not annotated.", path, half)
    labels[either] = np.nan
    return labels
