"""Faces in every picture, from searches in a few: on synthetic scenes whose pictures tell their frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cache.clock import FrameClock
from extract.faces.cuts import CutFinder
from extract.faces.detection import Detection, Detector, make_detector, match_boxes
from extract.faces.search import Sight, find_faces
from extract.faces.settings import FaceConfig
from extract.media.video import probe, read_frames
from tests.detectors import nearest

Scene = Callable[[int], list[tuple[float, float, float]]]  # left, top, side of the faces of a frame


class Watched:
    """A detector of a scene that remembers the frames it was asked for; nobody is seen to whom `blind` applies."""

    def __init__(self, scene: Scene, blind: Callable[[int], bool] = lambda frame: False) -> None:
        self.scene, self.blind = scene, blind
        self.searched: list[int] = []
        self.measured: list[int] = []
        self.batches: list[int] = []

    def detector(self) -> Detector:
        return Detector(self.search, self.measure)

    def search(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
        assert len({picture.shape for picture in pictures}) == 1
        self.batches.append(len(pictures))
        self.searched += [number(picture) for picture in pictures]
        return [self.faces(number(picture)) for picture in pictures]

    def measure(self, pictures: Sequence[NDArray[np.uint8]], boxes: Sequence[NDArray[np.float32]]) -> list[Detection]:
        self.measured += [number(picture) for picture, each in zip(pictures, boxes, strict=True) for _ in each]
        faces = [
            Detection.none() if self.blind(number(picture)) else self.faces(number(picture)) for picture in pictures
        ]
        return [nearest(found, near) for found, near in zip(faces, boxes, strict=True)]

    def faces(self, frame: int) -> Detection:
        places = np.array(self.scene(frame), np.float32).reshape(-1, 3)
        boxes = np.concatenate((places[:, :2], places[:, :2] + places[:, 2:]), axis=1)
        return Detection(boxes, np.ones(len(boxes), np.float32), np.repeat(boxes[:, None, :2], 5, axis=1))


def number(picture: NDArray[np.uint8]) -> int:
    return int(picture[0, 0, 0]) + 256 * int(picture[0, 0, 1])


def pictures(count: int, shots: Sequence[int] = ()) -> list[tuple[int, NDArray[np.uint8]]]:
    """Grey pictures whose first pixel tells the frame; each shot is lighter than the one before."""
    frames = np.zeros((count, 32, 48, 3), np.uint8)
    for index in range(count):
        frames[index] = 60 * sum(index >= shot for shot in shots)
        frames[index, 0, 0] = index % 256, index // 256, 0
    return list(enumerate(frames))


def find(watched: Watched, count: int, every: int, batch_size: int = 3, shots: Sequence[int] = ()) -> list[Sight]:
    return list(find_faces(pictures(count, shots), watched.detector(), FaceConfig(every=every), batch_size))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("border", range(1, 42, 3))
@pytest.mark.parametrize("comes", [True, False])
def test_the_frame_in_which_a_face_comes_or_goes_is_exact(batch_size: int, border: int, comes: bool) -> None:
    """Without a search in it: a face is followed there, forwards and backwards."""
    watched = Watched(lambda frame: [(5, 5, 20)] if (frame >= border) == comes else [])
    sights = find(watched, 43, 10, batch_size)
    assert [sight.frame for sight in sights] == list(range(43))
    assert [bool(len(sight.faces.boxes)) for sight in sights] == [(frame >= border) == comes for frame in range(43)]
    assert sorted(watched.searched) == [0, 10, 20, 30, 40, 42]
    assert max(watched.batches) <= batch_size


def test_every_frame_has_landmarks_of_its_own() -> None:
    """They are measured, not interpolated: a face that sways between two searches is where it is."""
    watched = Watched(lambda frame: [(50 + 5 * np.sin(frame), 60, 40)])
    for frame, faces, *_ in find(watched, 31, 10):
        np.testing.assert_allclose(faces.landmarks[0, 0, 0], 50 + 5 * np.sin(frame), rtol=1e-6)
    assert watched.searched == [0, 10, 20, 30]


def test_a_face_that_is_not_where_it_should_be_is_searched_for() -> None:
    """Halfway, and again, where it jumps aside between two searches that show it at one place."""
    watched = Watched(lambda frame: [(200.0 if 12 <= frame < 18 else 20.0, 20, 40)])
    sights = find(watched, 31, 10)
    assert [bool((sight.faces.boxes[:, 0] == 200).any()) for sight in sights] == [
        12 <= frame < 18 for frame in range(31)
    ]
    assert {10, 15, 20} < set(watched.searched)
    assert len(watched.searched) < 10


def test_a_running_face_is_followed_by_its_motion() -> None:
    """After ten frames it is four sides away from where it was searched."""
    watched = Watched(lambda frame: [(10 + 16.0 * frame, 40, 40)])
    sights = find(watched, 51, 10)
    assert all(sight.faces.boxes[:, 0].tolist() == [10 + 16.0 * sight.frame] for sight in sights)


def test_a_face_that_is_not_sure_for_a_moment_is_followed_on() -> None:
    watched = Watched(lambda frame: [(20, 20, 40)] if frame < 25 else [], blind=lambda frame: 13 <= frame < 16)
    watched.search = lambda pictures: [Detection.none() if number(p) else watched.faces(0) for p in pictures]  # type: ignore[method-assign]
    faint = watched.measure

    def measure(pictures: Sequence[NDArray[np.uint8]], boxes: Sequence[NDArray[np.float32]]) -> list[Detection]:
        found = faint(pictures, boxes)
        for picture, faces in zip(pictures, found, strict=True):
            if watched.blind(number(picture)):
                faces.probabilities[:] = 0.4
        return found

    watched.measure = measure  # type: ignore[method-assign]
    seen = [sight.frame for sight in find(watched, 40, 10) if len(sight.faces.boxes)]
    assert seen == [*range(13), *range(16, 25)]


def test_one_face_is_not_found_twice() -> None:
    """It is seen in a search, lost in the next, and followed through both."""
    watched = Watched(lambda frame: [(20, 20, 40), (120, 20, 40)])
    everyone = watched.search
    watched.search = lambda pictures: [  # type: ignore[method-assign]
        faces.where(np.array([True, number(picture) != 10]))
        for picture, faces in zip(pictures, everyone(pictures), strict=True)
    ]
    assert {len(sight.faces.boxes) for sight in find(watched, 31, 10)} == {2}


@pytest.mark.parametrize("shot", [7, 10, 11, 19])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_both_sides_of_a_cut_are_searched_and_nobody_is_followed_across(shot: int, batch_size: int) -> None:
    watched = Watched(lambda frame: [(20, 20, 40)])
    sights = find(watched, 31, 10, batch_size, [shot])
    assert [sight.frame for sight in sights if sight.cut] == [shot]
    assert set(watched.searched) == {0, 10, 20, 30, shot - 1, shot}
    assert {len(sight.faces.boxes) for sight in sights} == {1}


def test_batches_do_not_change_what_is_found() -> None:
    def scene(frame: int) -> list[tuple[float, float, float]]:
        return [(20 + frame, 20, 40), *([(200, 30, 40)] if np.sin(frame) > -0.3 else []), (90, 90, 30 + frame % 7)]

    results = [find(Watched(scene), 97, 7, size, [30, 62]) for size in (1, 2, 5, 50)]
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            assert (one.frame, one.cut) == (other.frame, other.cut)
            np.testing.assert_array_equal(one.faces.landmarks, other.faces.landmarks)


def test_every_picture_can_be_searched() -> None:
    watched = Watched(lambda frame: [(5, 5, 20)])
    find(watched, 20, 1)
    assert watched.searched == list(range(20))
    assert watched.measured == []


def test_pictures_of_several_sizes_are_never_in_one_batch() -> None:
    frames = [(index, np.full((4 + index // 6, 4, 3), index, np.uint8)) for index in range(20)]
    watched = Watched(lambda frame: [])
    assert len(list(find_faces(frames, watched.detector(), FaceConfig(every=1), 8))) == 20


def test_memory_holds_only_a_few_pictures() -> None:
    alive, most = 0, 0

    class Counted(np.ndarray):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def stream() -> object:
        nonlocal alive, most
        for index in range(300):
            alive += 1
            most = max(most, alive)
            yield index, np.ones((2, 2, 3), np.uint8).view(Counted)

    for _ in find_faces(stream(), Watched(lambda frame: []).detector(), FaceConfig(every=5), 4):  # type: ignore[arg-type]
        pass
    assert most <= 5 * 4 + 3


def noise(seed: int, shift: int = 0) -> NDArray[np.uint8]:
    """A scene of coarse structure, seen a little further to the right."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 20, 3), np.uint8)
    scene = Image.fromarray(coarse).resize((800, 240), Image.Resampling.BICUBIC)
    return np.asarray(scene)[:, shift : shift + 480]


