"""Choose one person of a video and follow the face: tracklets in one place form people, and one of these is chosen."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cache.errors import SettingError
from extract.faces.linking import SAME_PLACE, SAME_SIZE, Tracklet, box_distance
from extract.faces.settings import REFERENCE

FACES = ("largest", "centre", "left", "right")
_SHARE = 0.25  # people seen for a smaller share of the time of the one seen longest are passers-by
_SIGHTINGS = 5  # faces of a person that are compared with a picture

Sighting = tuple[int, NDArray[np.float32]]  # a frame and the (5, 2) landmarks of the face in it
Likeness = Callable[[Sequence[Sequence[Sighting]]], NDArray[np.float64]]
"""Maps the sightings of N people to their similarity (N,) to a picture; above 0 for the same person."""


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
class Person:
    """Tracklets that never overlap in time, in order."""

    tracklets: list[Tracklet] = field(default_factory=list)

    @property
    def num_frames(self) -> int:
        return sum(part.frames[-1] - part.frames[0] + 1 for part in self.tracklets)

    def place(self) -> tuple[NDArray[np.float32], float]:
        """Median centre (x, y) and median side of the boxes, pixels."""
        boxes = np.concatenate([part.boxes() for part in self.tracklets])
        sides = np.sqrt(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1))
        return np.median((boxes[:, :2] + boxes[:, 2:]) / 2, axis=0), float(np.median(sides))

    def sightings(self) -> list[Sighting]:
        """A few detections, evenly spaced."""
        seen = [(part, at) for part in self.tracklets for at in range(len(part.frames))]
        places = np.linspace(0, len(seen) - 1, min(_SIGHTINGS, len(seen)) + 2)[1:-1]
        chosen = [seen[place] for place in dict.fromkeys(np.rint(places).astype(int).tolist())]
        return [(part.frames[at], part.landmarks(at)) for part, at in chosen]

    def neighbours(self, part: Tracklet) -> tuple[Tracklet | None, Tracklet | None]:
        """The last tracklet that starts before another one, and the next."""
        at = self._place_of(part)
        return (self.tracklets[at - 1] if at else None), (self.tracklets[at] if at < len(self.tracklets) else None)

    def meets(self, part: Tracklet) -> bool:
        """Whether this person is seen during another tracklet."""
        before, after = self.neighbours(part)
        return bool((before and before.frames[-1] >= part.frames[0]) or (after and after.frames[0] <= part.frames[-1]))

    def add(self, part: Tracklet) -> None:
        self.tracklets.insert(self._place_of(part), part)

    def distance(self, part: Tracklet) -> float:
        """Smallest distance to the tracklets before and after another one, in face sizes; inf if the sizes differ."""
        before, after = self.neighbours(part)
        steps = [(before.last_box, part.first_box)] if before else []
        steps += [(part.last_box, after.first_box)] if after else []
        return min(box_distance(one, other) for one, other in steps)

    def _place_of(self, part: Tracklet) -> int:
        return bisect_left(self.tracklets, part.frames[0], key=lambda mine: mine.frames[0])


def follow_face(
    tracklets: Sequence[Tracklet],
    face: str,
    num_frames: int,
    frame_size: tuple[int, int],
    likeness: Likeness | None = None,
) -> Track:
    """Choose one person of a trial and follow the face.

    People seen for less than a quarter of the time of the one seen longest are passers-by. Among the others, the choice
    depends on medians over the trial, so that two people never swap: the largest face, or the one nearest the centre. "left"
    ("right") means the leftmost (rightmost) of people who are seen together; if nobody is, the one in that half of the
    picture, however rarely, or nobody: a person left alone does not change sides. With a reference picture, every tracklet
    is compared with it, however short, and those that match are followed. (A cut from one face directly to another in the
    same place goes unnoticed; one frame without a detection between them is enough.)

    Frames without the chosen person are filled from another one only if the two are never seen together, are of similar
    size, the other one is not nearer to somebody who is seen with the chosen one, and not in the wrong half if the half
    decides: it is then the same face after it moved, or after a cut.

    Args:
        tracklets: all of the video, in order of time.
        face: "largest", "centre", "left" or "right", as seen in the picture, or "reference".
        num_frames: T.
        frame_size: height and width of the picture, pixels.
        likeness: for "reference", compares people with the picture.

    Returns:
        Landmarks and presence in all T frames, interpolated linearly between detections.

    Raises:
        SettingError: if `face` is none of these, or there is no picture.
    """
    if face not in FACES and (face != REFERENCE or likeness is None):
        raise SettingError(
            f"Face '{face}' of a trial; expected one of {', '.join(FACES)}, or {REFERENCE} with a picture. "
            "Change it in the settings of the corpus."
        )
    tracklets = _drop_single(tracklets)
    people = [Person([part]) for part in tracklets] if face == REFERENCE else _join(tracklets)
    track = Track(np.full((num_frames, 5, 2), np.nan, np.float32), np.zeros(num_frames, bool))
    for part in _choose(people, face, frame_size, likeness) if people else ():
        _interpolate(part, track)
    return track


def _choose(people: list[Person], face: str, frame_size: tuple[int, int], likeness: Likeness | None) -> list[Tracklet]:
    """Tracklets of the chosen person; none if there is no candidate."""
    if likeness is not None and face == REFERENCE:
        return _choose_by_likeness(people, likeness)
    candidates = _drop_passers_by(people)
    if face in ("left", "right") and not _are_seen_together(candidates):
        people = [person for person in people if is_in_half(person, face, frame_size[1])]
        candidates = _drop_passers_by(people)
    if not candidates:
        return []

    def rank(person: Person) -> float:
        centre, side = person.place()
        if face == "largest":
            return -side
        if face == "centre":
            return float(np.hypot(centre[0] - frame_size[1] / 2, centre[1] - frame_size[0] / 2))
        return float(centre[0] if face == "left" else -centre[0])

    chosen = min(candidates, key=rank)
    _fill_in(chosen, [person for person in people if person is not chosen])
    return chosen.tracklets


def _choose_by_likeness(people: list[Person], likeness: Likeness) -> list[Tracklet]:
    """The tracklet that best matches the picture and, in other frames, the next best matches."""
    scores = likeness([person.sightings() for person in people])
    order = [people[at] for at in np.argsort(-scores, kind="stable") if scores[at] > 0]
    for person in order[1:]:
        for part in person.tracklets:
            if not order[0].meets(part):
                order[0].add(part)
    return order[0].tracklets if order else []


def _drop_passers_by(people: list[Person]) -> list[Person]:
    longest = max((person.num_frames for person in people), default=0)
    return [person for person in people if person.num_frames >= _SHARE * longest]


def _are_seen_together(people: list[Person]) -> bool:
    """Whether any two of them are seen at the same time."""
    return any(one.meets(part) for one in people for other in people if one is not other for part in other.tracklets)


def is_in_half(person: Person, face: str, width: int) -> bool:
    """Whether a face is in the left or right half of the picture; one across the middle is in both."""
    centre, side = person.place()
    return float(centre[0] - width / 2) * (1 if face == "left" else -1) < side / 2


def _drop_single(tracklets: Sequence[Tracklet]) -> list[Tracklet]:
    """Drop tracklets of a single detection, unless there are no others."""
    return [part for part in tracklets if len(part.frames) > 1] or list(tracklets)


def _join(tracklets: list[Tracklet]) -> list[Person]:
    """Join tracklets in one place to people, the longest first."""
    people: list[Person] = []
    for part in sorted(tracklets, key=lambda part: part.frames[0] - part.frames[-1]):
        near = [(person.distance(part), at) for at, person in enumerate(people) if not person.meets(part)]
        distance, at = min(near, default=(float("inf"), 0))
        if distance > SAME_PLACE:
            people.append(Person())
            at = -1
        people[at].add(part)
    return people


def _fill_in(chosen: Person, others: list[Person]) -> None:
    """Add people to the chosen one who can only be the same person, see `follow_face`."""
    home, side = chosen.place()
    met = [any(chosen.meets(part) for part in person.tracklets) for person in others]
    rivals = [person.place()[0] for person, is_met in zip(others, met, strict=True) if is_met]
    for person, is_met in zip(others, met, strict=True):
        centre, other_side = person.place()
        alike = max(side, other_side) <= SAME_SIZE * min(side, other_side)
        nearer = all(np.hypot(*(centre - rival)) >= np.hypot(*(centre - home)) for rival in rivals)
        if not is_met and alike and nearer and not any(chosen.meets(part) for part in person.tracklets):
            for part in person.tracklets:
                chosen.add(part)


def _interpolate(part: Tracklet, track: Track) -> None:
    """Write a tracklet into a track."""
    frames = slice(part.frames[0], part.frames[-1] + 1)
    track.landmarks[frames] = part.between(frames.start, frames.stop)
    track.present[frames] = True
