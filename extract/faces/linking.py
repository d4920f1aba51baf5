"""Link the faces of a video's frames into tracklets: one face each, for as long as it overlaps from frame to frame."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from extract.faces.cuts import is_other, view_change
from extract.faces.detection import match_boxes
from extract.faces.search import Sight
from extract.faces.settings import FaceConfig

SAME_PLACE = 1.0  # largest distance between two tracklets of one person, in face sizes
SAME_SIZE = 2.0  # largest ratio between the face sizes of one person


class Tracklet:
    """One face for as long as successive detections overlap, in 68 bytes per detection.

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
        self._changes = array("f")  # of the face's view since the detection before, levels
        self._view: NDArray[np.int16] | None = None
        self.first_box = box
        self.add(frame, box, landmarks)

    def add(self, frame: int, box: NDArray[np.float32], landmarks: NDArray[np.float32]) -> None:
        """The next detection."""
        self.last_box = box
        self.frames.append(frame)
        self._changes.append(float("nan") if self._view is None else 0)
        self._values.frombytes(np.concatenate((box, landmarks.ravel())).astype(np.float32).tobytes())

    def look(self, view: NDArray[np.int16], change: float) -> None:
        """What is seen at the last detection (12, 12, 3), and how much that place has changed since the frame before, levels.

        Where somebody else is seen, both the place and the face look other than before; a box that jumps changes the latter only,
        and motion rather the former.
        """
        if self._view is not None:
            changed = float(view_change(view, self._view))
            self._changes[-1] = min(changed, change) if self.frames[-1] - self.frames[-2] == 1 else changed
        self._view = view

    @property
    def num_frames(self) -> int:
        """Frames from the first detection to the last one."""
        return self.frames[-1] - self.frames[0] + 1

    def boxes(self) -> NDArray[np.float32]:
        """(N, 4) of the detections, pixels."""
        return self._rows(0, len(self.frames))[:, :4]

    def values(self) -> NDArray[np.float32]:
        """(N, 14) boxes and landmarks of the detections, pixels."""
        return self._rows(0, len(self.frames))

    def landmarks(self, at: int) -> NDArray[np.float32]:
        """(5, 2) of one detection, pixels."""
        return self._rows(at, at + 1)[0, 4:].reshape(5, 2)

    def pieces(self, most_unseen: int) -> list[Tracklet]:
        """The same in pieces, each of one face: without more frames between two detections, or a sudden change; itself if it is one."""
        frames = np.array(self.frames)
        apart = is_other(np.array(self._changes, np.float32))
        apart[1:] |= np.diff(frames) > most_unseen + 1
        starts = [0, *np.flatnonzero(apart).tolist(), len(frames)]
        if len(starts) == 2:
            return [self]
        return [self._part(start, stop) for start, stop in pairwise(starts)]

    def append(self, other: Tracklet) -> None:
        """Go on with a tracklet that begins later."""
        self.frames.extend(other.frames)
        self._values.extend(other._values)
        self._changes.extend(other._changes)
        self.last_box = other.last_box

    def _part(self, start: int, stop: int) -> Tracklet:
        rows = self._rows(start, stop)
        part = Tracklet(self.frames[start], rows[0, :4], rows[0, 4:].reshape(5, 2), self.shot)
        for frame, row in zip(self.frames[start + 1 : stop], rows[1:], strict=True):
            part.add(frame, row[:4], row[4:].reshape(5, 2))
        return part

    def end_before(self, frame: int) -> None:
        """Drop the detections from a frame on; at least one is before it."""
        at = bisect_left(self.frames, frame)
        del self.frames[at:], self._changes[at:], self._values[14 * at :]
        self.last_box = self._rows(at - 1, at)[0, :4]

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
        frame, faces, cut, views, changes = sight
        self.shot += cut
        going_on = [not cut and frame - part.frames[-1] <= self._longest_step for part in self.active]
        self.done += [part for part, goes_on in zip(self.active, going_on, strict=True) if not goes_on]
        self.active = [part for part, goes_on in zip(self.active, going_on, strict=True) if goes_on]
        last = np.stack([part.last_box for part in self.active]) if self.active else np.zeros((0, 4), np.float32)
        known = dict(match_boxes(faces.boxes, last, self._min_overlap))
        active = list(self.active)
        for row, (box, landmarks) in enumerate(zip(faces.boxes, faces.landmarks, strict=True)):
            if row in known:
                part = active[known[row]]
                part.add(frame, box, landmarks)
            else:
                part = Tracklet(frame, box, landmarks, self.shot)
                self.active.append(part)
            if views is not None and changes is not None:
                part.look(views[row], float(changes[row]))


def link(sights: Iterable[Sight], config: FaceConfig) -> list[Tracklet]:
    """Link the faces of all frames into tracklets, in order of time."""
    linker = Linker(config)
    for sight in sights:
        linker.add(sight)
    found = sorted(linker.done + linker.active, key=lambda part: (part.frames[0], *part.first_box.tolist()))
    _end_doubles(found, config)
    return found


def _end_doubles(tracklets: Sequence[Tracklet], config: FaceConfig) -> None:
    """End tracklets that would soon end where another one of the same face begins, which was found twice for a moment."""
    recent: list[Tracklet] = []
    for part in tracklets:
        first = part.frames[0]
        recent = [one for one in recent if one.frames[-1] >= first]
        for one in recent:
            at = bisect_left(one.frames, first)
            ends = one.frames[0] < first and one.frames[-1] <= min(first + config.max_gap, part.frames[-1])
            if ends and match_boxes(one.boxes()[at : at + 1], part.first_box[None], config.min_overlap):
                one.end_before(first)
        recent.append(part)


def box_distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    sides = [float(np.sqrt(max((box[2] - box[0]) * (box[3] - box[1]), 1e-6))) for box in (one, other)]
    if max(sides) > SAME_SIZE * min(sides):
        return float("inf")
    apart = (one[:2] + one[2:] - other[:2] - other[2:]) / 2
    return float(np.hypot(*apart)) / max(sides)
