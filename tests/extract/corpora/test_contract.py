"""What every corpus promises, over the table; each has a tiny example folder here."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simplejpeg

from cache.clock import FrameClock
from cache.corpus.manifest import PARTITIONS, Manifest, Trial
from cache.errors import AvFusionError, CorpusError, SettingError
from cache.names import config_of, encode_trial_id, load_named
from cache.targets import Target
from extract.corpora import CORPORA
from extract.corpora.contract import Corpus
from extract.corpora.reading import finish
from extract.faces.settings import REFERENCE
from extract.faces.tracking import FACES

LENGTH = 12
Write = Callable[[Path, SimpleNamespace], dict[str, Any]]
"""Fills a folder; returns the settings that it is read with."""


def write_text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_crops(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(1, LENGTH + 1):
        (folder / f"{number:05d}.jpg").write_bytes(simplejpeg.encode_jpeg(np.full((16, 16, 3), number, np.uint8)))


def write_affwild2(root: Path, media: SimpleNamespace) -> dict[str, Any]:
    """Two people of one video, and one trial of crops alone; one row is annotated in part."""
    annotations = root / "6th ABAW Annotations/VA_Estimation_Challenge"
    rows = ["valence,arousal", *(f"{i / 100},{-i / 100}" for i in range(LENGTH - 1)), "0.5,-5"]
    for place in ("Train_Set/video1_left", "Train_Set/video1", "Validation_Set/video2"):
        write_text(annotations / f"{place}.txt", *rows)
        write_crops(root / "cropped_aligned" / Path(place).name)
    (root / "batch1").mkdir()
    for name in ("video1", "video2"):
        media.write_video(root / f"batch1/{name}.mp4", LENGTH)
    return {}


def write_demo(root: Path, media: SimpleNamespace) -> dict[str, Any]:
    """As it generates itself."""
    settings = {"num_trials": 3, "num_subjects": 3, "min_s": 1.0, "max_s": 1.2}
    kind = load_named("corpus", CORPORA, "demo")
    kind(config_of(CORPORA["demo"])(**settings)).generate(root)
    return settings


def write_folder(root: Path, media: SimpleNamespace) -> dict[str, Any]:
    """Targets of other ranges, each of which some frames lack; labels by frame and by time."""
    (root / "videos").mkdir(parents=True)
    for name in "ab":
        media.write_video(root / f"videos/{name}.mp4", LENGTH)
    write_text(root / "labels/a.csv", "arousal,pain", ",10", "9,", *["1,0"] * (LENGTH - 2))
    write_text(root / "labels/b.csv", "time,pain,arousal", "0,0,1.5", "0.4,10,8.5")
    write_text(root / "subjects.csv", "trial,subject,partition", "a,Ann,train", "b,Bob,validation")
    write_text(root / "words/a.srt", "1", "00:00:00,000 --> 00:00:00,400", "hello")
    return {"targets": {"arousal": (1, 9), "pain": (0, 10)}}


def write_muse(root: Path, media: SimpleNamespace) -> dict[str, Any]:
    """A subject of each partition, a frame with arousal alone; labels of the last subject are secret."""
    write_text(root / "metadata/partition.csv", "Id,Proposal", "1,train", "2,devel", "3,test")
    for subject, value in (("1", "0.5"), ("2", "-0.5"), ("3", "")):
        for target in ("valence", "arousal"):
            rows = [f"{500 * i},{'' if (target, i) == ('valence', 3) else value}" for i in range(LENGTH)]
            write_text(root / f"label_segments/{target}/{subject}.csv", "timestamp,value", *rows)
    (root / "raw_data/videos").mkdir(parents=True)
    media.write_video(root / "raw_data/videos/1.mp4", 6 * LENGTH, 12)
    return {}


def write_recola(root: Path, media: SimpleNamespace) -> dict[str, Any]:
    """Two people, one of them with pictures; nobody rated the last tick."""
    for name, value in (("P16", "0.5"), ("P17", "-0.5")):
        for target in ("valence", "arousal"):
            rows = [f"{0.04 * tick:.2f};{value};0" for tick in range(LENGTH - 1)] + [f"{0.04 * LENGTH - 0.04:.2f};;"]
            write_text(root / f"RECOLA-Annotation/emotional_behaviour/{target}/{name}.csv", "time;FM1;FM2", *rows)
    (root / "RECOLA-Video-recordings").mkdir()
    (root / "RECOLA-Audio-recordings").mkdir()
    media.write_video(root / "RECOLA-Video-recordings/P16.mp4", LENGTH, 25)
    media.write_audio(root / "RECOLA-Audio-recordings/P17.wav", np.zeros(16_000, np.float32), "pcm_s16le", 16_000)
    return {}


EXAMPLES: dict[str, Write] = {
    "affwild2": write_affwild2,
    "demo": write_demo,
    "folder": write_folder,
    "muse": write_muse,
    "recola": write_recola,
}


def test_every_corpus_has_an_example() -> None:
    assert list(CORPORA) == sorted(CORPORA)
    assert all(
        target.startswith((f"extract.corpora.{name}:", f"extract.corpora.{name}.corpus:"))
        for name, target in CORPORA.items()
    )
    assert EXAMPLES.keys() == CORPORA.keys(), "write a tiny folder for the new corpus"


@pytest.fixture(scope="module", params=CORPORA)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, media: SimpleNamespace) -> Any:
    """A corpus and its example folder."""
    name = request.param
    root = tmp_path_factory.mktemp(name) / "corpus"
    root.mkdir()
    settings = EXAMPLES[name](root, media)
    corpus = load_named("corpus", CORPORA, name)(config_of(CORPORA[name])(**settings))
    return SimpleNamespace(name=name, root=root, corpus=corpus, manifest=corpus.read(root))


def test_trials_have_clocks_subjects_partitions_and_media_that_exist(example: Any) -> None:
    manifest: Manifest = example.manifest
    assert len(manifest.trials) >= 2
    for trial in manifest.trials:
        assert encode_trial_id(trial.id)
        assert trial.subject
        assert trial.partition in (*PARTITIONS, "")
        assert trial.clock.num_frames >= 1
        assert trial.clock.rate > 0
        assert trial.face in (*FACES, REFERENCE)
        for kind in trial.media:
            assert manifest.path(trial, kind).exists()
            assert manifest.path(trial, kind).is_relative_to(example.root.resolve())
    assert any(trial.media for trial in manifest.trials)


def test_labels_are_in_the_ranges_that_are_declared(example: Any) -> None:
    manifest: Manifest = example.manifest
    labelled = [trial for trial in manifest.trials if trial.labels is not None]
    for trial in labelled:
        assert trial.labels is not None
        assert trial.labels.dtype == np.float32
        assert trial.labels.shape == (trial.clock.num_frames, len(manifest.targets))
        assert np.isfinite(trial.labels).any(), "all missing are none"
    every = np.concatenate([trial.labels for trial in labelled if trial.labels is not None])
    for target, column in zip(manifest.targets, every.T, strict=True):
        assert target.low <= np.nanmin(column) < np.nanmax(column) <= target.high
    assert np.isnan(every).any(), "the example lacks a label somewhere"


def test_the_same_folder_gives_the_same_manifest(example: Any, tmp_path: Path) -> None:
    """So it does where the folder lies elsewhere, and in a reader that has read before."""
    moved = tmp_path / "moved"
    shutil.copytree(example.root, moved)
    for place, root in (("first", example.root), ("again", example.root), ("moved", moved)):
        dataclasses.replace(example.corpus.read(root), root=Path("corpus")).save(tmp_path / place)
    for file in ("manifest.json", "labels.npy"):
        contents = {(tmp_path / place / file).read_bytes() for place in ("first", "again", "moved")}
        assert len(contents) == 1, file


def test_a_folder_is_recognised_by_its_own_reader_alone(example: Any) -> None:
    assert [name for name in CORPORA if load_named("corpus", CORPORA, name).recognises(example.root)] == [example.name]


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_keeps_the_contract(name: str, tmp_path: Path) -> None:
    kind, config = load_named("corpus", CORPORA, name), config_of(CORPORA[name])
    assert issubclass(kind, Corpus)
    assert dataclasses.fields(config)
    assert config.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert not kind.recognises(tmp_path)
    assert not kind.recognises(tmp_path / "nowhere")
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(AvFusionError):
            kind(config()).read(root)
    if not kind.generated:
        with pytest.raises(SettingError, match=r"corpus\.root"):
            kind(config()).generate(tmp_path)


def test_labels_without_their_range_are_refused(tmp_path: Path) -> None:
    """A reader that hands out ratings from 1 to 9 as if they were in [-1, 1] would train, to nothing and in silence."""
    ratings = np.linspace(1, 9, LENGTH, dtype=np.float32)[:, None]
    trial = Trial("a", "a", "train", FrameClock(Fraction(25), LENGTH), {}, ratings)
    with pytest.raises(CorpusError) as caught:
        finish(tmp_path, [trial], (Target("arousal"),), [])
    for part in ("trial 'a'", "'arousal' outside [-1, 1]", "1.72727 in frame 1", "Declare the range"):
        assert part in str(caught.value)
    assert finish(tmp_path, [trial], (Target("arousal", low=1, high=9),), []).trials == (trial,)
