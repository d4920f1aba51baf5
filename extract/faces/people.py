"""The people of a video: tracklets that can only be one person's, told apart by their faces or, within a shot, by their places.

They are kept as `NAME.json`, which says what they were found with, and their sightings in `NAME.npy`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cache.documents.arrays import format_array, read_array
from cache.documents.documents import Document, Number, digest_bytes, read_document, write_document, write_file
from cache.errors import CorpusError
from cache.foreign import sha256_file
from extract.faces.linking import SAME_PLACE, Tracklet, box_distance

VERSION = 1
_COLUMNS = 18  # person, tracklet, shot, frame, box, landmarks
_REMEDY = "Run 'avfusion corpus build' again, or predict again with --redo."
_UNSEEN = 3  # frames without a sighting after which somebody else may be in the same place
_SHORT = 10  # sightings of somebody who may be a bad look at somebody else
_HARDLY = 0.5  # of the least similarity, below which a face is strongly unlike
_SIGHTINGS = 5  # faces of a tracklet that are looked at to know whose it is

Sighting = tuple[int, NDArray[np.float32]]  # a frame and the (5, 2) landmarks of the face in it
Describe = Callable[[Sequence[Sequence[Sighting]]], NDArray[np.float32]]
"""Maps the sightings of N faces to descriptors (N, D) of norm 1."""


@dataclass
class Person:
    """Tracklets that never overlap in time, in order."""

    tracklets: list[Tracklet] = field(default_factory=list)

    @property
    def num_frames(self) -> int:
        """Frames in which the person is seen."""
        return sum(part.num_frames for part in self.tracklets)

    def place(self) -> tuple[NDArray[np.float32], float]:
        """Median centre (x, y) and median side of the boxes, pixels."""
        boxes = np.concatenate([part.boxes() for part in self.tracklets])
        sides = np.sqrt(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1))
        return np.median((boxes[:, :2] + boxes[:, 2:]) / 2, axis=0), float(np.median(sides))

    def sightings(self, most: int = _SIGHTINGS) -> list[Sighting]:
        """A few detections, evenly spaced."""
        seen = [(part, at) for part in self.tracklets for at in range(len(part.frames))]
        places = np.linspace(0, len(seen) - 1, min(most, len(seen)) + 2)[1:-1]
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
        """Add a tracklet that does not meet the others."""
        self.tracklets.insert(self._place_of(part), part)

    def distance(self, part: Tracklet) -> float:
        """Smallest distance to the tracklets before and after another one, in face sizes; inf if the sizes differ."""
        before, after = self.neighbours(part)
        steps = [(before.last_box, part.first_box)] if before else []
        steps += [(part.last_box, after.first_box)] if after else []
        return min(box_distance(one, other) for one, other in steps)

    def _place_of(self, part: Tracklet) -> int:
        return bisect_left(self.tracklets, part.frames[0], key=lambda mine: mine.frames[0])


@dataclass(frozen=True)
class Crowd:
    """Everybody in a video.

    Attributes:
        people: all of them; each belongs to one shot, unless they are known by their faces.
        known: whether they are told apart by their faces, so that a person goes on after a cut.
        cuts: number of cuts.
        num_frames: T.
        frame_size: height and width of the picture, pixels.
    """

    people: tuple[Person, ...]
    known: bool
    cuts: int
    num_frames: int
    frame_size: tuple[int, int]

    @property
    def shots(self) -> list[list[Person]]:
        """The people between whom one may be chosen: those of each shot, or all if they are known."""
        if self.known:
            return [list(self.people)] if self.people else []
        in_order = sorted(self.people, key=lambda person: person.tracklets[0].shot)
        return [list(group) for _, group in groupby(in_order, key=lambda person: person.tracklets[0].shot)]


def group_by_place(tracklets: Sequence[Tracklet]) -> list[Person]:
    """Join tracklets in one place of one shot to people, the longest first."""
    people: list[Person] = []
    for part in _longest_first(tracklets):
        free = [each for each in people if each.tracklets[0].shot == part.shot and not each.meets(part)]
        nearest = min(free, key=lambda person: person.distance(part), default=None)
        if nearest is None or nearest.distance(part) > SAME_PLACE:
            people.append(nearest := Person())
        nearest.add(part)
    return people


def group_by_face(tracklets: Sequence[Tracklet], describe: Describe, min_similarity: float) -> list[Person]:
    """Join tracklets of one face to people, the longest first, wherever and whenever it is seen.

    A tracklet with a gap or a sudden change may be of two people, one after the other in one place, so that its pieces are told apart as well.

    Args:
        tracklets: of the whole video.
        describe: describes faces.
        min_similarity: cosine between a tracklet's and a person's descriptors above which it is the same face.
    """
    pieces = [part.pieces(_UNSEEN) for part in tracklets]
    parts = _longest_first([piece for each in pieces for piece in each])
    found = _Known(min_similarity)
    for part, descriptor in zip(parts, describe([Person([part]).sightings() for part in parts]), strict=True):
        found.add(part, descriptor)
    for each in pieces:
        found.settle(each)
    people = [person for person in found.people if person.tracklets]
    next_of = {id(one): other for each in pieces for one, other in pairwise(each)}
    return [_rejoined(person, next_of) for person in _drop_glimpses(people)]


class _Known:
    """People who are known by their faces.

    Attributes:
        people: all of them; who is nobody after all has no tracklets.
    """

    def __init__(self, min_similarity: float) -> None:
        self.people: list[Person] = []
        self._least = min_similarity
        self._sums: list[NDArray[np.float32]] = []
        self._sightings: list[int] = []
        self._whose: dict[int, int] = {}
        self._descriptors: dict[int, NDArray[np.float32]] = {}

    def add(self, part: Tracklet, descriptor: NDArray[np.float32]) -> None:
        """A tracklet of the person who is most like it, or of a new one."""
        self._descriptors[id(part)] = descriptor
        alike = [self._likeness(at, part) for at in range(len(self.people))]
        free = [at for at, each in enumerate(alike) if each > self._least and not self.people[at].meets(part)]
        at = max(free, key=alike.__getitem__, default=len(self.people))
        if at == len(self.people):
            self.people.append(Person())
            self._sums.append(np.zeros_like(descriptor))
            self._sightings.append(0)
        self.people[at].add(part)
        self._sums[at] = self._sums[at] + descriptor
        self._sightings[at] += len(part.frames)
        self._whose[id(part)] = at

    def settle(self, pieces: Sequence[Tracklet]) -> None:
        """Give short pieces of a tracklet that are like nobody to the person who is seen before and after, as behind a hand or in a flash.

        Unless they are strongly unlike.
        """
        sure = [at for at, piece in enumerate(pieces) if self._sightings[self._whose[id(piece)]] > _SHORT]
        for before, after in pairwise(sure):
            person = self._whose[id(pieces[before])]
            if person != self._whose[id(pieces[after])]:
                continue
            for piece in pieces[before + 1 : after]:
                if self._likeness(person, piece) > _HARDLY * self._least and not self.people[person].meets(piece):
                    self.people[self._whose[id(piece)]].tracklets.remove(piece)
                    self.people[person].add(piece)
                    self._whose[id(piece)] = person

    def _likeness(self, person: int, part: Tracklet) -> float:
        total = self._sums[person]
        return float(total @ self._descriptors[id(part)]) / max(float(np.linalg.norm(total)), 1e-12)


def _drop_glimpses(people: list[Person]) -> list[Person]:
    """People without those of a single sighting, unless there are no others."""
    return [each for each in people if len(each.tracklets) > 1 or len(each.tracklets[0].frames) > 1] or people


def _rejoined(person: Person, next_of: Mapping[int, Tracklet]) -> Person:
    """A person whose pieces of one tracklet, one after the other, are one again, with the gaps between them bridged."""
    joined: list[Tracklet] = []
    last: Tracklet | None = None
    for piece in person.tracklets:
        if last is not None and next_of.get(id(last)) is piece:
            joined[-1].append(piece)
        else:
            joined.append(piece)
        last = piece
    return Person(joined)


def _longest_first(tracklets: Sequence[Tracklet]) -> list[Tracklet]:
    return sorted(tracklets, key=lambda part: -part.num_frames)


def everybody(people: Sequence[Person], least: int) -> list[Person]:
    """The people who are seen in at least so many frames, in the order in which they are first seen."""
    seen = [person for person in people if person.num_frames >= least]
    return sorted(seen, key=lambda person: (person.tracklets[0].frames[0], *person.tracklets[0].first_box.tolist()))


class _PeopleDocument(Document):
    version: Literal[1]
    made_of: dict[str, Any]
    people: Number
    sightings: Number
    content: str


def save_people(people: Sequence[Person], made_of: dict[str, Any], path: Path) -> None:
    """Write the people of a video.

    Args:
        people: in the order of their numbers.
        made_of: everything that they depend on, as JSON values.
        path: of the JSON.
    """
    parts = [(number, part) for number, person in enumerate(people) for part in person.tracklets]
    rows = [np.zeros((0, _COLUMNS), np.float32)]
    for at, (number, part) in enumerate(parts):
        whose = np.tile(np.array([number, at, part.shot], np.float32), (len(part.frames), 1))
        frames = np.array(part.frames, np.float32)[:, None]  # exact up to 16.7 million, eight days at 25 Hz
        rows.append(np.concatenate((whose, frames, part.values()), axis=1))
    content = format_array(np.concatenate(rows).astype("<f4", copy=False))
    write_file(path.with_suffix(".npy"), content)
    document = {
        "version": VERSION,
        "made_of": made_of,
        "people": len(people),
        "sightings": sum(len(each) for each in rows),
        "content": digest_bytes(content),
    }
    write_document(path, _PeopleDocument, document, sort_keys=True)


def count_people(path: Path, made_of: dict[str, Any]) -> int | None:
    """Number of people in a file that was made of this; None if there is no such file, or it is damaged: then it is made again."""
    try:
        document = read_document(path, _PeopleDocument, _REMEDY, CorpusError)
        return len(read_people(path)) if document is not None and document.made_of == made_of else None
    except CorpusError:
        return None


def read_made_of(path: Path) -> dict[str, Any]:
    """Everything that the people in a file depend on; nothing if it is absent.

    Raises:
        CorpusError: if it is damaged.
    """
    document = read_document(path, _PeopleDocument, _REMEDY, CorpusError)
    return {} if document is None else document.made_of


def read_people(path: Path) -> list[Person]:
    """The people in a file.

    Raises:
        CorpusError: if it is absent or damaged.
    """
    document = read_document(path, _PeopleDocument, _REMEDY, CorpusError)
    if document is None:
        raise CorpusError(f"No people of a video in '{path}'. {_REMEDY}")
    shape = document.sightings, _COLUMNS
    rows = read_array(path.with_suffix(".npy"), "<f4", shape, document.content, _REMEDY, CorpusError)
    people = [Person() for _ in range(document.people)]
    for own in np.split(rows, np.flatnonzero(np.diff(rows[:, 1])) + 1) if len(rows) else ():
        number, _, shot, first = (int(value) for value in own[0, :4])
        part = Tracklet(first, own[0, 4:8], own[0, 8:].reshape(5, 2), shot)
        for row in own[1:]:
            part.add(int(row[3]), row[4:8], row[8:].reshape(5, 2))
        people[number].add(part)
    return people


def person_key(face: str, path: Path) -> str:
    """Identifier of one of all people, part of the crops' identity: the number, and the digest of the file.

    Raises:
        MissingFileError: if there is no such file.
    """
    return f"{face} {sha256_file(path)}"
