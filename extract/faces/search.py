"""Find the faces in every picture of a video, without searching all of them.

All of a picture is searched in every k-th frame, and on both sides of a cut. In between faces are followed: MTCNN's third network, which
measures landmarks, looks where each face should be, halfway between two searches that show it, or where it was in the frame before. Where
it does not see the face that both searches show, the frame halfway is searched as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.faces.cuts import CutFinder, face_views, view_change
from extract.faces.detection import Detection, Detector, match_boxes, overlaps, scale_boxes
from extract.faces.settings import FaceConfig

Picture = NDArray[np.uint8]

_BATCH = 4  # searched pictures at once; between them lie all others, so that memory holds `every` times as many
_SAME_FACE = 0.5  # intersection over union of one face, found in two ways
_FAINT = 0.2  # probability down to which a face is followed, though it is not counted
_FAR = 0.15  # face sides between where a face was expected and where it was seen that are worth another look
_SHORTEST = 2  # frames between two searches that are not worth a third


class Sight(NamedTuple):
    """The faces of one frame.

    Attributes:
        frame: its number.
        faces: N faces.
        cut: whether the frame before it belongs to another shot.
        views: (N, 12, 12, 3) what is seen at each face, see `extract.faces.cuts.face_views`; None if nobody asks.
        changes: (N,) of what is seen there since the frame before, levels of 255.
    """

    frame: int
    faces: Detection
    cut: bool
    views: NDArray[np.int16] | None = None
    changes: NDArray[np.float64] | None = None


class _Followers(NamedTuple):
    """Faces that are followed from frame to frame.

    Attributes:
        boxes: (N, 4) in the frame before, pixels.
        motion: (N, 4) by which they have moved to there.
        unseen: (N,) frames since they were last sure to be faces.
    """

    boxes: NDArray[np.float32]
    motion: NDArray[np.float32]
    unseen: NDArray[np.int64]

    @classmethod
    def none(cls) -> _Followers:
        return cls(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))

    def and_more(self, boxes: NDArray[np.float32], motion: NDArray[np.float32]) -> _Followers:
        unseen = np.concatenate((self.unseen, np.zeros(len(boxes), np.int64)))
        return _Followers(np.concatenate((self.boxes, boxes)), np.concatenate((self.motion, motion)), unseen)

    def where(self, chosen: NDArray[np.bool_]) -> _Followers:
        return _Followers(self.boxes[chosen], self.motion[chosen], self.unseen[chosen])


class FaceSearch:
    """Finds the faces of pictures that come one after another.

    Keeps at most `most_held` pictures, and the last one that is decided.

    Args:
        detector: finds and measures faces.
        config: settings.
        batch_size: pictures that are searched at once; affects speed, memory and delay, not the result.
        views: whether faces are looked at, to see where somebody else may be seen at one place.
    """

    def __init__(self, detector: Detector, config: FaceConfig, batch_size: int = _BATCH, views: bool = False) -> None:
        self._detector, self._config, self._batch_size, self._views = detector, config, batch_size, views
        self._pictures: dict[int, Picture] = {}
        self._samples: list[int] = []
        self._found: dict[int, Detection] = {}
        self._cuts = CutFinder()
        self._least = config.thresholds[2]
        self._faint = _Followers.none()

    def add(self, frame: int, picture: Picture) -> list[Sight]:
        """The next picture (H, W, 3) uint8 RGB; returns the frames that are decided now, in order."""
        self._pictures[frame] = picture
        self._cuts.add(frame, picture)
        # One picture more than the samples: it shows whether the last one begins a shot.
        decided = self._decide() if len(self._samples) == self._batch_size else []
        if frame % self._config.every == 0:
            self._samples.append(frame)
        return decided

    def finish(self) -> list[Sight]:
        """The last picture was added; returns the frames that are decided now, in order."""
        if self._pictures:
            self._samples = list(dict.fromkeys([*self._samples, max(self._pictures)]))
        return self._decide() if self._samples else []

    def _decide(self) -> list[Sight]:
        """Search the samples and both sides of cuts, and follow faces between them."""
        before, last = max(self._found, default=-1), self._samples[-1]
        cuts = self._cuts.take(last)
        searched = sorted(frame for frame in {*self._samples, *cuts, *(cut - 1 for cut in cuts)} if frame > before)
        self._search(searched)
        previous = before
        for frame in searched:
            if frame in cuts:
                self._faint = _Followers.none()
            elif previous >= 0:
                self._follow(previous, frame)
            previous = frame
        decided = [self._sight(frame, frame in cuts) for frame in sorted(self._found) if frame > before]
        self._pictures = {frame: picture for frame, picture in self._pictures.items() if frame >= last}
        self._found = {frame: faces for frame, faces in self._found.items() if frame >= last - 1}
        self._samples = []
        return decided

    def _sight(self, frame: int, cut: bool) -> Sight:
        """What is known of a frame: its picture and that of the frame before are here."""
        faces, factors = self._found[frame], self._detector.factors
        if not self._views or not len(faces.boxes):
            return Sight(frame, faces, cut)
        boxes = scale_boxes(faces.boxes, (1 / factors[0], 1 / factors[1]))
        picture = self._pictures[frame]
        views, before = face_views([picture, self._pictures.get(frame - 1, picture)], boxes)
        return Sight(frame, faces, cut, views, view_change(views, before))

    def _search(self, frames: Sequence[int]) -> None:
        """Search all of some pictures; a batch ends when the picture size changes."""
        start = 0
        while start < len(frames):
            stop = start + 1
            shape = self._pictures[frames[start]].shape
            while stop < min(start + self._batch_size, len(frames)) and self._pictures[frames[stop]].shape == shape:
                stop += 1
            batch = frames[start:stop]
            found = self._detector.search([self._pictures[frame] for frame in batch])
            self._found.update(zip(batch, found, strict=True))
            start = stop

    def _follow(self, first: int, last: int) -> None:
        """Find the faces between two searched frames of one shot."""
        frames = range(first + 1, last)
        one, other = self._found[first].boxes, self._found[last].boxes
        motion = self._motion(first)
        pairs = match_boxes(one + motion * np.float32(last - first), other, self._config.min_overlap)
        rows, columns = (np.array(side, int) for side in (zip(*pairs, strict=True) if pairs else ((), ())))
        steps = (other[columns] - one[rows]) / np.float32(last - first)
        found = self._measure(frames, [one[rows] + steps * np.float32(frame - first) for frame in frames])
        lost = any((faces.probabilities < self._least).any() for faces in found)
        if lost and len(frames) > _SHORTEST:
            middle = (first + last) // 2
            self._search([middle])
            self._follow(first, middle)
            self._follow(middle, last)
            return
        self._found.update({frame: self._sure(faces) for frame, faces in zip(frames, found, strict=True)})
        gone = np.setdiff1d(np.arange(len(one)), rows)
        new = other[np.setdiff1d(np.arange(len(other)), columns)]
        forward = self._faint.and_more(one[gone], motion[gone])
        backward = _Followers.none().and_more(new, np.zeros_like(new))
        for frame in frames:
            if not len(forward.boxes) and not len(backward.boxes):
                break
            forward, backward = self._step([frame, first + last - frame], [forward, backward])
        (forward,) = self._step([last], [forward])
        self._faint = forward.where(forward.unseen > 0)

    def _step(self, frames: Sequence[int], followers: Sequence[_Followers]) -> list[_Followers]:
        """Look for some faces where they have moved to in a frame, and for others in another frame."""
        expected = [each.boxes + each.motion for each in followers]
        found = self._measure(frames, expected)
        moved = [_distances(faces.boxes, boxes) > _FAR for faces, boxes in zip(found, expected, strict=True)]
        if any(each.any() for each in moved):  # look again from where the first look has moved to
            again = self._measure(frames, [faces.boxes[far] for faces, far in zip(found, moved, strict=True)])
            found = [faces.replaced(far, more) for faces, far, more in zip(found, moved, again, strict=True)]
        going_on = []
        for frame, each, faces in zip(frames, followers, found, strict=True):
            sure = faces.probabilities >= self._least
            if len(faces.boxes):
                self._found[frame] = _joined(self._found[frame], faces.where(sure))
            unseen = np.where(sure, 0, each.unseen + 1)
            kept = (faces.probabilities >= _FAINT) & (unseen <= self._config.max_gap)
            going_on.append(_Followers(faces.boxes, _shifts(faces.boxes, each.boxes), unseen).where(kept))
        return going_on

    def _motion(self, frame: int) -> NDArray[np.float32]:
        """(N, 4) by which the boxes of a frame have moved since the one before, pixels; 0 if unknown."""
        boxes = self._found[frame].boxes
        motion = np.zeros_like(boxes)
        before = self._found[frame - 1].boxes if frame - 1 in self._found else boxes[:0]
        for row, column in match_boxes(boxes, before, self._config.min_overlap):
            motion[row] = _shifts(boxes[row], before[column])
        return motion

    def _measure(self, frames: Sequence[int], boxes: Sequence[NDArray[np.float32]]) -> list[Detection]:
        if not any(len(each) for each in boxes):
            return [Detection.none() for _ in frames]
        return self._detector.measure([self._pictures[frame] for frame in frames], boxes)

    def _sure(self, faces: Detection) -> Detection:
        return faces.where(faces.probabilities >= self._least)


def most_held(config: FaceConfig, batch_size: int = _BATCH) -> int:
    """Pictures that wait at most until their faces are known."""
    return config.every * batch_size + 1


def find_faces(
    frames: Iterable[tuple[int, Picture]],
    detector: Detector,
    config: FaceConfig,
    batch_size: int = _BATCH,
    views: bool = False,
) -> Iterator[Sight]:
    """Yield the faces of every picture of a video.

    Args:
        frames: (index, (H, W, 3) uint8 RGB picture) in order, shrunk for detection.
        detector: finds and measures faces.
        config: settings.
        batch_size: pictures that are searched at once.
        views: see `FaceSearch`.
    """
    search = FaceSearch(detector, config, batch_size, views)
    for frame, picture in frames:
        yield from search.add(frame, picture)
    yield from search.finish()


def _shifts(boxes: NDArray[np.float32], before: NDArray[np.float32]) -> NDArray[np.float32]:
    """(..., 4) by which the centres of boxes (..., 4) have moved."""
    return (boxes - before).reshape(*boxes.shape[:-1], 2, 2).mean(axis=-2)[..., [0, 1, 0, 1]]


def _distances(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) between the centres of boxes (N, 4), in sides of the first ones."""
    sides = np.maximum((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0), 1)
    return np.hypot(*_shifts(boxes, others)[:, :2].T) / sides


def _joined(known: Detection, more: Detection) -> Detection:
    """Both, without the faces of `more` that are known."""
    if not len(known.boxes):
        return more
    new = overlaps(more.boxes, known.boxes).max(axis=1) < _SAME_FACE
    return Detection.of([known, more.where(new)])
