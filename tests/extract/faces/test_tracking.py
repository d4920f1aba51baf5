"""One person through a trial, on synthetic detections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest

from cache.errors import SettingError
from extract.faces.detection import Detection
from extract.faces.linking import Tracklet, link
from extract.faces.people import Sighting
from extract.faces.search import Sight
from extract.faces.settings import FaceConfig
from extract.faces.tracking import Track
from tests.detectors import follow_parts

SIZE = (480, 640)
Place = tuple[float, float, float]  # centre x, centre y, side


def detection(*places: Place | None) -> Detection:
    seen = [place for place in places if place is not None]
    centres = np.array([place[:2] for place in seen], np.float32).reshape(-1, 2)
    halves = np.array([[place[2] / 2] * 2 for place in seen], np.float32).reshape(-1, 2)
    landmarks = centres[:, None] + np.array([[-1, -1], [1, -1], [0, 0], [-1, 1], [1, 1]]) * halves[:, None] / 2
    return Detection(
        np.concatenate((centres - halves, centres + halves), axis=1),
        np.ones(len(seen), np.float32),
        landmarks.astype(np.float32),
    )


def follow(
    places: Callable[[int], list[Place | None]], face: str, num_frames: int, every: int = 1, **settings: int
) -> Track:
    frames = sorted({*range(0, num_frames, every), num_frames - 1})
    return follow_parts(tracklets(places, frames, **settings), face, num_frames, SIZE)


def tracklets(places: Callable[[int], list[Place | None]], frames: Iterable[int], **settings: int) -> list[Tracklet]:
    return link((Sight(frame, detection(*places(frame)), False) for frame in frames), FaceConfig(**settings))


def centres(track: Track) -> np.ndarray:
    return track.landmarks[:, 2]


def two_people(frame: int) -> list[Place | None]:
    """Side by side, swaying, their sizes crossing, each of them gone for a while, in changing order."""
    left = None if 40 <= frame < 70 else (200 + 20 * np.sin(frame / 5), 240.0, 100 + 40 * np.sin(frame / 30))
    right = None if 90 <= frame < 130 else (400 + 20 * np.cos(frame / 4), 240.0, 100 - 30 * np.sin(frame / 30))
    return [left, right] if frame % 2 else [right, left]


@pytest.mark.parametrize("every", [1, 5])
def test_two_people_never_swap(every: int) -> None:
    left, right = (follow(two_people, face, 200, every) for face in ("left", "right"))
    assert np.nanmax(centres(left)[:, 0]) < 300 < np.nanmin(centres(right)[:, 0])
    frames = np.arange(200)
    if every == 1:
        np.testing.assert_array_equal(left.present, (frames < 40) | (frames >= 70))
        np.testing.assert_array_equal(right.present, (frames < 90) | (frames >= 130))
    assert not left.present[45:65].any()
    assert not right.present[96:124].any()


def test_each_choice() -> None:
    def three(frame: int) -> list[Place | None]:
        return [(100.0, 200.0, 60.0), (330.0, 200.0, 50.0), (550.0, 200.0, 90.0)]

    found = {face: centres(follow(three, face, 20))[:, 0] for face in ("largest", "centre", "left", "right")}
    assert {face: set(x.tolist()) for face, x in found.items()} == {
        "largest": {550.0},
        "centre": {330.0},
        "left": {100.0},
        "right": {550.0},
    }


def test_largest_is_by_the_median_not_by_the_moment() -> None:
    def places(frame: int) -> list[Place | None]:
        return [(150.0, 200.0, 80.0), (450.0, 200.0, 120.0 if frame < 8 else 50.0)]

    assert set(centres(follow(places, "largest", 40))[:, 0].tolist()) == {150.0}


def test_passers_by_are_not_chosen() -> None:
    def places(frame: int) -> list[Place | None]:
        return [(300.0, 200.0, 60.0), (60.0, 200.0, 200.0) if 10 <= frame < 20 else None]

    for face in ("left", "largest"):
        assert set(centres(follow(places, face, 100))[:, 0].tolist()) == {300.0}


def test_landmarks_lie_on_the_line_between_samples() -> None:
    track = follow(lambda frame: [(100.0 + 2 * frame, 200.0 + frame, 100.0)], "largest", 43, every=5)
    assert track.present.all()
    np.testing.assert_allclose(centres(track)[:, 0], 100 + 2 * np.arange(43), atol=1e-3)
    np.testing.assert_allclose(centres(track)[:, 1], 200 + np.arange(43), atol=1e-3)


def test_short_gaps_are_bridged_and_long_ones_are_absent() -> None:
    def places(frame: int) -> list[Place | None]:
        return [None if 10 <= frame < 16 or 30 <= frame < 50 else (300.0, 200.0, 100.0)]

    track = follow(places, "largest", 80, max_gap=6)
    np.testing.assert_array_equal(np.flatnonzero(~track.present), np.arange(30, 50))
    assert np.isnan(track.landmarks[~track.present]).all()
    assert np.isfinite(track.landmarks[track.present]).all()
    assert not follow(places, "largest", 80, max_gap=5).present[10:16].any()


def test_nothing_is_extended_beyond_the_last_sight() -> None:
    track = follow(lambda frame: [(300.0, 200.0, 100.0) if 3 <= frame <= 12 else None], "largest", 20)
    np.testing.assert_array_equal(np.flatnonzero(track.present), np.arange(3, 13))


def test_the_only_person_is_followed_over_a_cut() -> None:
    track = follow(lambda frame: [(150.0 if frame < 30 else 500.0, 200.0, 100.0)], "largest", 60)
    assert track.present.all()
    assert set(centres(track)[:, 0].tolist()) == {150.0, 500.0}


def test_the_other_person_never_fills_in() -> None:
    """The left one leaves; the right one, who was seen together with the left one, stays."""

    def places(frame: int) -> list[Place | None]:
        return [(200.0, 200.0, 100.0) if frame < 50 else None, (420.0, 200.0, 100.0) if frame != 60 else None]

    track = follow(places, "left", 120, max_gap=0)
    np.testing.assert_array_equal(track.present, np.arange(120) < 50)


def test_a_side_is_a_half_of_the_picture_where_one_of_two_is_seldom_seen() -> None:
    """The left one is seen for a tenth of the time: not a passer-by, and never the other one."""

    def places(frame: int) -> list[Place | None]:
        return [(150.0, 200.0, 80.0) if 40 <= frame < 50 else None, (480.0, 200.0, 90.0)]

    left, right = (follow(places, face, 100, max_gap=0) for face in ("left", "right"))
    np.testing.assert_array_equal(np.flatnonzero(left.present), np.arange(40, 50))
    assert set(centres(left)[left.present, 0].tolist()) == {150.0}
    assert right.present.all()
    assert set(centres(right)[:, 0].tolist()) == {480.0}


def test_two_people_who_take_turns_stay_on_their_sides() -> None:
    def places(frame: int) -> list[Place | None]:
        return [(170.0, 200.0, 90.0) if frame < 50 else (470.0, 200.0, 90.0)]

    left, right = (follow(places, face, 120, max_gap=0) for face in ("left", "right"))
    np.testing.assert_array_equal(left.present, np.arange(120) < 50)
    np.testing.assert_array_equal(right.present, np.arange(120) >= 50)


def test_nobody_is_taken_from_the_other_half() -> None:
    assert not follow(lambda frame: [(480.0, 200.0, 90.0)], "left", 20).present.any()
    assert follow(lambda frame: [(350.0, 200.0, 90.0)], "left", 20).present.all()  # on the middle line


def test_two_people_in_one_half_are_told_apart() -> None:
    def places(frame: int) -> list[Place | None]:
        return [(400.0, 200.0, 60.0), (560.0, 200.0, 60.0) if frame > 5 else None]

    left, right = (follow(places, face, 40) for face in ("left", "right"))
    assert set(centres(left)[:, 0].tolist()) == {400.0}
    assert set(centres(right)[right.present, 0].tolist()) == {560.0}


def test_the_face_like_a_picture_is_followed_wherever_it_moves() -> None:
    """Alike are the one at 100 and, after a cut, the one at 500; a third one is always larger."""

    def places(frame: int) -> list[Place | None]:
        return [(100.0 if frame < 30 else 500.0, 100.0, 40.0) if not 20 <= frame < 40 else None, (300.0, 300.0, 120.0)]

    found = tracklets(places, range(80), max_gap=0)
    asked: list[int] = []

    def likeness(people: Sequence[Sequence[Sighting]]) -> np.ndarray:
        asked.extend(len(sightings) for sightings in people)
        return np.array([0.2 if sightings[0][1][2, 1] == 100 else -0.3 for sightings in people])

    track = follow_parts(found, "reference", 80, SIZE, likeness)
    frames = np.arange(80)
    np.testing.assert_array_equal(track.present, (frames < 20) | (frames >= 40))
    assert set(centres(track)[track.present, 0].tolist()) == {100.0, 500.0}
    assert asked == [5, 5, 5]
    nobody = follow_parts(found, "reference", 80, SIZE, lambda people: np.full(len(people), -0.1))
    assert not nobody.present.any()
    with pytest.raises(SettingError, match="or reference with a picture"):
        follow_parts(found, "reference", 80, SIZE)


def test_a_cut_ends_a_tracklet_at_once() -> None:
    """Also where the next shot shows a face at the same place."""
    sights = [Sight(frame, detection((300.0, 200.0, 100.0)), frame == 12) for frame in range(30)]
    first, second = link(sights, FaceConfig())
    assert (list(first.frames), first.shot) == ([*range(12)], 0)
    assert (list(second.frames), second.shot) == ([*range(12, 30)], 1)


def test_no_face_at_all() -> None:
    track = follow(lambda frame: [], "largest", 10)
    assert track.landmarks.shape == (10, 5, 2)
    assert not track.present.any()


def test_a_single_frame() -> None:
    assert follow(lambda frame: [(300.0, 200.0, 100.0)], "centre", 1).present.tolist() == [True]


def test_unknown_face() -> None:
    with pytest.raises(SettingError, match="'biggest' .*one of largest, centre, left, right"):
        follow_parts([], "biggest", 10, SIZE)
