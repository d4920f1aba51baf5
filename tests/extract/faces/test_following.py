"""One face of a video that still grows: the track of the finished video, where that does not take the rest of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from cache.errors import SettingError
from extract.faces import following
from extract.faces.detection import TEMPLATE, Detection, Detector
from extract.faces.finding import enlarging
from extract.faces.following import FaceFollower
from extract.faces.linking import link
from extract.faces.search import find_faces
from extract.faces.settings import CropConfig
from tests.detectors import by_search, follow_parts

SIDE = 200
Place = tuple[int, int, int]  # left, top, side
Scene = Callable[[int], list[Place]]


def make_detector(scene: Scene) -> Detector:
    """Faces of the frame whose number is in the picture."""

    def detect(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
        found = []
        for picture in pictures:
            places = np.array(scene(int(picture[0, 0, 0])), np.float32).reshape(-1, 3)
            boxes = np.concatenate((places[:, :2], places[:, :2] + places[:, 2:]), axis=1)
            marks = places[:, None, :2] + TEMPLATE[None].astype(np.float32) / 112 * places[:, None, 2:]
            found.append(Detection(boxes, np.ones(len(boxes), np.float32), marks))
        return found

    return by_search(detect)


def picture(index: int) -> NDArray[np.uint8]:
    return np.full((SIDE, SIDE, 3), index, np.uint8)


def follow(
    scene: Scene,
    num_frames: int,
    face: str,
    monkeypatch: pytest.MonkeyPatch,
    show: Callable[[int], NDArray[np.uint8]] = picture,
) -> tuple[NDArray[np.float32], list[int]]:
    """(T, 5, 2) landmarks, nan where there is no crop; and how many frames were known after each one."""
    monkeypatch.setattr(following, "encode_crop", lambda picture, landmarks, config: landmarks)
    follower = FaceFollower(CropConfig(), face, make_detector(scene), Fraction(1))
    known = []
    for index in range(num_frames):
        follower.see(av.VideoFrame.from_ndarray(show(index), format="rgb24"))
        known.append(follower.ready)
    follower.finish()
    assert follower.ready == num_frames
    crops = [follower.crop(index) for index in range(num_frames)]
    return np.stack([np.full((5, 2), np.nan) if crop is None else crop for crop in crops]).astype(np.float32), known


def finished(scene: Scene, num_frames: int, face: str) -> NDArray[np.float32]:
    """The landmarks in the finished video."""
    config = CropConfig().faces
    detector = enlarging(make_detector(scene), (SIDE, SIDE), config.max_side)
    sights = find_faces(((index, picture(index)) for index in range(num_frames)), detector, config)
    return follow_parts(link(sights, config), face, num_frames, (SIDE, SIDE)).landmarks


def alone(index: int) -> list[Place]:
    """Somebody who walks, is lost for a moment and for longer, comes back elsewhere, nearer, and leaves."""
    if index < 7 or index in (33, 34) or 50 <= index < 70 or index >= 113:
        return []
    return [(20 + index, 30, 40)] if index < 70 else [(100 - index // 2, 90, 60)]


def two(index: int) -> list[Place]:
    """A large face on the left until frame 40, and a small one on the right that is lost for a while after it."""
    return ([(10, 40, 60)] if index < 40 else []) + ([(140, 60, 40)] if not 44 <= index < 60 else [])


def beside(index: int) -> list[Place]:
    """Two faces of one size that touch: one until frame 40, the other lost for a while after it."""
    return ([(20, 40, 40)] if index < 40 else []) + ([(60, 42, 38)] if not 44 <= index < 60 else [])


@pytest.mark.parametrize("num_frames", [1, 8, 61, 120])
def test_one_person_is_followed_as_in_the_finished_video(monkeypatch, num_frames):
    found, known = follow(alone, num_frames, "largest", monkeypatch)
    np.testing.assert_array_equal(found, finished(alone, num_frames, "largest"))
    late = max(index + 1 - count for index, count in enumerate(known))
    assert late <= 22  # the longest gap that a track bridges, and the next search
    assert all(after >= before for before, after in pairwise(known))


@pytest.mark.parametrize("scene", [two, beside])
@pytest.mark.parametrize("face", ["largest", "centre", "left", "right"])
def test_people_never_swap(monkeypatch, scene, face):
    """Whoever was seen beside the person that is followed does not take over, not even after a gap."""
    found, _ = follow(scene, 100, face, monkeypatch)
    np.testing.assert_array_equal(found, finished(scene, 100, face))


@pytest.mark.parametrize("shot", [20, 33, 47])
def test_after_a_cut_the_face_is_chosen_anew(monkeypatch, shot):
    """Somebody else who is at the place of the person before the cut does not take over from the larger face elsewhere."""

    def scene(index: int) -> list[Place]:
        before, after = [(20, 30, 60), (120, 30, 40)], [(20, 30, 40), (110, 60, 80)]
        return before if index < shot else after

    def show(index: int) -> NDArray[np.uint8]:
        shown = picture(index)
        shown[1:] = 0 if index < shot else 200
        return shown

    found, known = follow(scene, 80, "largest", monkeypatch, show)
    lefts = found[:, :, 0].min(axis=1)
    assert not np.isnan(found).any(), "frames of both shots have a face"
    assert (lefts[:shot] < 80).all()
    assert (lefts[shot:] > 100).all()
    assert max(index + 1 - count for index, count in enumerate(known)) <= 22, "a cut makes nobody wait longer"


def test_the_other_half_is_nobody(monkeypatch):
    assert np.isnan(follow(lambda index: [(140, 60, 40)], 20, "left", monkeypatch)[0]).all()
    assert not np.isnan(follow(lambda index: [(140, 60, 40)], 20, "right", monkeypatch)[0]).any()


def test_a_reference_picture_is_refused():
    with pytest.raises(SettingError, match="cannot follow face 'me.jpg'; expected one of largest, centre"):
        FaceFollower(CropConfig(), "me.jpg", make_detector(alone), Fraction(1))
