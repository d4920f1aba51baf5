"""Another face at one place from one picture to the next, though nothing else changes: as in a tile of a video conference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cache.clock import FrameClock
from extract.engine import cropping
from extract.engine.everybody import PeopleFinder
from extract.faces.cuts import face_views, is_other, view_change
from extract.faces.finding import VideoFaces
from extract.faces.likeness import Identity
from extract.faces.people import read_people
from extract.faces.settings import CropConfig, FaceConfig
from extract.media.video import read_frames
from tests.coloured import BLUE, IDENTITY, RED, Scene, colours, draw, find_colours
from tests.detectors import by_search, crop_one

LENGTH = 60
LIME = (180, 220, 40)  # a little like red, cosine 0.3
CONFIG = CropConfig(faces=FaceConfig(every=4), min_seen_s=0.2)
WEIGHTS = Path(__file__).parents[4] / "shared" / "weights" / "mobilefacenet_foamliu.pt"
Film = Callable[..., Path]


def who(colour: Callable[[int], tuple[int, int, int] | None]) -> Scene:
    """One face, at one place, of a colour that depends on the frame."""

    def scene(frame: int) -> list[tuple[tuple[int, int, int], int]]:
        shown = colour(frame)
        return [] if shown is None else [(shown, 160)]

    return scene


in_turns = who(lambda frame: BLUE if 20 <= frame < 40 else RED)


@pytest.fixture
def film(tmp_path: Path, media: SimpleNamespace) -> Film:
    def write(scene: Scene, name: str = "v") -> Path:
        path = tmp_path / f"{name}.mkv"
        picture = draw(scene, lambda frame: 90)
        media.write_video(path, LENGTH, codec="ffv1", pix_fmt="bgr0", size=(96, 384), draw=picture)
        return path

    return write


def followed(video: Path, identity: Identity | None = IDENTITY) -> dict[int, str]:
    """Frame → colour of the crop of the largest face."""
    clock, path = FrameClock(Fraction(25), LENGTH), video.with_suffix(".zip")
    record = crop_one(video, clock, "largest", path, CONFIG, by_search(find_colours), None, identity)
    assert record["cuts"] == 0, "nobody sees a cut of the whole picture"
    return colours(path, clock)


def test_identity_tells_people_apart_at_one_place(film: Film) -> None:
    """Red is seen for longer; no crop shows blue, also where red is on both sides."""
    video = film(in_turns)
    assert followed(video) == dict.fromkeys([*range(20), *range(40, LENGTH)], "r")
    assert followed(video, None) == {**dict.fromkeys(range(LENGTH), "r"), **dict.fromkeys(range(20, 40), "b")}


def test_a_gap_may_hide_a_swap(film: Film) -> None:
    """Nobody is seen for three frames, which would be bridged."""
    video = film(who(lambda frame: None if 37 <= frame < 40 else BLUE if 20 <= frame < 37 else RED))
    assert followed(video) == dict.fromkeys([*range(20), *range(40, LENGTH)], "r")


def test_a_short_bad_look_does_not_split_a_person(film: Film) -> None:
    assert followed(film(who(lambda frame: LIME if 20 <= frame < 24 else RED))).keys() == set(range(LENGTH))
    assert followed(film(who(lambda frame: LIME if frame in (20, 22) else RED))).keys() == set(range(LENGTH))


def test_who_is_strongly_unlike_is_somebody_else(film: Film) -> None:
    seen = followed(film(who(lambda frame: BLUE if 20 <= frame < 24 else RED)))
    assert seen == dict.fromkeys([*range(20), *range(24, LENGTH)], "r")
    long = followed(film(who(lambda frame: LIME if 20 <= frame < 40 else RED)))
    assert long.keys() == {*range(20), *range(40, LENGTH)}, "and so is who is seen for longer"


def test_everybody_of_one_place_has_a_number(film: Film, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a single sighting is nobody."""
    monkeypatch.setattr(cropping, "make_detector", lambda *_: by_search(find_colours))
    monkeypatch.setattr(cropping, "make_identity", lambda *_: IDENTITY)
    video = film(who(lambda frame: LIME if frame == LENGTH - 1 else in_turns(frame)[0][0]))
    config = replace(CONFIG, identity="foamliu", min_seen_s=0.0)
    found = PeopleFinder(config, tmp_path / "people", tmp_path, "cpu").find("v", video)
    spans = [[(part.frames[0], part.frames[-1]) for part in each.tracklets] for each in read_people(found.file)]
    assert spans == [[(0, 19), (40, 58)], [(20, 39)]]


