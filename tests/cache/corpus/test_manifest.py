"""Manifests, clocks and names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.clock import FrameClock, check_length
from cache.corpus.manifest import Manifest, Trial
from cache.errors import CorpusError, MissingFileError, ShapeError, UnknownNameError
from cache.names import constant, load_named, require_known


def make_trial(name: str, num_frames: int = 5, labels: np.ndarray | None = None, partition: str = "train") -> Trial:
    clock = FrameClock(Fraction(30000, 1001), num_frames, 0.5)
    return Trial(name, f"subject of {name}", partition, clock, {"video": f"batch1/{name}.mp4"}, labels, "left")


def test_a_manifest_survives_the_disk(tmp_path: Path) -> None:
    labels = np.array([[0.1, -0.2], [np.nan, np.nan], [1, -1], [0, 0], [0.5, 0.5]], np.float32)
    manifest = Manifest(tmp_path / "media", (make_trial("b", labels=labels), make_trial("a", 3)))
    manifest.save(tmp_path)
    again = Manifest.load(tmp_path)
    assert [trial.id for trial in again.trials] == ["a", "b"]
    assert again.trials == manifest.trials
    assert again.trials[0].labels is None
    np.testing.assert_array_equal(again.trials[1].labels, labels)
    assert again.path(again.trial("b"), "video") == (tmp_path / "media/batch1/b.mp4").resolve()


def test_the_files_are_a_function_of_the_content(tmp_path: Path) -> None:
    trials = (make_trial("b"), make_trial("a"))
    for name, order in (("x", trials), ("y", trials[::-1])):
        Manifest(tmp_path / name / "media", order).save(tmp_path / name)
    for file in ("manifest.json", "labels.npy"):
        assert (tmp_path / "x" / file).read_bytes() == (tmp_path / "y" / file).read_bytes()


@pytest.mark.parametrize(
    ("root", "written"), [("mine", "../../mine"), ("~/corpus", "~/corpus"), ("/data/corpus", "/data/corpus")]
)
def test_the_root_is_written_as_it_was_given(
    root: str, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    contents = []
    for machine in ("first", "second/deeper"):
        project = tmp_path / machine
        project.mkdir(parents=True)
        monkeypatch.chdir(project)
        words = os.path.relpath(project / "work/words/a.json", Path(root).expanduser())
        trial = replace(make_trial("a"), media={"video": "a.mp4", "words": words})
        Manifest(Path(root), (trial,)).save(Path("work/corpus"))
        contents.append(Path("work/corpus/manifest.json").read_bytes())
        again = Manifest.load(Path("work/corpus"))
        assert again.path(again.trials[0], "video") == Path(root).expanduser().resolve() / "a.mp4"
        assert again.path(again.trials[0], "words") == project / "work/words/a.json"
        again.save(Path("work/corpus"))
        assert Path("work/corpus/manifest.json").read_bytes() == contents[-1]
    assert contents[0] == contents[1]
    document = json.loads(contents[0])
    assert (document["root"], document["trials"][0]["media"]["words"]) == (written, "<manifest>/../words/a.json")


def test_a_root_beside_a_linked_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "project").mkdir()
    (tmp_path / "project/work").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(tmp_path / "project")
    Manifest(Path("mine"), (make_trial("a"),)).save(Path("work/corpus"))
    again = Manifest.load(Path("work/corpus"))
    assert again.path(again.trials[0], "video") == tmp_path / "project/mine/batch1/a.mp4"


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    wrong = make_trial("c", 5, np.zeros((4, 2), np.float32))
    with pytest.raises(CorpusError) as caught:
        Manifest(tmp_path, (make_trial("a"), make_trial("a"), make_trial("b", partition="dev"), wrong))
    for text in ("'a' occurs 2 times", "partition 'dev'", "'c' has labels of shape (4, 2), expected (5, 2)"):
        assert text in str(caught.value)


def test_missing_things_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="dvc repro corpus"):
        Manifest.load(tmp_path)
    manifest = Manifest(tmp_path, (make_trial("video59"),))
    with pytest.raises(MissingFileError, match="has no words, only video"):
        manifest.path(manifest.trials[0], "words")
    with pytest.raises(UnknownNameError, match="Did you mean 'video59'"):
        manifest.trial("video9")


def damage_json(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        document = json.loads((folder / "manifest.json").read_text())
        change(document)
        (folder / "manifest.json").write_text(json.dumps(document))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "manifest.json").write_text('{"version": 1, "tri'),
        lambda folder: (folder / "manifest.json").write_bytes(b""),
        lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        lambda folder: (folder / "labels.npy").write_bytes(b""),
        lambda folder: (folder / "labels.npy").write_bytes((folder / "labels.npy").read_bytes()[:-3]),
        lambda folder: (folder / "labels.npy").write_bytes(b"nothing"),
        lambda folder: np.save(folder / "labels.npy", np.zeros((5, 2), bool)),
        lambda folder: np.save(folder / "labels.npy", np.float32(1)),
        damage_json(lambda document: document.pop("trials")),
        damage_json(lambda document: document.update(trials=3)),
        damage_json(lambda document: document.update(root=3)),
        damage_json(lambda document: document["trials"][0].pop("rate")),
        damage_json(lambda document: document["trials"][0].update(num_frames="5")),
        damage_json(lambda document: document["trials"][0].update(rate="1/0")),
        damage_json(lambda document: document["trials"][0].update(media=["a"])),
        damage_json(lambda document: document["trials"][0].update(id=7)),
    ],
)
def test_a_damaged_manifest_is_reported_in_one_sentence(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    Manifest(tmp_path, (make_trial("a"),)).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(CorpusError, match="is damaged .* Run 'avfusion corpus build' again") as caught:
        Manifest.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_clock_does_not_drift() -> None:
    clock = FrameClock(Fraction(30000, 1001), 108_000)
    assert clock.time_s(107_892) == 107_892 * 1001 / 30000
    np.testing.assert_allclose(clock.times_s()[-1], clock.time_s(107_999), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("rate", "num_frames"), [(0, 5), (-25, 5), (25, 0)])
def test_impossible_clocks_are_refused(rate: int, num_frames: int) -> None:
    with pytest.raises(ShapeError, match="at least 1 frame"):
        FrameClock(Fraction(rate), num_frames)


@pytest.mark.parametrize("found", [98, 99, 100, 101, 102])
def test_two_frames_of_difference_are_allowed(found: int) -> None:
    check_length("P23", "video frames", found, 100, "labels/P23.txt")


def test_three_are_not() -> None:
    with pytest.raises(ShapeError) as caught:
        check_length("P23", "video frames", 7188, 7194, "labels/P23.txt")
    assert str(caught.value) == (
        "Trial 'P23' has 7194 labels but 7188 video frames; a difference of 2 is allowed. Check 'labels/P23.txt'."
    )


def test_unknown_names_get_the_nearest_guess() -> None:
    with pytest.raises(UnknownNameError) as caught:
        load_named("backbone", {"facenet": "a:b", "bert": "c:d"}, "facenett")
    assert str(caught.value) == "Unknown backbone 'facenett'; expected one of bert, facenet. Did you mean 'facenet'?"
    require_known("backbone", "bert", ["bert"])


def test_what_a_class_declares_is_read_without_importing_it() -> None:
    from extract.backbones import BACKBONES

    assert {name: constant(target, "modality") for name, target in BACKBONES.items()} == {
        name: load_named("backbone", BACKBONES, name).modality for name in BACKBONES
    }
    with pytest.raises(UnknownNameError, match="declares no 'colour'"):
        constant(BACKBONES["conv1d"], "colour")
