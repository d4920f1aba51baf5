"""Link the faces of a video's frames into tracklets: one face each, for as long as it overlaps from frame to frame."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from extract.faces.detection import match_boxes
from extract.faces.search import Sight
from extract.faces.settings import FaceConfig

SAME_PLACE = 1.0  # largest distance between two tracklets of one person, in face sizes
SAME_SIZE = 2.0  # largest ratio between the face sizes of one person


class Tracklet:
    """One face for as long as successive detections overlap, in 64 bytes per detection.

    Attributes:
        frames: in which it was detected, in order.
        first_box: (4,) pixels, where it appears.
        last_box: where it is lost.
        shot: number of cuts before it.
    """

    def __init__(self, frame: int, box: NDArray[np.float32], landmarks: NDArray[np.float32], shot: int) -> None:
        self.shot = shot
        self.frames = array("q")
        self._values = array("f")
        self.first_box = box
        self.add(frame, box, landmarks)

    def add(self, frame: int, box: NDArray[np.float32], landmarks: NDArray[np.float32]) -> None:
        self.last_box = box
        self.frames.append(frame)
        self._values.frombytes(np.concatenate((box, landmarks.ravel())).astype(np.float32).tobytes())

    def boxes(self) -> NDArray[np.float32]:
        """(N, 4) of the detections, pixels."""
        return self._rows(0, len(self.frames))[:, :4]

    def landmarks(self, at: int) -> NDArray[np.float32]:
        """(5, 2) of one detection, pixels."""
        return self._rows(at, at + 1)[0, 4:].reshape(5, 2)

    def between(self, start: int, stop: int) -> NDArray[np.float32]:
        """(N, 5, 2) landmarks in the frames from `start` to `stop` of the tracklet, interpolated linearly."""
        first = max(0, bisect_right(self.frames, start) - 1)
        last = bisect_left(self.frames, stop - 1) + 1
        points = self._rows(first, last)[:, 4:]
        columns = [np.interp(np.arange(start, stop), self.frames[first:last], column) for column in points.T]
        return np.stack(columns, axis=1).reshape(-1, 5, 2).astype(np.float32)

    def _rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """(N, 14) boxes and landmarks of some detections."""
        return np.array(self._values[14 * start : 14 * stop], np.float32).reshape(-1, 14)


class Linker:
    """Links faces that overlap from one frame to the next into tracklets; a cut ends all of them.

    Attributes:
        active: tracklets that may go on.
        done: the others.
        shot: number of cuts so far.
    """

    def __init__(self, config: FaceConfig) -> None:
        self._longest_step = config.max_gap + 1
        self._min_overlap = config.min_overlap
        self.shot = 0
        self.done: list[Tracklet] = []
        self.active: list[Tracklet] = []

    def add(self, sight: Sight) -> None:
        """The faces of the next frame."""
        frame, faces, cut = sight
        self.shot += cut
        going_on = [not cut and frame - part.frames[-1] <= self._longest_step for part in self.active]
        self.done += [part for part, goes_on in zip(self.active, going_on, strict=True) if not goes_on]
        self.active = [part for part, goes_on in zip(self.active, going_on, strict=True) if goes_on]
        last = np.stack([part.last_box for part in self.active]) if self.active else np.zeros((0, 4), np.float32)
        known = dict(match_boxes(faces.boxes, last, self._min_overlap))
        active = list(self.active)
        for row, (box, landmarks) in enumerate(zip(faces.boxes, faces.landmarks, strict=True)):
            if row in known:
                active[known[row]].add(frame, box, landmarks)
            else:
                self.active.append(Tracklet(frame, box, landmarks, self.shot))


def link(sights: Iterable[Sight], config: FaceConfig) -> list[Tracklet]:
    """Link the faces of all frames into tracklets, in order of time."""
    linker = Linker(config)
    for sight in sights:
        linker.add(sight)
    return sorted(linker.done + linker.active, key=lambda part: (part.frames[0], *part.first_box.tolist()))


def box_distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    sides = [float(np.sqrt(max((box[2] - box[0]) * (box[3] - box[1]), 1e-6))) for box in (one, other)]
    if max(sides) > SAME_SIZE * min(sides):
        return float("inf")
    apart = (one[:2] + one[2:] - other[:2] - other[2:]) / 2
    return float(np.hypot(*apart)) / max(sides)
