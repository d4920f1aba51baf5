"""The people of one video, found once for everybody who asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock
from extract.faces.detection import Detection, Detector, align_face, scale_boxes
from extract.faces.likeness import SIZE, Embedder, Identity, Reference, unit
from extract.faces.linking import Tracklet, link
from extract.faces.people import Crowd, Sighting, group_by_face, group_by_place
from extract.faces.search import Sight, find_faces, most_held
from extract.faces.settings import FaceConfig
from extract.faces.tracking import Track, follow_face
from extract.media.video import probe, read_frames, read_twofold, shrunk_size

_BATCH = 16  # faces that are embedded at once

_FACES_PER_MEGAPIXEL = 4  # that are cut out in the time in which a million pixels are decoded
_HELD_BYTES = 1 << 27  # decoded pictures that may wait for the search: 41 of 1080p

Reader = Callable[..., Iterator[tuple[int, NDArray[np.uint8]]]]
"""`read_frames` of one trial."""
Keep = Callable[[int, Detection, Callable[[], NDArray[np.uint8]]], None]
"""Called with a frame, its faces, and what returns its picture (H, W, 3)."""


class VideoFaces:
    """The faces of one video; it is searched when somebody is first asked for.

    Memory grows with the faces that are seen, 68 bytes each, and never holds more than some pictures.

    Args:
        video: the video.
        clock: the label clock.
        config: settings of detection and tracking.
        detector: with the same settings.
        trial_id: the trial, for messages.
        identity: tells people apart; None to follow them by their places.
        keep: called in order for frames whose faces are found, with those of which all faces are cut out sooner than they are decoded again;
            for none if pictures are too large to wait for that.

    Attributes:
        clock: the label clock.
        read: `read_frames` of the video.
    """

    def __init__(
        self,
        video: Path,
        clock: FrameClock,
        config: FaceConfig,
        detector: Detector,
        trial_id: str,
        identity: Identity | None = None,
        keep: Keep | None = None,
    ) -> None:
        self.clock = clock
        self.read: Reader = partial(read_frames, video, clock, trial_id)
        self._video, self._config, self._detector, self._trial_id = video, config, detector, trial_id
        self._identity, self._keep = identity, keep

    @cached_property
    def crowd(self) -> Crowd:
        """Everybody in the video.

        Raises:
            MediaError: if it is empty, truncated, of an unknown format, or has no pictures.
            ShapeError: if its length differs from the clock's by more than two ticks.
        """
        info = probe(self._video)
        size = info.height, info.width
        counted = _Counted(self._sights(size))
        tracklets = _drop_single(link(counted, self._config))
        identity = self._identity
        if identity is None:
            people = group_by_place(tracklets)
        else:

            def describe(faces: Sequence[Sequence[Sighting]]) -> NDArray[np.float32]:
                return unit(mean_embeddings(self.read, faces, identity.embed, identity.size))

            people = group_by_face(tracklets, describe, identity.min_similarity)
        return Crowd(tuple(people), identity is not None, counted.cuts, self.clock.num_frames, size)

    def _sights(self, size: tuple[int, int]) -> Iterator[Sight]:
        """The faces of every frame; whoever wants to keep some is shown them with the picture."""
        keep, config, pixels = self._keep, self._config, size[0] * size[1]
        find = partial(find_faces, detector=self._enlarged(size), config=config, views=self._identity is not None)
        if keep is None or most_held(config) * pixels * 1.5 > _HELD_BYTES:
            yield from find(self.read(max_side=config.max_side))
            return
        held: dict[int, Callable[[], NDArray[np.uint8]]] = {}

        def pictures() -> Iterator[tuple[int, NDArray[np.uint8]]]:
            for frame, small, full in read_twofold(self._video, self.clock, self._trial_id, config.max_side):
                held[frame] = full
                yield frame, small

        for sight in find(pictures()):
            picture = held.pop(sight.frame)
            if len(sight.faces.boxes) - 1 <= _FACES_PER_MEGAPIXEL * pixels / 1e6:
                keep(sight.frame, sight.faces, picture)
            yield sight

    def follow(self, face: str, reference: Reference | None = None) -> Track:
        """Follow one face, see `follow_face`.

        Args:
            face: "largest", "centre", "left", "right" or "reference".
            reference: for "reference", the person to follow.

        Raises:
            MediaError: as `crowd`, or if nobody matches the reference.
            ShapeError: as `crowd`.
            SettingError: if the face is none of these, or without its reference.
        """
        if reference is None:
            return follow_face(self.crowd, face)

        def likeness(people: Sequence[Sequence[Sighting]]) -> NDArray[np.float64]:
            return reference.score(mean_embeddings(self.read, people, reference.embed, SIZE), self._trial_id)

        return follow_face(self.crowd, face, likeness)

    def _enlarged(self, size: tuple[int, int]) -> Detector:
        return enlarging(self._detector, size, self._config.max_side)


class _Counted:
    """Passes sights on and counts their cuts."""

    def __init__(self, sights: Iterator[Sight]) -> None:
        self._sights = sights
        self.cuts = 0

    def __iter__(self) -> Iterator[Sight]:
        for sight in self._sights:
            self.cuts += sight.cut
            yield sight


class _Face(NamedTuple):
    """A face to cut out: whose it is, by number, and its landmarks (5, 2)."""

    person: int
    landmarks: NDArray[np.float32]


def mean_embeddings(
    read: Reader, people: Sequence[Sequence[Sighting]], embed: Embedder, size: int
) -> NDArray[np.float32]:
    """(N, D) mean of the embeddings, each of norm 1, of each person's sightings, in one pass over the video."""
    sums: dict[int, NDArray[np.float32]] = {}
    for persons, faces in _batches(cut_faces(read, people, size)):
        for person, row in zip(persons, unit(embed(faces)), strict=True):
            sums[person] = sums.get(person, np.zeros_like(row)) + row
    if not people:
        return np.zeros((0, 1), np.float32)
    return np.stack([sums[person] / np.float32(len(sights)) for person, sights in enumerate(people)])


