"""Where a video cuts to another shot: the picture changes at once, and not before or after.

And where only a part of it does, so that somebody else may be seen where a face was, as in a small tile of a video conference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 24  # blocks along the longer side of the thumbnails that are compared
_ROWS = 5  # of a block that are looked at
_CHANGE = 18.0  # mean difference of two thumbnails across a cut, levels of 255
_POINTS = 12  # along each side of what is looked at of a face
_STEPS = (np.arange(_POINTS, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / _POINTS) - 1  # from its centre
_AROUND = 1.3  # sides of a face that are looked at
_OTHER = 12.0  # mean difference of two views of a face where it may be another one, levels of 255
_USUAL = 2.0  # times the change that is usual for the face
_NEAR = 6  # sightings before and after that say what is usual
_RATIO = 2.5  # of the change at a cut to those before and after; motion and flashes change several pictures


class CutFinder:
    """Finds cuts in pictures that come one after another; it takes one picture more to know of a cut."""

    def __init__(self) -> None:
        self._changes: dict[int, float] = {}
        self._taken = -1
        self._last: NDArray[np.float32] | None = None

    def add(self, frame: int, picture: NDArray[np.uint8]) -> None:
        """The next picture (H, W, 3) uint8 RGB."""
        thumbnail = _thumbnail(picture)
        before = self._last if self._last is not None and self._last.shape == thumbnail.shape else thumbnail
        self._changes[frame] = float(np.abs(thumbnail - before).mean())
        self._last = thumbnail

    def take(self, until: int) -> set[int]:
        """Frames up to this one that begin a shot, each once."""
        changes = self._changes
        cuts = {frame for frame in changes if self._taken < frame <= until and self._is_cut(frame)}
        self._changes = {frame: change for frame, change in changes.items() if frame >= until}
        self._taken = until
        return cuts

    def _is_cut(self, frame: int) -> bool:
        around = max(self._changes.get(frame - 1, 0.0), self._changes.get(frame + 1, 0.0))
        return self._changes[frame] >= max(_CHANGE, _RATIO * around)


def _thumbnail(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(h, w, 3) means of blocks, from some rows of each."""
    height, width = picture.shape[:2]
    block = max(height, width) / _SIDE
    step = max(1, int(block / _ROWS))
    rows = Image.fromarray(np.ascontiguousarray(picture[step // 2 :: step]))
    size = max(1, round(width / block)), max(1, round(height / block))
    return np.asarray(rows.resize(size, Image.Resampling.BOX), np.float32)


def face_views(pictures: Sequence[NDArray[np.uint8]], boxes: NDArray[np.float32]) -> NDArray[np.int16]:
    """(P, N, 12, 12, 3) what P pictures (H, W, 3) uint8 RGB of one size show in and around boxes (N, 4), pixels."""
    height, width = pictures[0].shape[:2]
    centres, halves = (boxes[:, 2:] + boxes[:, :2]) / 2, (boxes[:, 2:] - boxes[:, :2]) * (_AROUND / 2)
    places = np.rint(centres[:, :, None] + halves[:, :, None] * _STEPS).astype(np.intp)
    np.clip(places, 0, [[width - 1], [height - 1]], out=places)
    points = places[:, 1, :, None] * width + places[:, 0, None, :]
    return np.array([picture.reshape(-1, 3).take(points, axis=0) for picture in pictures], np.int16)


def view_change(view: NDArray[np.int16], before: NDArray[np.int16]) -> NDArray[np.float64]:
    """Mean difference of views (..., 12, 12, 3), levels (...)."""
    levels = np.abs(view - before).reshape(*view.shape[:-3], -1)
    return np.asarray(levels.sum(axis=-1, dtype=np.int64) / levels.shape[-1])


def is_other(changes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(N,) where somebody else may be seen than in the sighting before: the change is more than is usual nearby.

    Args:
        changes: (N,) mean differences of a face's views since the sighting before, levels; nan where nobody knows.
    """
    padded = np.pad(changes, _NEAR, constant_values=np.nan)
    nearby = np.sort(np.delete(np.lib.stride_tricks.sliding_window_view(padded, 2 * _NEAR + 1), _NEAR, axis=1), axis=1)
    known = (~np.isnan(nearby)).sum(axis=1)
    # Half of them change by more, and may be swaps as well; the others by less, as repeated pictures do, which may be every other one.
    usual = nearby[np.arange(len(changes)), np.maximum(known - np.maximum(known // 2, 1), 0)]
    return (changes >= _OTHER) & ~(changes < _USUAL * usual)
