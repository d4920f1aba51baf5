"""Who is who: people over cuts and gaps, with and without a network that tells them apart, which here sees colours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.errors import CorpusError, SettingError, WeightsError
from extract.engine import cropping, everybody
from extract.engine.cropping import crop_trials, crops_folder, make_identity
from extract.engine.everybody import PeopleFinder
from extract.faces import crops as crops_module
from extract.faces import finding
from extract.faces.crop_records import read_crop_record
from extract.faces.crops import EarlyCrops
from extract.faces.detection import Detection
from extract.faces.linking import link
from extract.faces.people import read_people
from extract.faces.search import Sight
from extract.faces.settings import CropConfig, FaceConfig
from extract.media import timeline
from extract.media import video as video_module
from extract.media.timeline import Timeline
from extract.media.video import read_frames, read_twofold
from tests.coloured import BLUE, GREEN, IDENTITY, RED, Scene, colours, draw, find_colours
from tests.detectors import by_search, crop_one

CONFIG = CropConfig(faces=FaceConfig(every=4, max_gap=2), min_seen_s=0.4)
TWO_FACES = 1e6 / (64 * 256)  # in the time of a picture of `film`


def cut_between_two(frame: int) -> list[tuple[tuple[int, int, int], int]]:
    """Red, blue, and red for longer, at one place."""
    return [(BLUE if 20 <= frame < 50 else RED, 40)]


def back_elsewhere(frame: int) -> list[tuple[tuple[int, int, int], int]]:
    """Red leaves at frame 20 and comes back elsewhere at 40, where blue was before."""
    return ([(RED, 20)] if frame < 20 else [(RED, 180)] if 40 <= frame < 55 else []) + (
        [(BLUE, 180)] if frame < 34 else []
    )


@pytest.fixture
def film(tmp_path: Path, media: SimpleNamespace) -> Callable[..., Path]:
    def write(scene: Scene, frames: int, level: Callable[[int], int] = lambda frame: 90, name: str = "v") -> Path:
        path = tmp_path / f"{name}.mkv"
        media.write_video(path, frames, codec="ffv1", pix_fmt="bgr0", size=(64, 256), draw=draw(scene, level))
        return path

    return write


def shots(frame: int) -> int:
    return 200 if 20 <= frame < 50 else 90


def alone(frame: int) -> list[tuple[tuple[int, int, int], int]]:
    return [(RED, 20 + frame)]


def blinking(frame: int) -> list[tuple[tuple[int, int, int], int]]:
    """Red is not seen for two frames, which are bridged."""
    return [] if 30 <= frame < 32 else [(RED, 20 + frame)]


def crowded(frame: int) -> list[tuple[tuple[int, int, int], int]]:
    """Two people, and four frames of a third one."""
    return [(RED, 20), (BLUE, 100), *([(GREEN, 180)] if 20 <= frame < 24 else [])]


@pytest.mark.parametrize(("scene", "again"), [(alone, 0), (blinking, 33), (crowded, 25), (cut_between_two, 0)])
def test_the_search_cuts_faces_out_while_it_has_the_picture(
    film: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: Scene, again: int
) -> None:
    """The crops are the same, and the video is decoded again up to the last picture that is wanting; the file is gone."""
    length, decoded = 60, []
    clock, decode = FrameClock(Fraction(25), length), video_module.timed_pictures

    def counted(path: Path, timeline: Timeline) -> Iterator[Any]:
        for each in decode(path, timeline):
            decoded.append(1)
            yield each

    monkeypatch.setattr(video_module, "timed_pictures", counted)
    video, zips = film(scene, length, shots if scene is cut_between_two else lambda frame: 90), []
    monkeypatch.setattr(finding, "_FACES_PER_MEGAPIXEL", TWO_FACES)
    for way in (nullcontext(), EarlyCrops(tmp_path, length, CONFIG)):
        decoded.clear()
        with way as early:
            crop_one(video, clock, "left", tmp_path / "c.zip", CONFIG, by_search(find_colours), early=early)
        zips.append((tmp_path / "c.zip").read_bytes())
    assert zips[0] == zips[1]
    assert len(decoded) == length + again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.zip", "v.mkv"]


def test_crops_that_take_too_much_room_are_cut_out_later(
    film: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, clock, zips = film(alone, 30), FrameClock(Fraction(25), 30), []
    for most in (1 << 30, 10_000):
        monkeypatch.setattr(crops_module, "_MOST_BYTES", most)
        with EarlyCrops(tmp_path, 30, CONFIG) as early:
            crop_one(video, clock, "left", tmp_path / "c.zip", CONFIG, by_search(find_colours), early=early)
        zips.append((tmp_path / "c.zip").read_bytes())
    assert zips[0] == zips[1]
    assert 0 < early.kept.sum() < 30


def test_large_pictures_do_not_wait_for_the_search(
    film: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "_HELD_BYTES", 64 * 256)
    video, clock, early = film(alone, 30), FrameClock(Fraction(25), 30), EarlyCrops(tmp_path, 30, CONFIG)
    with early:
        record = crop_one(video, clock, "left", tmp_path / "c.zip", CONFIG, by_search(find_colours), early=early)
    assert (record["present"], early.kept.any()) == (30, False)


@pytest.mark.parametrize("face", ["largest", "centre"])
def test_a_cut_ends_tracks_without_identity(film: Callable[..., Path], tmp_path: Path, face: str) -> None:
    """The one shot in which somebody is seen longest, and a record of what was left out."""
    video, clock = film(cut_between_two, 90, shots), FrameClock(Fraction(25), 90)
    record = crop_one(video, clock, face, tmp_path / "c.zip", CONFIG, by_search(find_colours))
    assert colours(tmp_path / "c.zip", clock) == dict.fromkeys(range(50, 90), "r")
    assert (record["cuts"], record["elsewhere"], record["present"]) == (2, 50, 40)


def test_the_same_person_is_followed_over_cuts_with_identity(film: Callable[..., Path], tmp_path: Path) -> None:
    """Red goes on after blue, who is at the same place between two cuts."""
    video, clock = film(cut_between_two, 90, shots), FrameClock(Fraction(25), 90)
    args = (CONFIG, by_search(find_colours), None, IDENTITY)
    record = crop_one(video, clock, "largest", tmp_path / "c.zip", *args)
    assert colours(tmp_path / "c.zip", clock) == dict.fromkeys([*range(20), *range(50, 90)], "r")
    assert (record["cuts"], record["elsewhere"], record["other"]) == (0, 0, 30)


def test_who_comes_back_is_known(film: Callable[..., Path], tmp_path: Path) -> None:
    """Though a track would bridge the gap to somebody else at the same place."""
    config = replace(CONFIG, faces=FaceConfig(every=4, max_gap=8))
    video, clock = film(back_elsewhere, 70), FrameClock(Fraction(25), 70)
    for identity, frames in ((None, range(20)), (IDENTITY, [*range(20), *range(40, 55)])):
        crop_one(video, clock, "left", tmp_path / "c.zip", config, by_search(find_colours), None, identity)
        assert colours(tmp_path / "c.zip", clock) == dict.fromkeys(frames, "r"), identity


def test_other_faces_that_are_seen_far_more_are_counted(film: Callable[..., Path], tmp_path: Path) -> None:
    def scene(frame: int) -> list[tuple[tuple[int, int, int], int]]:
        return [(BLUE, 10)] + ([(RED, 110)] if 10 <= frame < 30 else [])

    video, clock = film(scene, 60), FrameClock(Fraction(25), 60)
    record = crop_one(video, clock, "centre", tmp_path / "c.zip", CONFIG, by_search(find_colours))
    assert (record["present"], record["other"], record["cuts"]) == (20, 60, 0)


def test_a_face_that_is_found_twice_is_one(film: Callable[..., Path]) -> None:
    """The old tracklet ends where the new one begins, if it would soon end anyway."""

    def sight(frame: int) -> Sight:
        boxes = ([[0, 0, 100, 100]] if frame < 14 else []) + ([[45, 0, 145, 100]] if 10 <= frame < 40 else [])
        marks = np.zeros((len(boxes), 5, 2), np.float32)
        return Sight(frame, Detection(np.array(boxes, np.float32), np.ones(len(boxes), np.float32), marks), False)

    first, second = link(map(sight, range(40)), FaceConfig())
    assert (first.frames[-1], second.frames[0], first.last_box.tolist()) == (9, 10, [0, 0, 100, 100])
    first, second = link(map(sight, range(40)), FaceConfig(max_gap=2))
    assert (first.frames[-1], second.frames[0]) == (13, 10)


def three(frame: int) -> list[tuple[tuple[int, int, int], int]]:
    """Blue throughout, red from 10 to 30 and again from 50, somebody green for eight frames."""
    found = [(BLUE, 10)] + ([(RED, 90)] if 10 <= frame < 30 or frame >= 50 else [])
    return found + ([(GREEN, 180)] if 20 <= frame < 28 else [])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pictures that were searched, by whatever detector was made; colours tell people apart."""
    searched: list[int] = []

    def search(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
        searched.append(len(pictures))
        return find_colours(pictures)

    monkeypatch.setattr(cropping, "make_detector", lambda *_: by_search(search))
    monkeypatch.setattr(cropping, "make_identity", lambda *_: IDENTITY)
    return searched


def test_everybody_has_a_number_by_time_and_a_row_on_the_sheet(
    film: Callable[..., Path], tmp_path: Path, asked: list[int]
) -> None:
    video, config = film(three, 80), replace(CONFIG, identity="foamliu")
    finder = PeopleFinder(config, tmp_path / "people", tmp_path, "cpu")
    found = finder.find("v", video)
    people = read_people(found.file)
    spans = [[(part.frames[0], part.frames[-1]) for part in person.tracklets] for person in people]
    assert (found.people, spans) == (2, [[(0, 79)], [(10, 29), (50, 79)]]), "green is a passer-by"
    sheet = np.asarray(Image.open(found.sheet))
    rows = [sheet[52 + 100 * row, 190 + 48 :: 100][:8].argmax(axis=1).tolist() for row in range(2)]
    assert (sheet.shape[0], rows) == (204, [[2] * 8, [0] * 8])
    content, number = found.file.read_bytes(), len(asked)
    assert finder.find("v", video) == found
    assert len(asked) == number, "found once"
    found.sheet.unlink()
    assert PeopleFinder(config, tmp_path / "people", tmp_path, "cpu").find("v", video) == found
    assert (found.file.read_bytes(), found.sheet.is_file()) == (content, True), "the same numbers again"
    everyone = PeopleFinder(replace(config, min_seen_s=0.2), tmp_path / "people", tmp_path, "cpu").find("v", video)
    assert everyone.people == 3
    assert len(read_people(found.file)) == 2, "those of other settings are there, for a corpus that was built with them"
    number = len(asked)
    assert finder.find("v", video) == found
    assert np.array_equal(np.asarray(Image.open(found.sheet)), sheet), "and the sheet shows them again"
    assert len(asked) == number, "without a search"
    everyone.file.with_suffix(".npy").write_bytes(b"x")
    with pytest.raises(CorpusError, match="bytes, expected"):
        read_people(everyone.file)
    again = PeopleFinder(replace(config, min_seen_s=0.2), tmp_path / "people", tmp_path, "cpu").find("v", video)
    assert (again.people, len(read_people(again.file))) == (3, 3), "what is damaged is found again"


def test_all_people_of_a_video_share_one_search_and_one_decoding(
    film: Callable[..., Path], tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the label clock is a frame longer than the video."""
    video, clock = film(three, 80), FrameClock(Fraction(25), 81)
    decoded: list[str] = []

    def watched(read: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def run(*args: object, **how: object) -> Iterator[Any]:
            decoded.append("wanted" if "wanted" in how else "all")
            yield from read(*args, **how)

        return run

    for read in (read_frames, read_twofold):
        monkeypatch.setattr(finding, read.__name__, watched(read))
    monkeypatch.setattr(everybody, "read_frames", watched(read_frames))
    sides = [Trial(f"v_{face}", "v", "", clock, {"video": video.name}, face=face) for face in ("left", "right")]
    manifest = Manifest(tmp_path, tuple(sides))
    timeline._scan.cache_clear()
    outcome = crop_trials(manifest, manifest.trials, CONFIG, tmp_path / "crops", "cpu")
    assert (outcome.computed, outcome.kept, outcome.failures) == (["v_left", "v_right"], [], {})
    assert timeline._scan.cache_info().misses == 1, "the times of its pictures are read once"
    assert (outcome.frames, decoded) == (162, ["all", "wanted"]), "searched, and cut where there is a crowd"
    folder = crops_folder(tmp_path / "crops", CONFIG)
    assert set(colours(folder / "v_left.zip", clock).values()) == {"b"}
    assert set(colours(folder / "v_right.zip", clock).values()) == {"r"}
    assert crop_trials(manifest, manifest.trials, CONFIG, tmp_path / "crops", "cpu").kept == ["v_left", "v_right"]

    decoded.clear()
    asked.clear()
    config = replace(CONFIG, identity="foamliu")
    found = PeopleFinder(config, tmp_path / "people", tmp_path, "cpu").find("v", video)
    assert decoded == ["all", "wanted", "wanted"], "searched, told apart, shown"
    searched = len(asked)
    trials = found.trials(replace(sides[0], id="v"))
    manifest = Manifest(Path("/"), tuple(replace(t, media={**t.media, "video": video.as_posix()}) for t in trials))
    outcome = crop_trials(manifest, manifest.trials, config, tmp_path / "crops", "cpu")
    assert (outcome.computed, decoded[3:], len(asked)) == (["v#1", "v#2"], ["wanted"], searched)
    names = [crops_folder(tmp_path / "crops", config) / f"v%23{number}.zip" for number in (1, 2)]
    assert colours(names[0], clock) == dict.fromkeys(range(80), "b")
    assert colours(names[1], clock) == dict.fromkeys([*range(10, 30), *range(50, 80)], "r")
    assert read_crop_record(names[0])["present"] == 80  # type: ignore[index]
    odd = replace(manifest, trials=(replace(manifest.trials[0], face="#3"),))
    failures = crop_trials(odd, odd.trials, config, tmp_path / "crops", "cpu").failures
    assert "is person 3 of its video, which shows 2" in failures["v#1"]


def test_one_face_that_fails_leaves_the_others(film: Callable[..., Path], tmp_path: Path, asked: list[int]) -> None:
    video, clock = film(three, 80), FrameClock(Fraction(25), 80)
    trial = Trial("v_left", "v", "", clock, {"video": video.name}, face="left")
    manifest = Manifest(tmp_path, (trial, replace(trial, id="v_who", face="best")))
    outcome = crop_trials(manifest, manifest.trials, CONFIG, tmp_path / "crops", "cpu")
    assert (outcome.computed, list(outcome.failures)) == (["v_left"], ["v_who"])


def test_missing_weights_of_an_identity_are_told_once_and_before_any_search(
    film: Callable[..., Path], tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise WeightsError("no weights")

    video, clock, config = film(three, 80), FrameClock(Fraction(25), 80), replace(CONFIG, identity="foamliu")
    trial = Trial("v", "v", "", clock, {"video": video.name}, face="left")
    manifest = Manifest(tmp_path, (trial, replace(trial, id="w", media={"video": "absent.mp4"})))
    made = crop_trials(manifest, manifest.trials[:1], config, tmp_path / "crops", "cpu")
    asked.clear()
    monkeypatch.setattr(cropping, "make_identity", missing)
    again = crop_trials(manifest, manifest.trials, config, tmp_path / "crops", "cpu")
    assert (made.computed, again.kept, list(again.failures)) == (["v"], ["v"], ["w"]), "nobody needs them"
    with pytest.raises(WeightsError):
        crop_trials(manifest, manifest.trials, config, tmp_path / "crops", "cpu", redo=True)
    assert not asked


def test_weights_of_an_identity_are_part_of_the_crops(tmp_path: Path) -> None:
    path = tmp_path / "own.pt"
    path.write_bytes(b"one")
    config = CropConfig(identity=str(path))
    first = config.fingerprint("largest")
    path.write_bytes(b"three")
    assert len({first, config.fingerprint("largest"), CropConfig().fingerprint("largest")}) == 3
    assert config.fingerprint("#1 abc") == CropConfig().fingerprint("#1 abc"), "who that is, is settled"
    assert config.fingerprint("reference abc") != CropConfig().fingerprint("reference abc"), "tracks end at swaps"
    assert config.to_document() == CropConfig().to_document(), "no part of a recipe, as the face of a trial"
    with pytest.raises(SettingError, match=r"'nobody'; expected foamliu, vggface2 or the path"):
        make_identity("nobody", 0.5)


WEIGHTS = Path(__file__).parents[4] / "shared" / "weights" / "mobilefacenet_foamliu.pt"


@pytest.mark.slow
def test_six_people_in_a_street(tmp_path: Path, media: SimpleNamespace) -> None:
    """Real faces: nobody's sightings are more like somebody else's, by the descriptor."""
    video = media.shared / "people_1080p_aac.mp4"
    if not video.is_file() or not WEIGHTS.is_file():
        pytest.skip("no shared media or weights here")
    found = PeopleFinder(CropConfig(identity=str(WEIGHTS)), tmp_path, tmp_path, "cpu").find("street", video)
    people = read_people(found.file)
    spans = [(person.tracklets[0].frames[0], person.tracklets[-1].frames[-1]) for person in people]
    assert found.people == 6
    assert spans[2] == (0, 104)
    assert spans[1][1] > 70, "who was lost for forty frames is known again"
