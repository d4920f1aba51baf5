"""Detectors for tests, which know a face when they search the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from extract.faces.detection import Detection, Detector, overlaps

Search = Callable[[Sequence[NDArray[np.uint8]]], list[Detection]]


def by_search(search: Search) -> Detector:
    """A detector that measures by searching: the face that overlaps most with a box, if any does."""

    def measure(pictures: Sequence[NDArray[np.uint8]], boxes: Sequence[NDArray[np.float32]]) -> list[Detection]:
        return [nearest(faces, near) for faces, near in zip(search(pictures), boxes, strict=True)]

    return Detector(search, measure)


def nearest(faces: Detection, boxes: NDArray[np.float32]) -> Detection:
    """For each box (N, 4) the face that overlaps most; itself with probability 0 where none does."""
    shared = overlaps(boxes, faces.boxes)
    if not shared.size:
        return Detection(boxes, np.zeros(len(boxes), np.float32), np.zeros((len(boxes), 5, 2), np.float32))
    best = shared.argmax(axis=1)
    seen = shared.max(axis=1) > 0
    found = np.where(seen[:, None], faces.boxes[best], boxes)
    return Detection(found, faces.probabilities[best] * seen, faces.landmarks[best])
