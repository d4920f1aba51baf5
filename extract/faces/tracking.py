"""Follow one person's face through a trial.

Detections that overlap from one frame to the next make a tracklet; tracklets at one place make a
person; one person is the trial's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cache.errors import SettingError
from extract.faces.detection import Detection, FaceConfig, match_boxes

FACES = ("largest", "centre", "left", "right")
REFERENCE = "reference"  # the face that best matches a picture
_SHARE = 0.25  # of the frames of the person seen longest, to be more than a passer-by
_SAME_PLACE = 1.0  # face sizes between the centres of two tracks of one person
_SAME_SIZE = 2.0  # ratio of the sides of two tracks of one person
_SIGHTINGS = 5  # frames by which a person is compared with a picture

Sighting = tuple[int, NDArray[np.float32]]  # a frame and the (5, 2) landmarks of the face in it
Likeness = Callable[[Sequence[Sequence[Sighting]]], NDArray[np.float64]]
"""Sightings of N people → (N,) how much each of them is like a picture; above 0 for the same person."""


@dataclass(frozen=True)
class Track:
    """One face through a trial.

    Attributes:
        landmarks: (T, 5, 2) float32 pixels of the original picture; nan where the face is absent.
        present: (T,) bool.
    """

    landmarks: NDArray[np.float32]
    present: NDArray[np.bool_]


@dataclass
class _Tracklet:
    """One face while successive detections overlap."""

    frames: list[int] = field(default_factory=list)
    boxes: list[NDArray[np.float32]] = field(default_factory=list)
    landmarks: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, frame: int, box: NDArray[np.float32], landmarks: NDArray[np.float32]) -> None:
        self.frames.append(frame)
        self.boxes.append(box)
        self.landmarks.append(landmarks)


@dataclass
class _Person:
    """Tracklets that never overlap in time, sorted by it."""

    tracklets: list[_Tracklet] = field(default_factory=list)

    @property
    def num_frames(self) -> int:
        return sum(part.frames[-1] - part.frames[0] + 1 for part in self.tracklets)

    def place(self) -> tuple[NDArray[np.float32], float]:
        """Median centre (x, y) and median side of the boxes, pixels."""
        boxes = np.concatenate([np.stack(part.boxes) for part in self.tracklets])
        sides = np.sqrt(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1))
        return np.median((boxes[:, :2] + boxes[:, 2:]) / 2, axis=0), float(np.median(sides))

    def sightings(self) -> list[Sighting]:
        """A few detections, spread evenly over all of them."""
        seen = [pair for part in self.tracklets for pair in zip(part.frames, part.landmarks, strict=True)]
        places = np.linspace(0, len(seen) - 1, min(_SIGHTINGS, len(seen)) + 2)[1:-1]
        return [seen[at] for at in dict.fromkeys(np.rint(places).astype(int).tolist())]

    def neighbours(self, part: _Tracklet) -> tuple[_Tracklet | None, _Tracklet | None]:
        """The tracklets before and after the moment that another one starts."""
        at = bisect_left(self.tracklets, part.frames[0], key=lambda mine: mine.frames[0])
        return (self.tracklets[at - 1] if at else None), (self.tracklets[at] if at < len(self.tracklets) else None)

    def meets(self, part: _Tracklet) -> bool:
        """Whether this person is seen while the other tracklet lasts."""
        before, after = self.neighbours(part)
        return bool((before and before.frames[-1] >= part.frames[0]) or (after and after.frames[0] <= part.frames[-1]))

    def add(self, part: _Tracklet) -> None:
        self.tracklets.insert(bisect_left(self.tracklets, part.frames[0], key=lambda mine: mine.frames[0]), part)

    def distance(self, part: _Tracklet) -> float:
        """Face sizes to the nearest tracklet in time, from its end to the other's start; inf if of another size."""
        before, after = self.neighbours(part)
        steps = [(near.boxes[-1], part.boxes[0]) for near in (before,) if near]
        steps += [(part.boxes[-1], near.boxes[0]) for near in (after,) if near]
        return min(_box_distance(one, other) for one, other in steps)


