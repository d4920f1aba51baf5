"""Choose one person of a video and follow the face."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cache.errors import SettingError
from extract.faces.linking import SAME_SIZE, Tracklet
from extract.faces.people import Crowd, Person, Sighting
from extract.faces.settings import REFERENCE

FACES = ("largest", "centre", "left", "right")
ALL = "all"  # of a video: a trial for each person
_SHARE = 0.25  # people seen for a smaller share of the time of the one seen longest are passers-by

Likeness = Callable[[Sequence[Sequence[Sighting]]], NDArray[np.float64]]
"""Maps the sightings of N people to their similarity (N,) to a picture; above 0 for the same person."""


@dataclass(frozen=True, eq=False)
class Track:
    """One face through a trial.

    Attributes:
        parts: tracklets that never overlap in time, in order.
        num_frames: T of the trial.
        cuts: number of cuts that end tracks, because nobody knows who is who after them.
        elsewhere: frames of other shots in which somebody is seen whom the choice would have followed there.
        other: frames of the face that is seen longest besides this one, among those that could have been followed.
    """

    parts: tuple[Tracklet, ...]
    num_frames: int
    cuts: int = 0
    elsewhere: int = 0
    other: int = 0

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """(T,) where the face is seen."""
        found = np.zeros(self.num_frames, bool)
        for part in self.parts:
            found[part.frames[0] : part.frames[-1] + 1] = True
        return found

    @cached_property
    def landmarks(self) -> NDArray[np.float32]:
        """(T, 5, 2) pixels of the original picture, interpolated linearly between detections; nan where the face is absent."""
        found = np.full((self.num_frames, 5, 2), np.nan, np.float32)
        for part in self.parts:
            first, stop = part.frames[0], min(part.frames[-1] + 1, self.num_frames)
            if first < stop:
                found[first:stop] = part.between(first, stop)
        return found


def follow_face(crowd: Crowd, face: str, likeness: Likeness | None = None) -> Track:
    """Choose one person of a trial and follow the face.

    People seen for less than a quarter of the time of the one seen longest are passers-by. Among the others, the choice
    depends on medians, so that two people never swap: the largest face, or the one nearest the centre. "left" ("right")
    means the leftmost (rightmost) of people who are seen together; if nobody is, the one in that half of the picture,
    however rarely, or nobody: a person left alone does not change sides. With a reference picture, every tracklet is
    compared with it, however short, and those that match are followed.

    People who are known by their faces are followed through the whole video. Otherwise nobody knows who is who after a
    cut: the face is followed in one shot only, the one in which it is seen longest. There, frames without the chosen person
    are filled from another one only if the two are never seen together, are of similar size, the other one is not nearer to
    somebody who is seen with the chosen one, and not in the wrong half if the half decides: it is then the same face after
    it moved.

    Args:
        crowd: everybody in the video.
        face: "largest", "centre", "left" or "right", as seen in the picture, or "reference".
        likeness: for "reference", compares people with the picture.

    Raises:
        SettingError: if `face` is none of these, or there is no picture.
    """
    if face not in FACES and (face != REFERENCE or likeness is None):
        raise SettingError(
            f"Face '{face}' of a trial; expected one of {', '.join(FACES)}, or {REFERENCE} with a picture. "
            "Change it in the settings of the corpus."
        )
    if likeness is not None and face == REFERENCE:
        parts = [Person([part]) for person in crowd.people for part in person.tracklets]
        return Track(tuple(_choose_by_likeness(parts, likeness)), crowd.num_frames)
    found = []
    for people in crowd.shots:
        chosen, others = _choose(people, face, crowd.frame_size)
        if chosen is not None:
            found.append((chosen, others) if crowd.known else _fill_in(chosen, others))
    if not found:
        return Track((), crowd.num_frames)
    person, others = max(found, key=lambda pair: pair[0].num_frames)
    return Track(
        tuple(person.tracklets),
        crowd.num_frames,
        0 if crowd.known else crowd.cuts,
        sum(each.num_frames for each, _ in found) - person.num_frames,
        max((each.num_frames for each in others), default=0),
    )


def _choose(people: list[Person], face: str, frame_size: tuple[int, int]) -> tuple[Person | None, list[Person]]:
    """The person to follow, None if there is no candidate; and those who could be the same person."""
    candidates = _drop_passers_by(people)
    if face in ("left", "right") and not _are_seen_together(candidates):
        people = [person for person in people if is_in_half(person, face, frame_size[1])]
        candidates = _drop_passers_by(people)

    def rank(person: Person) -> float:
        centre, side = person.place()
        if face == "largest":
            return -side
        if face == "centre":
            return float(np.hypot(centre[0] - frame_size[1] / 2, centre[1] - frame_size[0] / 2))
        return float(centre[0] if face == "left" else -centre[0])

    chosen = min(candidates, key=rank, default=None)
    return chosen, [person for person in people if person is not chosen]


def _choose_by_likeness(people: list[Person], likeness: Likeness) -> list[Tracklet]:
    """The tracklet that best matches the picture and, in other frames, the next best matches."""
    scores = likeness([person.sightings() for person in people]) if people else np.zeros(0)
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


def _fill_in(first: Person, others: list[Person]) -> tuple[Person, list[Person]]:
    """A person with others who can only be the same one, see `follow_face`; and the rest."""
    chosen, rest = Person(list(first.tracklets)), []
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
        else:
            rest.append(person)
    return chosen, rest
