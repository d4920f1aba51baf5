"""A corpus with a trial for each person of a video, from `corpus build` to the crops of each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import yaml
from click.testing import Result
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest
from cache.errors import AvFusionError
from extract.corpora.folder import Config
from extract.engine import cropping, people_numbers
from extract.engine.cropping import crops_folder
from extract.engine.everybody import PeopleFinder
from extract.faces.crop_records import read_crop_record
from extract.faces.detection import TEMPLATE, Detection
from extract.faces.linking import Tracklet
from extract.faces.people import Person
from extract.faces.settings import CropConfig
from pipelines.project import paths
from pipelines.project.loose_media import each_person, loose_manifest
from pipelines.project.params import CorpusParams
from pipelines.project.params_file import read_params
from pipelines.stages.corpus import build_corpus
from pipelines.stages.crops import make_crops, save_crops_receipt
from pipelines.stages.plan import plan_documents
from tests.coloured import BLUE, GREEN, RED, draw, find_colours
from tests.detectors import by_search

LENGTH = 40
CONFIG = CropConfig(min_seen_s=0.5)


def write_grey(path: Path, rate: int) -> None:
    write_pictures(path, [np.full((64, 128, 3), 90, np.uint8)] * LENGTH, "libx264", "yuv420p", rate)


def write_pictures(path: Path, pictures: Sequence[NDArray[np.uint8]], codec: str, pixels: str, rate: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], pixels
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def three(frame: int) -> list[tuple[tuple[int, int, int], int]]:
    """Green is there first and goes after 10 frames; then blue comes, then red."""
    green, blue, red = [(GREEN, 4)] * (frame < 10), [(BLUE, 70)] * (frame >= 4), [(RED, 140)] * (frame >= 8)
    return [*green, *blue, *red]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A project of some videos, with labels of one person of each."""
    monkeypatch.chdir(tmp_path)

    def make(names: Sequence[str], identity: str = "") -> None:
        params = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text())
        params["corpus"] = {"name": "folder", "root": "mine", "settings": {"face": "all"}}
        params["crops"] = {**(params.get("crops") or {}), "identity": identity, "min_seen_s": 0.5}
        Path("params.yaml").write_text(yaml.safe_dump(params))
        for folder in ("videos", "labels"):
            Path("mine", folder).mkdir(parents=True)
        for name in names:
            write_grey(Path("mine/videos", f"{name}.mp4"), 25)
            Path("mine/labels", f"{name}#1.csv").write_text("valence,arousal\n" + "0,0.1\n" * LENGTH)

    return make