def _box_distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    sides = [float(np.sqrt(max((box[2] - box[0]) * (box[3] - box[1]), 1e-6))) for box in (one, other)]
    if max(sides) > _SAME_SIZE * min(sides):
        return float("inf")
    apart = (one[:2] + one[2:] - other[:2] - other[2:]) / 2
    return float(np.hypot(*apart)) / max(sides)


def follow_face(
    detections: Mapping[int, Detection],
    config: FaceConfig,
    face: str,
    num_frames: int,
    frame_size: tuple[int, int],
    likeness: Likeness | None = None,
) -> Track:
    """Choose one person of a trial and follow the face.

    Persons seen for less than a quarter of the time of the one seen longest are passers-by. Among the
    others the face is chosen by medians over the trial, so that two people never swap: the largest
    area, or the one nearest the centre. The left (right) one is the leftmost (rightmost) where two of
    them are seen together; otherwise the one in that half of the picture, however seldom, and nobody
    if that half is empty: who is alone because the other one left does not change sides. By a
    reference picture every tracklet is compared with it, wherever and however long it is seen, and
    those that are like it are followed. (A cut from one face straight to another at the same place
    goes unnoticed; a frame without detection between them is enough.)

    Where the chosen person is not seen, another track fills in only if its person is never seen
    together with the chosen one, is of similar size, is not nearer to someone who is, and not in the
    other half where the half decides: the same face after it moved or after a cut.

    Args:
        detections: frame → its faces; frames that are missing were not looked at.
        config: settings.
        face: "largest", "centre", "left" or "right", as seen in the picture, or "reference".
        num_frames: T.
        frame_size: height and width of the picture, pixels.
        likeness: for "reference", how much people are like the picture.

    Returns:
        landmarks and presence of all T frames, interpolated linearly between detections.

    Raises:
        SettingError: if `face` is none of these, or there is no picture.
    """
    if face not in FACES and (face != REFERENCE or likeness is None):
        raise SettingError(
            f"Face '{face}' of a trial; expected one of {', '.join(FACES)}, or {REFERENCE} with a picture. "
            "Change it in the settings of the corpus."
        )
    tracklets = _lasting(_link(detections, config))
    people = [_Person([part]) for part in tracklets] if face == REFERENCE else _people(tracklets)
    track = Track(np.full((num_frames, 5, 2), np.nan, np.float32), np.zeros(num_frames, bool))
    for part in _choose(people, face, frame_size, likeness) if people else ():
        _draw(part, track)
    return track


def _choose(
    people: list[_Person], face: str, frame_size: tuple[int, int], likeness: Likeness | None
) -> list[_Tracklet]:
    """Tracklets of the trial's person; none if there is no candidate."""
    if likeness is not None and face == REFERENCE:
        return _choose_like(people, likeness)
    pool, fillers = _regulars(people), people
    if face in ("left", "right") and not _seen_together(pool):
        fillers = [person for person in people if _in_half(person, face, frame_size[1])]
        pool = _regulars(fillers)
    if not pool:
        return []

    def rank(person: _Person) -> float:
        centre, side = person.place()
        if face == "largest":
            return -side
        if face == "centre":
            return float(np.hypot(centre[0] - frame_size[1] / 2, centre[1] - frame_size[0] / 2))
        return float(centre[0] if face == "left" else -centre[0])

    chosen = min(pool, key=rank)
    _fill_in(chosen, [person for person in fillers if person is not chosen])
    return chosen.tracklets


