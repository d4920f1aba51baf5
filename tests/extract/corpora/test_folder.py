"""One's own videos: labels by frame and by time, optional parts, and every fault at once."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import simplejpeg

from cache.clock import FrameClock
from cache.corpus.folds import grouped_folds
from cache.errors import CorpusError, MissingFileError, SettingError
from cache.targets import AFFECT, Target
from extract.corpora.folder import Config, Folder, interpolate
from extract.corpora.label_tables import read_table
from extract.corpora.reading import CorpusFaults

LENGTH = 10


def write(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def root(tmp_path: Path, media: SimpleNamespace) -> Path:
    """Two videos with labels: `a` by frame, `b` by time."""
    folder = tmp_path / "mine"
    (folder / "videos").mkdir(parents=True)
    media.write_video(folder / "videos" / "a.mp4", LENGTH, 25)
    media.write_video(folder / "videos" / "b.mkv", LENGTH, Fraction(30000, 1001), codec="ffv1")
    rows = "".join(f"{i / 10},{-i / 10}\n" for i in range(LENGTH))
    write(folder, "labels/a.csv", f"valence,arousal\n{rows}")
    write(folder, "labels/b.csv", "time,arousal,valence\n0.0667333,0.0,0.5\n0.2002,0.4,0.5\n")
    return folder


def test_labels_by_frame_and_by_time(root: Path) -> None:
    manifest = Folder().read(root)
    a, b = manifest.trial("a"), manifest.trial("b")
    assert manifest.targets == AFFECT
    assert (a.clock, b.clock) == (FrameClock(Fraction(25), LENGTH), FrameClock(Fraction(30000, 1001), LENGTH))
    np.testing.assert_allclose(a.labels, [[i / 10, -i / 10] for i in range(LENGTH)], atol=1e-6)
    assert b.labels is not None  # frames 2 to 6 lie in the range of time; columns go by their names
    np.testing.assert_allclose(b.labels[2:7], [[0.5, x] for x in (0, 0.1, 0.2, 0.3, 0.4)], atol=1e-4)
    assert np.isnan(b.labels[[0, 1, 7, 8, 9]]).all()
    assert (a.subject, a.partition, a.media) == ("a", "", {"video": "videos/a.mp4"})
    assert Folder.recognises(root)


def test_interpolation_keeps_absence_absent() -> None:
    clock = FrameClock(Fraction(10), 8)
    times = np.array([0.1, 0.2, 0.4, 0.6])
    rows = np.array([[0.1], [np.nan], [0.4], [0.6]], np.float32)
    expected = [np.nan, 0.1, np.nan, np.nan, 0.4, 0.5, 0.6, np.nan]
    np.testing.assert_allclose(interpolate(times, rows, clock)[:, 0], expected, atol=1e-6)


def test_each_target_is_absent_by_itself(root: Path) -> None:
    write(root, "labels/a.csv", "arousal,note_taker,valence\n" + ",0,0.5\n" + "0.1,,0.5\n" * (LENGTH - 1))
    labels = Folder(Config(targets={"arousal": (-1, 1), "valence": (-1, 1)})).read(root).trial("a").labels
    assert labels is not None
    np.testing.assert_array_equal(labels[0], [np.nan, 0.5])
    np.testing.assert_allclose(labels[1:], [[0.1, 0.5]] * (LENGTH - 1), atol=1e-6)


@pytest.mark.parametrize("ends", [(1, 9), (0, 10), (-1, 1)])
def test_labels_lie_in_the_range_that_is_declared(root: Path, ends: tuple[float, float]) -> None:
    """Of the columns that are used; other ones hold any number."""
    rows = np.linspace(*ends, LENGTH)
    write(root, "labels/a.csv", "Pain,age\n" + "".join(f"{value},42\n" for value in rows))
    write(root, "labels/b.csv", f"time,pain,age\n0,{ends[0]},42\n0.3,{ends[1]},42\n")
    folder = Folder(Config(targets={"Pain": ends}))
    manifest = folder.read(root)
    assert manifest.targets == (Target("pain", low=ends[0], high=ends[1]),)
    labels = manifest.trial("a").labels
    assert labels is not None
    np.testing.assert_allclose(labels[:, 0], rows, rtol=1e-6)
    write(root, "labels/a.csv", "pain,age\n" + "".join(f"{value},42\n" for value in [*rows[:-1], ends[1] + 0.5]))
    with pytest.raises(CorpusError) as caught:
        folder.read(root)
    shown = f"[{ends[0]:g}, {ends[1]:g}]"
    for part in ("labels/a.csv'", "line 11", f"{ends[1] + 0.5}", f"pain within {shown}", "corpus.settings.targets"):
        assert part in str(caught.value)


@pytest.mark.parametrize("ends", [(9, 1), (1, 1), (0, float("nan")), (0,), (0, 1, 2)])
def test_ranges_that_are_none(ends: tuple[float, ...]) -> None:
    with pytest.raises(SettingError, match="pain"):
        Config(targets={"pain": ends})  # type: ignore[dict-item]


def test_labels_that_go_on_after_the_video(root: Path) -> None:
    rows = "time,arousal,valence\n" + "".join(f"{i / 10},0,0\n" for i in range(4))  # the video ends at 0.33 s
    write(root, "labels/b.csv", rows + "0.4,0,0\n")
    assert len(Folder().read(root).trials) == 2
    write(root, "labels/b.csv", rows + "2,0,0\n")
    with pytest.raises(CorpusError, match="'b' has labels up to 2.00 s but 0.33 s of video"):
        Folder().read(root)


def test_everything_optional(root: Path) -> None:
    write(root, "subjects.csv", "trial,subject,partition\na,Ann,train\nb,Bob,validation\n")
    write(root, "words/a.vtt", "WEBVTT\n")
    crop = root / "crops" / "b" / "00003.jpg"
    crop.parent.mkdir(parents=True)
    crop.write_bytes(simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8)))
    (root / "faces").mkdir()
    (root / "faces" / "Ann.png").write_bytes(b"")
    manifest = Folder(Config(face="centre")).read(root)
    a, b = manifest.trial("a"), manifest.trial("b")
    assert (a.subject, a.partition, a.face) == ("Ann", "train", "reference")
    assert a.media == {"video": "videos/a.mp4", "words": "words/a.vtt", "face": "faces/Ann.png"}
    assert (b.subject, b.partition, b.face) == ("Bob", "validation", "centre")
    assert b.media == {"video": "videos/b.mkv", "crops": "crops/b"}


def test_without_partitions_there_are_grouped_folds(root: Path) -> None:
    write(root, "subjects.csv", "trial,subject,partition\na,Ann,\nb,Bob,\n")
    folds = grouped_folds(Folder().read(root), 2, seed=0)
    assert {fold.validate for fold in folds} == {("a",), ("b",)}


def test_videos_without_labels_can_be_predicted(root: Path) -> None:
    (root / "labels" / "b.csv").unlink()
    assert Folder().read(root).trial("b").labels is None
    write(root, "subjects.csv", "trial,subject,partition\na,Ann,train\nb,Bob,validation\n")
    with pytest.raises(CorpusError, match="trial 'b' of partition validation has no labels"):
        Folder().read(root)


def test_every_fault_at_once(root: Path) -> None:
    write(root, "videos/notes.txt", "")
    write(root, "videos/b.mov", "")
    write(root, "videos/c.webm", "")
    write(root, "labels/a.csv", "valence,arousal\n" + "0,0\n" * (LENGTH + 3))
    write(root, "labels/b.csv", "time,valence\n0,0\n")
    write(root, "labels/d.csv", "valence\n0\n")
    write(root, "words/a.json", "{}")
    write(root, "words/a.vtt", "")
    (root / "crops" / "a").mkdir(parents=True)
    write(root, "subjects.csv", "trial,subject,partition\na,Ann,dev\nb,Bob,\nb,Bob,\nz,Zoe,train\n")
    (root / "crops" / "b").mkdir(parents=True)
    with pytest.raises(CorpusError) as caught:
        Folder().read(root)
    message = str(caught.value)
    for part in (
        "notes.txt' is not one of .mp4",
        "two videos are named 'b': 'b.mkv' and 'b.mov'"
        if "'b.mkv' and 'b.mov'" in message
        else "two videos are named 'b'",
        "c.webm' is empty",
        f"Trial 'a' has {LENGTH + 3} labels but {LENGTH} video frames",
        "b.csv' have the columns valence, expected valence, arousal as the others have",
        "d.csv' belong to no video",
        "line 2: 'a,Ann,dev', expected a trial, a subject and one of train",
        "line 4: trial 'b' is listed twice",
        "line 5: trial 'z' has no video",
        "does not name trial 'c'",
        "2 transcripts",
        "crops/a' holds no crops",
        "crops/b' holds no crops",
    ):
        assert part in message
    assert "does not name trial 'a'" not in message, "its line is a fault already"
    assert "trial 'a': Trial 'a'" not in message
    with pytest.raises(MissingFileError, match="No folder"):
        Folder().read(root / "videos")
    with pytest.raises(SettingError, match="Face 'nearest'"):
        Config(face="nearest")


def test_a_range_that_is_not_declared_is_one_sentence_for_each_file(tmp_path: Path) -> None:
    rows = ["0,0.5,1", "0.1,5,0.1", "0.2,1,5.5", "0.3,,0.2", *(f"{second},9,-0.5" for second in range(1, 31))]
    with pytest.raises(CorpusError) as caught:
        read_table(write(tmp_path, "t.csv", "\n".join(["time,valence,arousal", *rows]) + "\n"))
    assert str(caught.value) == (
        f"Label file '{tmp_path / 't.csv'}': 32 rows outside the range, with valence in [0.5, 9], arousal in [-0.5, 5.5]; line 3 is "
        "'0.1,5,0.1', expected valence within [-1, 1], or nothing where not annotated. Fix the file; declare labels with a range "
        "other than [-1, 1] in params.yaml: corpus.settings.targets: {NAME: [LOWEST, HIGHEST], …}."
    )
    with pytest.raises(
        CorpusError, match=r"': 1 row outside the range, with pain in \[0, 9\]; line 3 .* within \[0, 8\]"
    ):
        read_table(write(tmp_path, "t.csv", "pain,valence\n0,7\n9,\n"), [Target("pain", low=0, high=8)])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "expected the names of the targets"),
        ("0.1,0.2\n0,0\n", "line 1 is '0.1,0.2', expected the names"),
        ("time\n0\n", "expected the names of the targets"),
        ("valence,valence\n0,0\n", "each once"),
        ("valence\n", "it has no rows"),
        ("valence\n-5\n", "line 2 is '-5', expected valence within \\[-1, 1\\], or nothing .* in params.yaml"),
        ("time,valence\nsoon,0\n", "line 2 is 'soon,0', expected seconds"),
        (
            "valence,mean\n0,0\n",
            "line 1 is 'valence,mean', expected the names of the targets",
        ),
        ("valence,arousal\n0\n", "line 2 is '0'"),
        ("valence\nhigh\n", "line 2 is 'high'"),
        ("time,valence\n,0\n", "line 2 is ',0'"),
        ("time,valence\n1,0\n1,0\n", "line 3: time 1.0 s is not later"),
        ("valence\n" + "x\n" * 30, "; and 10 more"),
        ("valence\n9\n" + "x\n" * 30, "line 2 is '9', expected valence within .*; and 11 more"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(CorpusError, match=fault):
        read_table(write(tmp_path, "t.csv", text))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("valence\n0\n\xe9\n".encode("latin-1"), "t.csv' line 3 is not UTF-8, expected UTF-8. Save the file as UTF-8"),
        ("valence\n0\n".encode("utf-16"), "t.csv' line 1 is not UTF-8"),
        (b"valence\n" + b"x" * 200_000, "line 2 .*CSV .field larger"),
        (b"valence;arousal\n" + b"0,1;0,2\n" * 30, "'valence;arousal', separated by ';', expected commas. Save"),
        (b"valence\tarousal\n0\t0\n", "separated by tabs, expected commas"),
    ],
)
def test_files_that_are_no_csv(tmp_path: Path, content: bytes, fault: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(CorpusError, match=fault) as caught:
        read_table(tmp_path / "t.csv")
    assert len(str(caught.value)) < 400


def test_rows_without_labels_count_empty_lines_at_the_end_do_not(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "t.csv", "valence,arousal\n" + "0,0\n" * 6 + ",\n" * 4 + "\n  \n"))
    assert np.isnan(table.rows).any(axis=1).tolist() == [False] * 6 + [True] * 4


def faults_of(root: Path) -> list[str]:
    with pytest.raises(CorpusFaults) as caught:
        Folder().read(root)
    return [fault.replace(f"{root}/", "") for fault in caught.value.faults]


def test_folders_and_files_in_each_others_place_are_faults_among_others(root: Path) -> None:
    (root / "labels/a.csv").unlink()
    for name in ("labels/a.csv", "words/a.srt", "faces/b.png", "subjects.csv"):
        (root / name).mkdir(parents=True)
    write(root, "crops/a", "")
    assert faults_of(root) == [
        "'labels/a.csv' is a folder, expected a text file. Replace it.",
        "'subjects.csv' is a folder, expected a text file. Replace it.",
        "trial 'a': 'words/a.srt' is a folder, expected a transcript. Remove or rename it.",
        "trial 'a': 'crops/a' holds no crops, expected a folder 'a' or a zip 'a.zip'. Unpack it again.",
        "trial 'b': 'faces/b.png' is a folder, expected a picture; remove or rename it",
    ]


def test_labels_that_are_a_file(root: Path) -> None:
    (root / "labels").rename(root / "elsewhere")
    write(root, "labels", "")
    assert faults_of(root) == ["'labels' is a file, expected a folder; rename it"]


def test_the_columns_of_most_tables_are_the_truth(root: Path) -> None:
    for name in "cd":
        (root / "videos" / f"{name}.mp4").write_bytes((root / "videos" / "a.mp4").read_bytes())
        write(root, f"labels/{name}.csv", "arousal,valence\n" + "0,0\n" * LENGTH)
    write(root, "labels/a.csv", "valense,arousal\n" + "0,0\n" * LENGTH)
    wrong = "labels 'labels/a.csv' have the columns valense, arousal, expected arousal, valence as the others have"
    assert faults_of(root) == [wrong]
    write(root, "labels/a.csv", "valense,arousal\n" + "0,7\n" * LENGTH)
    assert faults_of(root)[1:] == [wrong], "a table with faulty rows too"
    for name in "cd":
        write(root, f"labels/{name}.csv", "arousal,valence\n" + "0,7\n" * LENGTH)
    assert faults_of(root)[-1] == wrong, "faulty tables have a say"


def test_faults_in_the_list_of_subjects(root: Path) -> None:
    write(root, "subjects.csv", "trial,subject,partition\na,Ann,Train\n")
    assert faults_of(root) == [
        "'subjects.csv' line 2: 'a,Ann,Train', expected a trial, a subject and one of train, validation, test, or nothing; "
        "did you mean 'train'?",
        "'subjects.csv' does not name trial 'b'",
    ]
    (root / "subjects.csv").write_bytes("trial,subject,partition\na,Zo\xe9,train\n".encode("latin-1"))
    assert faults_of(root) == ["'subjects.csv' line 2 is not UTF-8, expected UTF-8. Save the file as UTF-8."]


def test_crops_twice_and_strays(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(root, "words/nobody.srt", "")
    write(root, "faces/zed.jpg", "")
    write(root, "faces/a.gif", "")
    with caplog.at_level(logging.WARNING):
        Folder().read(root)
    assert "1 files in" in caplog.text
    assert "are not used, e.g. 'nobody.srt'" in caplog.text
    assert "are not used, e.g. 'a.gif'" in caplog.text
    write(root, "crops/a/00001.jpg", "")
    write(root, "crops/a.zip", "")
    assert faults_of(root) == ["trial 'a': crops in 'crops/a' and 'crops/a.zip', expected one. Remove the other."]
