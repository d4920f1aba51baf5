"""Arrays of a caller as tables of a bank, checked so that a message names what is wrong and where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import SettingError, ShapeError

Tables = dict[str, NDArray[np.float32]]
"""Trial → (T, D)."""


def as_tables(what: str, arrays: Mapping[str, Any]) -> Tables:
    """Trial → (T, D) float32.

    Args:
        what: they are, for messages.
        arrays: trial → array.

    Raises:
        ShapeError: if one is no table of numbers.
        SettingError: if a value is infinite, or becomes so.
    """
    return {trial_id: _as_table(f"{what} of trial '{trial_id}'", rows) for trial_id, rows in arrays.items()}


def check_tables(what: str, tables: Tables, lengths: Mapping[str, int], width: int | None = None) -> None:
    """Check one modality, which has all trials and one width, or the labels, of which some may be left out and whose width is given.

    Raises:
        ShapeError: names the first trial that does not fit.
    """
    all_needed = width is None
    for trial_id in dict.fromkeys([*lengths, *tables]):
        if trial_id not in lengths:
            raise ShapeError(
                f"{what} of trial '{trial_id}': the first modality lacks this trial. Leave it out, or add it there."
            )
        if trial_id not in tables:
            if all_needed:
                raise ShapeError(
                    f"{what} lacks trial '{trial_id}', which the first modality has. Add it, or leave it out there."
                )
            continue
        width = tables[trial_id].shape[1] if width is None else width
        if tables[trial_id].shape != (lengths[trial_id], width):
            raise ShapeError(
                f"{what} of trial '{trial_id}' has shape {tables[trial_id].shape}, expected {(lengths[trial_id], width)}: all arrays of a "
                "trial have the same frames, all of a modality the same width. Fix the array."
            )


def _as_table(what: str, rows: Any) -> NDArray[np.float32]:
    table = np.asarray(rows)
    if table.dtype.kind not in "fiub" or table.ndim != 2 or not table.size:
        raise ShapeError(
            f"{what} is of type {table.dtype} and shape {table.shape}, expected numbers of shape (frames, dimensions), at least one of "
            "each. Fix the array."
        )
    with np.errstate(over="ignore"):
        table = table.astype(np.float32)
    infinite = np.flatnonzero(np.isinf(table).any(axis=1))
    if len(infinite):
        raise SettingError(
            f"{what} has infinite values in {len(infinite)} frames, the first is {infinite[0]}; expected finite numbers of 32 bits, or "
            "nan where there is nothing. Fix the array."
        )
    return table