def _choose_like(people: list[_Person], likeness: Likeness) -> list[_Tracklet]:
    """The tracklet that best matches the picture and, in other frames, further matches, best first."""
    scores = likeness([person.sightings() for person in people])
    order = [people[at] for at in np.argsort(-scores, kind="stable") if scores[at] > 0]
    for person in order[1:]:
        for part in person.tracklets:
            if not order[0].meets(part):
                order[0].add(part)
    return order[0].tracklets if order else []


def _regulars(people: list[_Person]) -> list[_Person]:
    longest = max((person.num_frames for person in people), default=0)
    return [person for person in people if person.num_frames >= _SHARE * longest]


def _seen_together(people: list[_Person]) -> bool:
    """Whether any two of them are seen at one moment."""
    return any(one.meets(part) for one in people for other in people if one is not other for part in other.tracklets)


def _in_half(person: _Person, face: str, width: int) -> bool:
    """Whether a face lies in the left or right half of the picture; one on the middle line lies in both."""
    centre, side = person.place()
    return float(centre[0] - width / 2) * (1 if face == "left" else -1) < side / 2


def _link(detections: Mapping[int, Detection], config: FaceConfig) -> list[_Tracklet]:
    """Tracklets of faces that overlap from one detection to the next."""
    longest_step = max(config.max_gap + 1, config.every)
    done: list[_Tracklet] = []
    active: list[_Tracklet] = []
    for frame in sorted(detections):
        found = detections[frame]
        done += [part for part in active if frame - part.frames[-1] > longest_step]
        active = [part for part in active if frame - part.frames[-1] <= longest_step]
        last = np.stack([part.boxes[-1] for part in active]) if active else np.zeros((0, 4), np.float32)
        pairs = {column: active[row] for row, column in match_boxes(last, found.boxes, config.min_overlap)}
        for column, box in enumerate(found.boxes):
            part = pairs.get(column)
            if part is None:
                part = _Tracklet()
                active.append(part)
            part.add(frame, box, found.landmarks[column])
    return sorted(done + active, key=lambda part: (part.frames[0], *part.boxes[0].tolist()))


def _lasting(tracklets: list[_Tracklet]) -> list[_Tracklet]:
    """Single detections count only if there is nothing else."""
    return [part for part in tracklets if len(part.frames) > 1] or tracklets


def _people(tracklets: list[_Tracklet]) -> list[_Person]:
    """Join tracklets by place, the longest first."""
    people: list[_Person] = []
    for part in sorted(tracklets, key=lambda part: part.frames[0] - part.frames[-1]):
        near = [(person.distance(part), at) for at, person in enumerate(people) if not person.meets(part)]
        distance, at = min(near, default=(float("inf"), 0))
        if distance > _SAME_PLACE:
            people.append(_Person())
            at = -1
        people[at].add(part)
    return people


def _fill_in(chosen: _Person, others: list[_Person]) -> None:
    """Give the chosen person those who can only be the same one, see `follow_face`."""
    home, side = chosen.place()
    met = [any(chosen.meets(part) for part in person.tracklets) for person in others]
    rivals = [person.place()[0] for person, is_met in zip(others, met, strict=True) if is_met]
    for person, is_met in zip(others, met, strict=True):
        centre, other_side = person.place()
        alike = max(side, other_side) <= _SAME_SIZE * min(side, other_side)
        nearer = all(np.hypot(*(centre - rival)) >= np.hypot(*(centre - home)) for rival in rivals)
        if not is_met and alike and nearer and not any(chosen.meets(part) for part in person.tracklets):
            for part in person.tracklets:
                chosen.add(part)


def _draw(part: _Tracklet, track: Track) -> None:
    """Write a tracklet into a track, linearly between its detections."""
    frames = np.arange(part.frames[0], part.frames[-1] + 1)
    points = np.stack(part.landmarks).reshape(len(part.frames), -1)
    columns = [np.interp(frames, part.frames, column) for column in points.T]
    track.landmarks[frames] = np.stack(columns, axis=1).reshape(-1, 5, 2)
    track.present[frames] = True
