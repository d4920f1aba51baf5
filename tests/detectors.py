"""Detectors for tests, which know a face when they search the picture; and crops and tracks made with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.foreign import sha256_file
from extract.faces.crops import EarlyCrops, Wanted, write_crops
from extract.faces.detection import Detection, Detector, overlaps
from extract.faces.finding import VideoFaces
from extract.faces.likeness import Identity, Reference, reference_key
from extract.faces.linking import Tracklet
from extract.faces.people import Crowd, group_by_place
from extract.faces.settings import CropConfig
from extract.faces.tracking import Likeness, Track, follow_face

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


def crop_one(
    video: Path,
    clock: FrameClock,
    face: str,
    path: Path,
    config: CropConfig,
    detector: Detector,
    reference: Reference | None = None,
    identity: Identity | None = None,
    early: EarlyCrops | None = None,
) -> dict[str, Any]:
    """Write the crops of one face of a video; returns their record."""
    faces = VideoFaces(video, clock, config.faces, detector, "P1", identity, early.keep if early else None)
    key = reference_key(reference.path, config.reference_weights) if reference else face
    wanted = Wanted(faces.follow(face, reference), path, config.fingerprint(key))
    return write_crops(faces, [wanted], sha256_file(video), config, early)[0]


def follow_parts(
    tracklets: Sequence[Tracklet],
    face: str,
    num_frames: int,
    size: tuple[int, int],
    likeness: Likeness | None = None,
) -> Track:
    """Follow a face among tracklets of people who are told apart by their places."""
    cuts = max((part.shot for part in tracklets), default=0)
    parts = [part for part in tracklets if len(part.frames) > 1] or tracklets
    return follow_face(Crowd(tuple(group_by_place(parts)), False, cuts, num_frames, size), face, likeness)
