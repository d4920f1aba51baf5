"""Where a video cuts to another shot: the picture changes at once, and not before or after."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 24  # blocks along the longer side of the thumbnails that are compared
_ROWS = 5  # of a block that are looked at
_CHANGE = 18.0  # mean difference of two thumbnails across a cut, levels of 255
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