def cuts(frames: Sequence[NDArray[np.uint8]]) -> set[int]:
    finder = CutFinder()
    for index, frame in enumerate(frames):
        finder.add(index, frame)
    return finder.take(len(frames) - 1)


def test_cuts_are_told_from_motion_and_flashes() -> None:
    still = [noise(1)] * 5
    assert cuts([*still, *[noise(2)] * 5]) == {5}
    assert cuts([*still, noise(2), *still]) == set(), "a single picture"
    assert cuts([noise(1, 20 * step) for step in range(15)]) == set(), "a fast pan"
    assert cuts([np.clip(noise(1).astype(int) + 12 * step, 0, 255).astype(np.uint8) for step in range(15)]) == set()
    assert cuts([noise(1, 2 * step) for step in range(8)] + [noise(3, 2 * step) for step in range(8)]) == {8}


def test_real_people_are_followed_as_if_every_picture_were_searched(media: SimpleNamespace) -> None:
    path = media.shared / "people_1080p_aac.mp4"
    if not path.is_file():
        pytest.skip("no shared media here")
    info = probe(path)
    frames = list(
        read_frames(path, FrameClock(info.rate, info.num_frames), "P1", max_side=640, wanted=lambda t: t < 41)
    )
    detector, config = make_detector(FaceConfig()), FaceConfig()
    whole = [detector.search([picture])[0] for _, picture in frames]
    found = list(find_faces(frames, detector, config))
    assert not any(sight.cut for sight in found)
    pairs = [
        match_boxes(all_faces.boxes, sight.faces.boxes, 0.4) for all_faces, sight in zip(whole, found, strict=True)
    ]
    assert sum(map(len, pairs)) > 0.95 * sum(len(faces.boxes) for faces in whole)