def cut_faces(read: Reader, people: Sequence[Sequence[Sighting]], size: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Aligned faces (size, size, 3), each with the number of its person, in order of time."""
    wanted: dict[int, list[_Face]] = {}
    for person, sightings in enumerate(people):
        for frame, landmarks in sightings:
            wanted.setdefault(frame, []).append(_Face(person, landmarks))
    if wanted:
        for frame, picture in read(wanted=wanted.__contains__):
            for face in wanted[frame]:
                yield face.person, align_face(picture, face.landmarks, size)


def _batches(
    faces: Iterator[tuple[int, NDArray[np.uint8]]],
) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
    """Some faces at once, with their persons."""
    while part := list(islice(faces, _BATCH)):
        yield [person for person, _ in part], np.stack([face for _, face in part])


def enlarging(detector: Detector, size: tuple[int, int], max_side: int) -> Detector:
    """A detector for shrunk pictures that finds the faces in pixels of the original ones, of this height and width."""
    height, width = shrunk_size(*size, max_side)
    factors = size[1] / width, size[0] / height

    def enlarged(found: Sequence[Detection]) -> list[Detection]:
        return [faces.scaled(factors).rounded() for faces in found]

    def measure(pictures: Sequence[NDArray[np.uint8]], boxes: Sequence[NDArray[np.float32]]) -> list[Detection]:
        small = [scale_boxes(each, (1 / factors[0], 1 / factors[1])) for each in boxes]
        return enlarged(detector.measure(pictures, small))

    return Detector(lambda pictures: enlarged(detector.search(pictures)), measure, factors)


def _drop_single(tracklets: list[Tracklet]) -> list[Tracklet]:
    """Drop tracklets of a single detection, unless there are no others."""
    return [part for part in tracklets if len(part.frames) > 1] or tracklets
