"""Alignment: maps the rows of a backbone's output to the frames of the label clock.

A trial is read as items (an image, a sentence, a chunk of sound). A backbone turns each item into one or more rows (an
embedding, one vector per word, fifty hidden states a second). Rows are numbered across all items of the trial.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock, nanoseconds


@dataclass(frozen=True)
class Alignment:
    """The rows that each frame uses; several frames may share a row.

    Attributes:
        first: (T,) first row of each frame.
        stop: (T,) row after its last one; not above `first` where a frame has no row.
        rows: (N,) number of rows of each item.
    """

    first: NDArray[np.int64]
    stop: NDArray[np.int64]
    rows: NDArray[np.int64]

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """(T,) true where a frame has a row."""
        return self.stop > self.first

    @cached_property
    def is_single(self) -> bool:
        """Whether no frame has more than one row."""
        return bool((self.stop - self.first <= 1).all())

    @cached_property
    def _is_plain(self) -> bool:
        """Whether row i belongs to frame i, if that has one."""
        own = np.arange(len(self.first))
        return self.is_single and np.array_equal(self.first, own) and np.array_equal(self.rows, np.ones_like(own))

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(N + 1,) first row of each item, then the total number of rows."""
        return np.concatenate([[0], np.cumsum(self.rows)])

    @cached_property
    def frames(self) -> NDArray[np.int64]:
        """(N,) number of frames whose first row belongs to each item."""
        items = np.searchsorted(self.starts, self.first[self.valid], side="right") - 1
        return np.bincount(items, minlength=len(self.rows))

    def used_items(self) -> NDArray[np.int64]:
        """Items with a row that some frame uses, in order."""
        edges = np.zeros(self.starts[-1] + 1, np.int64)
        np.add.at(edges, self.first[self.valid], 1)
        np.add.at(edges, self.stop[self.valid], -1)
        rows = np.flatnonzero(np.cumsum(edges[:-1]))
        return np.unique(np.searchsorted(self.starts, rows, side="right") - 1)

    def rows_of(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of some items, in the order in which a backbone returns them."""
        if len(self.rows) == self.starts[-1] and (self.rows == 1).all():
            return items
        return np.concatenate([np.arange(self.starts[item], self.starts[item + 1]) for item in items])

    def average(self, found: NDArray[np.floating]) -> NDArray[np.floating]:
        """(T, D) mean of each frame's rows (R, D), in the same precision; zero where a frame has none.

        Rows that each belong to their own frame are returned themselves, because a copy of an hour of them is large.
        """
        if self._is_plain:
            found[~self.valid] = 0
            return found
        count = self.stop - self.first
        total = np.zeros((len(count), found.shape[1]), found.dtype)
        total[self.valid] = found[self.first[self.valid]]
        for step in range(1, int(count.max(initial=0))):
            more = np.flatnonzero(count > step)
            total[more] += found[self.first[more] + step]
        several = np.flatnonzero(count > 1)
        total[several] /= count[several, None].astype(total.dtype)
        return total


def align_frames(valid: NDArray[np.bool_]) -> Alignment:
    """One item and one row per frame, used where `valid` (T,).

    >>> align_frames(np.array([True, False])).stop
    array([1, 1])
    """
    frames = np.arange(len(valid))
    return Alignment(frames, frames + valid, np.ones(len(valid), np.int64))


def align_shared(rows: NDArray[np.int64], per_item: NDArray[np.int64]) -> Alignment:
    """One row per frame.

    Args:
        rows: (T,) the row that each frame uses, -1 for none.
        per_item: (N,) number of rows of each item.
    """
    return Alignment(rows, rows + (rows >= 0), per_item)


def align_centres(
    centres_s: NDArray[np.float64], period_s: float, clock: FrameClock, per_item: NDArray[np.int64]
) -> Alignment:
    """Give each frame the rows whose centres lie inside it or, if there are none, the nearest one within a period.

    Times are compared in whole nanoseconds, so that equal fractions of a second are equal at every rate.

    Args:
        centres_s: (R,) centres of the rows, ascending, seconds in the media's own time.
        period_s: time from one row to the next, seconds.
        clock: the label clock.
        per_item: (N,) number of rows of each item.
    """
    centres = nanoseconds(centres_s)
    edges = nanoseconds(clock.edges_s())
    first, stop = (np.searchsorted(centres, side, side="left") for side in (edges[:-1], edges[1:]))
    empty = np.flatnonzero(first == stop)
    if len(empty) and len(centres):
        middle = (edges[empty] + edges[empty + 1]) // 2
        after = np.clip(first[empty], 0, len(centres) - 1)
        before = np.clip(first[empty] - 1, 0, len(centres) - 1)
        nearest = np.where(np.abs(centres[before] - middle) <= np.abs(centres[after] - middle), before, after)
        near = np.abs(centres[nearest] - middle) <= nanoseconds(period_s)
        first[empty] = nearest
        stop[empty] = nearest + near
    return Alignment(first, stop, per_item)