def two_faces(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
    """A face in each half of every picture."""
    marks = np.stack([TEMPLATE * 64 / 112 + np.array([at, 0]) for at in (0, 64)]).astype(np.float32)
    boxes = np.array([[at, 0, at + 64, 64] for at in (0, 64)], np.float32)
    return [Detection(boxes, np.ones(2, np.float32), marks) for _ in pictures]


def test_each_person_is_cropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The videos are searched once, though the corpus is built again when labels are added."""
    monkeypatch.chdir(tmp_path)
    root, searched = tmp_path / "mine", []

    def search(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
        searched.append(len(pictures))
        return two_faces(pictures)

    monkeypatch.setattr(cropping, "make_detector", lambda *_: by_search(search))
    (root / "videos").mkdir(parents=True)
    (root / "labels").mkdir()
    write_grey(root / "videos" / "talk.mp4", 25)
    params = CorpusParams("folder", str(root), {"face": "all"})
    assert [trial.id for trial in build_corpus(params, paths.CORPUS, CONFIG).trials] == ["talk#1", "talk#2"]
    kinds = sorted(path.name.split(".")[-1] for path in paths.PEOPLE.iterdir() if path.name.startswith("talk."))
    assert kinds == ["json", "json", "npy", "npy", "png"], "everybody, and those who are seen for long enough"
    known = len(searched)
    (root / "labels" / "talk#2.csv").write_text("valence,arousal\n" + "0,0.1\n" * LENGTH)
    build_corpus(params, paths.CORPUS, CONFIG)
    manifest = Manifest.load(paths.CORPUS)
    assert [(trial.id, trial.labels is None) for trial in manifest.trials] == [("talk#1", True), ("talk#2", False)]
    outcome = make_crops(manifest, CONFIG, paths.CROPS, "cpu")
    assert (outcome.computed, outcome.failures, len(searched)) == (["talk#1", "talk#2"], {}, known)
    save_crops_receipt(manifest, CONFIG, paths.CROPS, paths.CROPS_RECEIPT)
    receipt = json.loads(paths.CROPS_RECEIPT.read_text())
    assert (receipt["remarks"], {name: each["present"] for name, each in receipt["trials"].items()}) == (
        {},
        {"talk#1": LENGTH, "talk#2": LENGTH},
    )
    record = read_crop_record(crops_folder(paths.CROPS, CONFIG) / "talk%232.zip")
    assert record is not None
    (root / "videos" / "talk.mp4").unlink()
    write_grey(root / "videos" / "talk.mp4", 30)
    build_corpus(params, paths.CORPUS, CONFIG)
    assert len(searched) > known, "another video shows other people"


def test_a_rehearsal_counts_the_people_that_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Result]
) -> None:
    monkeypatch.setattr(cropping, "make_detector", lambda *_: by_search(two_faces))
    write_grey(tmp_path / "talk.mp4", 25)
    out, network = tmp_path / "out", ("--backbone", "mobilefacenet", "--weights", "random", "--face", "all")
    arguments = ("extract", *network, "--out", out, tmp_path / "talk.mp4")
    rehearsal = run(*arguments, "--dry-run", "--json")
    assert [row["to_do"] for row in json.loads(rehearsal.stdout)] == [1]
    assert "talk.mp4' was not searched for people yet, so it counts as one trial" in rehearsal.stderr
    assert not out.exists()
    assert run(*arguments).exit_code == 0
    rehearsal = run(*arguments, "--dry-run", "--json")
    assert [(row["to_do"], row["kept"]) for row in json.loads(rehearsal.stdout)] == [(0, 2)]
    assert "not searched" not in rehearsal.stderr


def test_the_corpus_depends_on_how_people_are_found_only_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    params = replace(read_params(), crops=CONFIG)
    assert plan_documents(params)["people.json"] == b"null\n"
    each = replace(params, corpus=CorpusParams("folder", "mine", Config(face="all")))
    other = replace(each, crops=CropConfig(identity="foamliu"))
    first, second = (plan_documents(one)["people.json"] for one in (each, other))
    assert b'"min_seen_s": 0.5' in first != second


@pytest.mark.parametrize("identity", ["nobody", "bad.pt"])
def test_a_bad_identity_is_told_once_and_before_any_search(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    project: Callable[..., None],
    identity: str,
    run: Callable[..., Result],
) -> None:
    """By whatever command, and nothing that follows from it."""
    searched: list[int] = []
    monkeypatch.setattr(cropping, "make_detector", lambda *_: by_search(lambda pictures: searched.append(1) or []))
    Path("bad.pt").write_bytes(b"no weights")
    project(["one", "two"], identity)
    told = "state dict" if identity == "bad.pt" else "expected foamliu, vggface2 or the path"
    for command in (("corpus", "build"), ("corpus", "check", "mine")):
        result = run(*command)
        said = " ".join((result.stdout + result.stderr).split())
        assert (result.exit_code, said.count(told), "belong to no" in said) == (1, 1, False), said
    assert "2 videos of which nobody knows yet whom they show" in said
    manifest, _ = loose_manifest([Path("mine/videos/one.mp4"), Path("mine/videos/two.mp4")], None, "all")
    finder = PeopleFinder(CropConfig(identity=identity), tmp_path / "people", tmp_path, "cpu")
    with pytest.raises(AvFusionError, match=told):
        each_person(manifest, finder)
    assert not searched


@pytest.fixture
def numbered(
    project: Callable[..., None], run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> SimpleNamespace:
    """A corpus of a video of three, built and labelled; blue and red are seen for half a second, and green is not."""
    found = SimpleNamespace(searched=[], labels=Path("mine/labels"), run=run)

    def search(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
        found.searched.append(len(pictures))
        return find_colours(pictures)

    def build(min_seen_s: float | None = None) -> tuple[int, str]:
        if min_seen_s is not None:
            params = yaml.safe_load(Path("params.yaml").read_text())
            params["crops"]["min_seen_s"] = min_seen_s
            Path("params.yaml").write_text(yaml.safe_dump(params))
        result = run("corpus", "build")
        return result.exit_code, " ".join((result.stdout + result.stderr).split())

    def label(number: int, value: float) -> None:
        (found.labels / f"talk#{number}.csv").write_text("valence,arousal\n" + f"{value},0\n" * LENGTH)

    monkeypatch.setattr(cropping, "make_detector", lambda *_: by_search(search))
    project([])
    picture = draw(three, lambda frame: 90)
    pictures = [picture(frame, 64, 256) for frame in range(LENGTH)]
    write_pictures(Path("mine/videos/talk.mkv"), pictures, "ffv1", "bgr0", 25)
    found.build, found.label = build, label
    label(1, 0.1)
    label(2, 0.2)
    code, said = build()
    assert (code, "other numbers" in said) == (0, False), said
    return found


def test_labels_are_refused_where_their_number_is_somebody_else(numbered: SimpleNamespace) -> None:
    """Until they have the name of the person whose they are; and nothing is searched again."""
    known = len(numbered.searched)
    for _ in range(2):
        code, said = numbered.build(0.3)
        assert code == 1, said
        assert "labels of 'talk#1' may be of somebody else, since talk#1 is now who was nobody who had a number" in said
        assert "labels of 'talk#2' may be of somebody else, since talk#2 is now who was talk#1" in said
        assert "talk#3 is now who was talk#2" in said
    check = numbered.run("corpus", "check", "mine")
    assert (check.exit_code, "talk#2 is now who was talk#1" in " ".join(check.stderr.split())) == (1, True)
    (numbered.labels / "talk#2.csv").rename(numbered.labels / "talk#3.csv")
    assert numbered.build()[0] == 1, "half of the way"
    (numbered.labels / "talk#1.csv").rename(numbered.labels / "talk#2.csv")
    code, said = numbered.build()
    assert (code, "People of 'talk' have other numbers than before: talk#1 is now who was nobody" in said) == (0, True)
    values = {trial.id: trial.labels for trial in Manifest.load(paths.CORPUS).trials}
    assert values["talk#1"] is None
    assert [round(float(values[f"talk#{at}"][0, 0]), 3) for at in (2, 3)] == [0.1, 0.2]  # type: ignore[index]
    code, said = numbered.build()
    assert (code, "other numbers" in said) == (0, False), "the same numbers again"
    assert len(numbered.searched) == known


def test_labels_that_were_looked_at_are_taken(numbered: SimpleNamespace) -> None:
    """Also where the corpus that was built is lost, as when DVC runs the stage again."""
    for path in numbered.labels.iterdir():
        path.unlink()
    shutil.rmtree(paths.CORPUS)
    numbered.label(1, 0.7)
    assert numbered.build(0.3)[0] == 1
    (numbered.labels / "talk#1.csv").unlink()
    assert numbered.build()[0] == 0
    numbered.label(1, 0.7)
    code, said = numbered.build()
    assert (code, "other numbers" in said) == (0, False)


def test_a_number_that_nobody_had_is_no_change(numbered: SimpleNamespace) -> None:
    """Somebody who comes last is added; where the people of before are lost, nobody knows whom numbers meant."""
    picture = draw(lambda frame: [(BLUE, 4), (RED, 70), *[(GREEN, 140)] * (frame >= 32)], lambda frame: 90)
    pictures = [picture(frame, 64, 256) for frame in range(LENGTH)]
    write_pictures(Path("mine/videos/more.mkv"), pictures, "ffv1", "bgr0", 25)
    assert numbered.build()[0] == 0
    (numbered.labels / "more#1.csv").write_text((numbered.labels / "talk#1.csv").read_text())
    Path("mine/videos/talk.mkv").unlink()
    for path in numbered.labels.glob("talk*"):
        path.unlink()
    code, said = numbered.build(0.3)
    assert (code, "other numbers" in said) == (0, False), said
    before = Manifest.load(paths.CORPUS)
    before.path(before.trials[0], "people").unlink()
    code, said = numbered.build(0.5)
    assert (code, "labels of 'more#1' may be of somebody else, since the people of before are lost" in said) == (
        1,
        True,
    )


def test_numbers_are_remembered_while_a_video_is_away(numbered: SimpleNamespace) -> None:
    """Or has another name: nobody sees new numbers in between."""
    away = Path("away")
    shutil.copytree(numbered.labels, away)
    kept = Path("mine/videos/talk.mkv").rename("talk.mkv")
    shutil.copy(kept, "mine/videos/other.mkv")
    for path in numbered.labels.iterdir():
        path.rename(numbered.labels / path.name.replace("talk", "other"))
    code, said = numbered.build(0.3)
    assert (code, "labels of 'other#2' may be of somebody else, since other#2 is now who was talk#1" in said) == (
        1,
        True,
    )
    shutil.rmtree(numbered.labels)
    numbered.labels.mkdir()
    assert numbered.build(0.5)[0] == 0, "under the other name, without labels"
    Path("mine/videos/other.mkv").unlink()
    kept.rename("mine/videos/talk.mkv")
    shutil.copytree(away, numbered.labels, dirs_exist_ok=True)
    code, said = numbered.build(0.3)
    assert (code, "labels of 'talk#2' may be of somebody else, since talk#2 is now who was talk#1" in said) == (1, True)
    assert numbered.build(0.5)[0] == 0


def test_a_video_that_was_replaced_is_named(numbered: SimpleNamespace) -> None:
    video = Path("mine/videos/talk.mkv")
    video.write_bytes(video.read_bytes() + bytes(16))
    code, said = numbered.build()
    assert (code, "Videos that are not the same as before: 'talk' (see" in said) == (0, True), said
    assert "not the same" not in numbered.build()[1]


def test_a_corpus_of_an_earlier_version_is_compared_as_well(numbered: SimpleNamespace) -> None:
    """By its manifest."""
    (paths.PEOPLE / "numbers.json").unlink()
    code, said = numbered.build(0.3)
    assert (code, "talk#2 is now who was talk#1" in said) == (1, True)


def test_people_who_became_one_or_two() -> None:
    def person(left: float, *frames: range) -> Person:
        found = Person()
        for span in frames:
            box, marks = np.array([left, 0, left + 40, 40], np.float32), np.zeros((5, 2), np.float32)
            part = Tracklet(span[0], box, marks, 0)
            for frame in span[1:]:
                part.add(frame, box, marks)
            found.add(part)
        return found

    one, other, third = person(0, range(50)), person(0, range(60, 100)), person(90, range(100))
    both = person(0, range(50), range(60, 100))
    assert people_numbers._who_was([both, third], [one, other, third]) == [["#1", "#2"], ["#3"]]
    assert people_numbers._who_was([one, third, other], [both, third]) == [["#1"], ["#2"], ["#1"]]
    assert people_numbers._who_was([person(200, range(9)), third], [third]) == [[], ["#1"]]
    assert people_numbers._who_was([third], []) == [[]]
