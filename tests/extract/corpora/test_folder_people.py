"""A trial for each person of a video: names, labels, subjects and the faults that say who is who."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cache.corpus.manifest import Manifest
from cache.errors import CorpusError, MediaError, SettingError, WeightsError
from extract.corpora.folder import Config, Folder

LENGTH = 10
ROWS = "valence,arousal\n" + "0.5,0.1\n" * LENGTH


@pytest.fixture
def root(tmp_path: Path, media: SimpleNamespace) -> Path:
    """Two people talk in `talk.v2`; `own` has a picture of its person."""
    folder = tmp_path / "mine"
    for part in ("videos", "labels", "words", "faces"):
        (folder / part).mkdir(parents=True)
    for name in ("talk.v2", "own"):
        media.write_video(folder / "videos" / f"{name}.mp4", LENGTH, 25)
    (folder / "labels" / "talk.v2#2.csv").write_text(ROWS)
    (folder / "labels" / "own.csv").write_text(ROWS)
    (folder / "faces" / "own.png").write_bytes(b"a picture")
    (folder / "words" / "talk.v2.srt").write_text("1\n00:00:00,000 --> 00:00:00,300\nyes\n")
    return folder


def read(root: Path, people: int = 2) -> Manifest:
    corpus = Folder(Config(face="all"))
    corpus.find_people = lambda name, video: (people, root.parent / "people" / f"{name}.json")
    return corpus.read(root)


def test_each_person_is_a_trial(root: Path, tmp_path: Path) -> None:
    manifest = read(root)
    assert [(t.id, t.subject, t.face, t.labels is not None) for t in manifest.trials] == [
        ("own", "own", "reference", True),
        ("talk.v2#1", "talk.v2", "#1", False),
        ("talk.v2#2", "talk.v2", "#2", True),
    ]
    one, other = manifest.trials[1:]
    assert one.media == other.media
    assert manifest.path(one, "people") == tmp_path / "people" / "talk.v2.json"
    assert manifest.path(one, "words").name == "talk.v2.srt"
    place = tmp_path / "work" / "corpus"
    manifest.save(place)
    again = Manifest.load(place)
    assert again.trials == manifest.trials
    np.testing.assert_array_equal(again.trial("talk.v2#2").labels, other.labels)  # type: ignore[arg-type]


def test_subjects_of_a_video_or_of_its_people(root: Path) -> None:
    table = root / "subjects.csv"
    table.write_text("trial,subject,partition\nown,Ann,test\ntalk.v2,dyad 1,train\ntalk.v2#2,Bob,validation\n")
    found = {trial.id: (trial.subject, trial.partition) for trial in read(root).trials}
    assert found == {"own": ("Ann", "test"), "talk.v2#1": ("dyad 1", "train"), "talk.v2#2": ("Bob", "validation")}


def test_labels_of_nobody_say_who_there_is(root: Path) -> None:
    (root / "labels" / "talk.v2.csv").write_text(ROWS)
    (root / "labels" / "talk.v2#3.csv").write_text(ROWS)
    with pytest.raises(CorpusError) as error:
        read(root)
    for name in ("talk.v2", "talk.v2#3"):
        assert f"{name}.csv' are of none of the 2 people of 'talk.v2', expected a name such as 'talk.v2#1.csv'" in str(
            error.value
        )
    assert f"work{os.sep}people{os.sep}talk.v2.people.png" in str(error.value)


def test_what_nobody_knows_yet_is_no_fault(root: Path) -> None:
    """One sentence of a video that fails, and none that follows from it."""
    (root / "subjects.csv").write_text("trial,subject,partition\nown,Ann,\ntalk.v2#2,Bob,train\n")
    corpus = Folder(Config(face="all"))
    corpus.find_people = lambda name, video: None
    assert [trial.id for trial in corpus.read(root).trials] == ["own", "talk.v2"]

    def failing(name: str, video: Path) -> None:
        raise error

    corpus.find_people = failing
    error: Exception = MediaError("It is damaged.")
    with pytest.raises(CorpusError) as found:
        corpus.read(root)
    assert (str(found.value).count("\n- "), "- It is damaged." in str(found.value)) == (1, True)
    for error in (SettingError("No such identity."), WeightsError("No weights.")):
        with pytest.raises(type(error), match=f"^{error}$"):
            corpus.read(root)


def test_nobody_at_all(root: Path) -> None:
    with pytest.raises(CorpusError, match=r"shows nobody for long enough \(crops.min_seen_s\)"):
        read(root, 0)
    with pytest.raises(SettingError, match="avfusion corpus build"):
        Folder(Config(face="all")).read(root)