def test_faces_are_looked_at_only_to_tell_people_apart(film: Film, monkeypatch: pytest.MonkeyPatch) -> None:
    video, clock = film(in_turns), FrameClock(Fraction(25), LENGTH)
    faces = VideoFaces(video, clock, CONFIG.faces, by_search(find_colours), "P1")
    assert all(sight.views is None for sight in faces._sights((96, 384)))
    assert len(faces.crowd.people) == 1


def test_batches_do_not_change_what_is_seen_of_a_face(film: Film) -> None:
    """Though the picture before the first one of a batch is of another batch."""
    video, clock = film(in_turns), FrameClock(Fraction(25), LENGTH)
    frames = [frame for _, frame in read_frames(video, clock, "P1")]
    faces = VideoFaces(video, clock, CONFIG.faces, by_search(find_colours), "P1", IDENTITY)
    changed = [sight.frame for sight in faces._sights((96, 384)) if sight.changes is not None and sight.changes[0] > 0]
    box = np.array([[160, 0, 208, 48]], np.float32)
    views = face_views(frames, box)
    assert changed == (1 + np.flatnonzero(view_change(views[1:], views[:-1]))).tolist() == [20, 40]


@pytest.mark.parametrize(
    ("levels", "swaps"),
    [
        ([3] * 9 + [50] + [3] * 9, [9]),
        ([12] * 9 + [25, 25] + [12] * 9, [9, 10]),
        ([3] * 9 + [11] + [3] * 9, []),
        ([30, 25, 34, 28, 31, 40, 29, 25, 33] * 3, []),
        ([26, 0, 30, 0, 27, 0, 33, 0] * 3, []),
        ([3] * 9 + [50, 3, 50, 3, 50] + [3] * 9, [9, 11, 13]),
        (([3, 3, 50] * 9)[:25], [2, 5, 8, 11, 14, 17, 20, 23]),
        ([3] * 6 + [70] * 4 + [50] + [3] * 9, [6, 7, 8, 9, 10]),
        ([3, 60], [1]),
        ([60], [0]),
    ],
    ids=["swap", "blended", "small", "shaken", "repeated", "flicker", "in turns", "flashes before", "short", "second"],
)
def test_a_swap_is_more_than_what_is_usual(levels: Sequence[float], swaps: list[int]) -> None:
    changes = np.array([np.nan, *levels], np.float32)
    assert np.flatnonzero(is_other(changes)).tolist() == [1 + at for at in swaps]


def test_views_at_the_edge_of_the_picture() -> None:
    picture = np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3).astype(np.uint8)
    boxes = np.array([[-30, -30, 10, 10], [50, 30, 90, 70]], np.float32)
    assert face_views([picture], boxes).shape == (1, 2, 12, 12, 3)
    assert not face_views([picture, picture], boxes[:0]).size


def tile(picture: NDArray[np.uint8], centre: tuple[float, float], half: int) -> NDArray[np.uint8]:
    left, top = round(centre[0] - half), round(centre[1] - half)
    box = (left, top, left + 2 * half, top + 2 * half)
    return np.asarray(Image.fromarray(picture).crop(box).resize((120, 120), Image.Resampling.BOX))


@pytest.mark.slow
def test_two_real_people_take_turns_in_a_tile(tmp_path: Path, media: SimpleNamespace) -> None:
    one, street = (media.shared / name for name in ("single_face.mp4", "people_1080p_aac.mp4"))
    if not one.is_file() or not WEIGHTS.is_file():
        pytest.skip("no shared media or weights here")
    first = [tile(p, (322, 150), 250) for _, p in read_frames(one, FrameClock(Fraction(30), 70), "a")]
    clock, seen = FrameClock(Fraction(25), 105), range(40, 75)
    second = [
        tile(p, (1042 - 4 * (at - 43), 735), 130) for at, p in read_frames(street, clock, "b", wanted=seen.__contains__)
    ]
    tiles = [*first[:35], *second, *first[35:]]

    def picture(index: int, height: int, width: int) -> NDArray[np.uint8]:
        shown = np.full((height, width, 3), (90, 100, 110), np.uint8)
        shown[60:180, 90:210] = tiles[index]
        return shown

    video = media.write_video(tmp_path / "v.mp4", 105, codec="libx264", size=(360, 640), draw=picture)
    found = PeopleFinder(CropConfig(identity=str(WEIGHTS)), tmp_path, tmp_path, "cpu").find("v", video)
    people = [[set(part.frames) for part in person.tracklets] for person in read_people(found.file)]
    assert people[:2] == [[set(range(35)), set(range(70, 105))], [set(range(35, 70))]]
