"""Aff-Wild2: every edition's folders, both people of a video, gaps; and the faults of public code, each of them absent."""

from __future__ import annotations

import logging
import shutil
import zipfile
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import simplejpeg

from cache.corpus.manifest import Manifest
from cache.errors import CorpusError, MissingFileError, SettingError
from extract.corpora.affwild2 import AffWild2, Config
from extract.corpora.demo import corpus as demo
from extract.corpora.demo.corpus import DemoCorpus
from extract.corpora.reading import CorpusFaults
from extract.faces.crop_files import CropReader
from extract.inputs.images import CropSource, ImageInput

SIXTH = "6th ABAW Annotations/VA_Estimation_Challenge"
TRAIN, VALIDATION = f"{SIXTH}/Train_Set", f"{SIXTH}/Validation_Set"
TEST_LIST = "names_of_videos_in_each_test_set/Valence_Arousal_Estimation_Challenge_test_set_release.txt"
LENGTH = 12


class Tree:
    """Writes a corpus piece by piece; the label of frame i is i / 100, the grey level of its crop 10 i."""

    def __init__(self, root: Path, media: SimpleNamespace) -> None:
        self.root, self.media = root, media

    def labels(self, folder: str, name: str, num: int = LENGTH, absent: Iterable[int] = ()) -> Path:
        rows = ["-5,-5" if i in set(absent) else f"{i / 100},{-i / 100}" for i in range(num)]
        return self.text(f"{folder}/{name}.txt", "\n".join(["valence,arousal", *rows]) + "\n")

    def text(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def crops(self, folder: str, name: str, numbers: Iterable[int] = range(1, LENGTH + 1)) -> Path:
        path = self.root / folder / name
        path.mkdir(parents=True)
        for number in numbers:
            picture = np.full((16, 16, 3), 10 * (number - 1) % 256, np.uint8)
            (path / f"{number:05d}.jpg").write_bytes(simplejpeg.encode_jpeg(picture))
        return path

    def video(self, path: str, num: int = LENGTH, rate: Fraction | int = 25) -> Path:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        self.media.write_video(place, num, rate)
        return place

    def read(self, **settings: object) -> Manifest:
        return AffWild2(Config(**settings)).read(self.root)  # type: ignore[arg-type]


@pytest.fixture
def tree(tmp_path: Path, media: SimpleNamespace) -> Tree:
    return Tree(tmp_path / "affwild2", media)


@pytest.fixture
def small(tree: Tree) -> Tree:
    """One trial to train on, one to validate, crops and no videos."""
    for folder, name in ((TRAIN, "video1"), (VALIDATION, "video2")):
        tree.labels(folder, name)
        tree.crops("cropped_aligned", name)
    return tree


def faults_of(tree: Tree, **settings: object) -> tuple[str, ...]:
    with pytest.raises(CorpusFaults) as caught:
        tree.read(**settings)
    return caught.value.faults


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ("VA_Set/Training_Set", "VA_Set/Validation_Set"),
        ("annotations/VA_Set/Train_Set", "annotations/VA_Set/Validation_Set"),
        (TRAIN, VALIDATION),
        (TRAIN.replace(" ", "_"), VALIDATION.replace(" ", "_")),
        (f"labels/3rd{TRAIN[3:]}", f"labels/3rd{VALIDATION[3:]}"),
    ],
)
def test_folders_of_every_edition(tree: Tree, train: str, validation: str) -> None:
    for folder, name in ((train, "a"), (validation, "b")):
        tree.labels(folder, name)
        tree.crops("cropped_aligned", name)
        tree.text(f"{folder}/._{name}.txt", "what macOS strews")
    manifest = tree.read()
    assert {trial.id: trial.partition for trial in manifest.trials} == {"a": "train", "b": "validation"}
    assert AffWild2.recognises(tree.root)


def test_the_newest_edition_counts(small: Tree) -> None:
    small.labels("VA_Set/Training_Set", "old")
    small.labels("5th ABAW Annotations/VA_Estimation_Challenge/Train_Set", "older")
    assert [trial.id for trial in small.read().trials] == ["video1", "video2"]
    (fault, *_) = faults_of(small, annotations="VA_Set")
    assert "no annotations of validation in" in fault
    shutil.copytree(small.root / SIXTH, small.root / "copy" / SIXTH)
    assert "expected one folder '<N>th ABAW Annotations/VA_Estimation_Challenge'" in faults_of(small)[0]


def test_crops_lie_in_two_folders_given_in_either_order(tree: Tree) -> None:
    names = ["cropped_aligned", "cropped_aligned_new_50_vids"]
    for name, folder in zip(("a", "b"), names, strict=True):
        tree.labels(TRAIN, name)
        tree.crops(folder, name)
    tree.labels(VALIDATION, "c")
    shutil.copytree(tree.crops(names[0], "c"), tree.root / names[1] / "c")  # the same crops in both
    found = tree.read()
    assert [trial.media["crops"] for trial in found.trials] == [
        "cropped_aligned/a",
        "cropped_aligned_new_50_vids/b",
        "cropped_aligned/c",
    ]
    for order in (names, names[::-1]):
        assert tree.read(crops=tuple(order)).trials == found.trials
    (tree.root / names[1] / "c" / "00001.jpg").unlink()
    for order in (names, names[::-1]):
        (fault,) = faults_of(tree, crops=tuple(order))
        assert "trial 'c': different crops in" in fault


def test_crops_may_be_nested_or_zipped_or_elsewhere(small: Tree, tmp_path: Path) -> None:
    inner = small.root / "cropped_aligned"
    inner.rename(small.root / "unpacked")
    inner.mkdir()
    (small.root / "unpacked").rename(inner / "cropped_aligned")
    small.labels(TRAIN, "video3")
    with zipfile.ZipFile(inner / "cropped_aligned" / "video3.zip", "w") as archive:
        archive.write(inner / "cropped_aligned" / "video1" / "00001.jpg", "video3/00001.jpg")
    manifest = small.read()
    assert manifest.trial("video1").media["crops"] == "cropped_aligned/cropped_aligned/video1"
    assert manifest.trial("video3").media["crops"] == "cropped_aligned/cropped_aligned/video3.zip"
    shutil.move(inner / "cropped_aligned", tmp_path / "other disk")
    moved = small.read(crops=(str(tmp_path / "other disk"),))
    assert moved.path(moved.trial("video1"), "crops") == (tmp_path / "other disk" / "video1").resolve()


PEOPLE = {  # trial → its video, and which face of it
    "10-60-1280x720": ("10-60-1280x720", "left"),
    "10-60-1280x720_right": ("10-60-1280x720", "right"),
    "video10_1_left": ("video10_1", "left"),
    "video10_1_right": ("video10_1", "right"),
    "video10_2": ("video10_2", "largest"),
    "video2": ("video2", "right"),
    "video2_left": ("video2", "left"),
    "video45_3": ("video45_3", "largest"),
    "video59": ("video59", "left"),
    "video59_right": ("video59", "right"),
    "video5": ("video5", "largest"),
    "a_left_b_right": ("a_left_b", "right"),
    "a_left_c": ("a_left_c", "largest"),
}


def test_two_people_of_one_video(tree: Tree) -> None:
    """`'_left' or '_right' in name`, prefixes and `replace` all get at least one of these wrong."""
    for index, name in enumerate(PEOPLE):
        tree.labels(VALIDATION if name == "video45_3" else TRAIN, name, len(PEOPLE))
        tree.crops("cropped_aligned", name, range(1, 2 + index))
    for index, video in enumerate(sorted({video for video, _ in PEOPLE.values()})):
        tree.video(f"batch{1 + index % 2}/{video}.{('mp4', 'avi')[index // 2 % 2]}", len(PEOPLE))
    manifest = tree.read()
    assert {trial.id: (trial.subject, trial.face) for trial in manifest.trials} == PEOPLE
    for index, (name, (video, _)) in enumerate(PEOPLE.items()):
        trial = manifest.trial(name)
        assert manifest.path(trial, "video").stem == video
        assert manifest.path(trial, "crops").name == name
        assert CropReader(manifest.path(trial, "crops"), trial.clock).frames[-1] == index
    assert {manifest.path(trial, "video").suffix for trial in manifest.trials} == {".mp4", ".avi"}


def test_a_video_of_the_very_name_is_the_trials_own(tree: Tree) -> None:
    tree.labels(TRAIN, "walk_left")
    tree.labels(VALIDATION, "video2")
    for name in ("walk_left", "walk", "video2"):
        tree.video(f"batch1/{name}.mp4")
    trial = tree.read().trial("walk_left")
    assert (trial.media["video"], trial.face, trial.subject) == ("batch1/walk_left.mp4", "largest", "walk_left")


def test_images_never_shift_against_labels(small: Tree) -> None:
    """After rows of -5 and frames without a face, crop and label still show the same frame."""
    small.labels(TRAIN, "gaps", absent=[0, 4, 5, 6])
    small.crops("cropped_aligned", "gaps", [2, 3, 5, 6, 9, 12])
    manifest = small.read()
    trial = manifest.trial("gaps")
    reader = CropReader(manifest.path(trial, "crops"), trial.clock)
    assert trial.labels is not None
    assert np.flatnonzero(np.isnan(trial.labels).any(axis=1)).tolist() == [0, 4, 5, 6]
    assert reader.frames.tolist() == [1, 2, 4, 5, 8, 11]
    for frame in (1, 2, 8, 11):
        level = float(reader.read(np.array([frame]))[0].mean())
        assert trial.labels[frame, 0] * 1000 == pytest.approx(level, abs=2)


def test_minus_five_in_either_value(small: Tree, caplog: pytest.LogCaptureFixture) -> None:
    small.text(f"{TRAIN}/half.txt", "valence,arousal\n0.5,-5\n-5,-0.5\n-5,-5\n0.25,-0.25\n")
    small.crops("cropped_aligned", "half", [1, 2, 3, 4])
    with caplog.at_level(logging.WARNING):
        labels = small.read().trial("half").labels
    assert labels is not None
    np.testing.assert_array_equal(labels, [[np.nan, np.nan]] * 3 + [[0.25, -0.25]])
    assert "half.txt': 2 rows are annotated in part" in caplog.text


def test_features_reach_the_last_row_where_crops_and_video_are_shorter(small: Tree) -> None:
    """One row more than pictures, and no face at the end: every frame has a row, none is out of range."""
    small.labels(TRAIN, "short", num=LENGTH + 1)
    small.crops("cropped_aligned", "short", [1, 2, 3])
    for name in ("short", "video1", "video2"):
        small.video(f"batch1/{name}.mp4")
    manifest = small.read()
    trial = manifest.trial("short")
    assert trial.clock.num_frames == LENGTH + 1
    source = CropSource(manifest.path(trial, "crops"), trial, ImageInput(8, (0.5,) * 3, (0.5,) * 3))  # type: ignore[arg-type]
    assert source.load().used_items().tolist() == [0, 1, 2]
    assert source.read(np.array([0, 2])).shape == (2, 8, 8, 3)


def test_the_test_list_gives_trials_without_labels(small: Tree) -> None:
    small.text(TEST_LIST, "\ufefftest1\r\ntest2_left\r\n\r\n")
    for name in ("test1", "test2_left"):
        small.crops("cropped_aligned", name, [2, 7])
    for name in ("video1", "video2", "test1"):
        small.video(f"batch1/{name}.mp4")
    small.video("batch2/test2.avi", num=9, rate=Fraction(30000, 1001))
    manifest = small.read()
    test1, test2 = manifest.trial("test1"), manifest.trial("test2_left")
    assert (test1.labels, test1.partition, test1.clock.num_frames) == (None, "test", LENGTH)
    assert (test2.labels, test2.clock.num_frames, test2.clock.rate) == (None, 9, Fraction(30000, 1001))
    assert test2.media == {"video": "batch2/test2.avi", "crops": "cropped_aligned/test2_left"}


def test_videos_without_annotation_are_reported_where_no_list_names_the_test_partition(
    small: Tree, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("video1", "video2", "test1"):
        small.video(f"batch1/{name}.mp4")
    with caplog.at_level(logging.WARNING):
        assert {trial.id for trial in small.read().trials} == {"video1", "video2"}
    assert "Left out for want of an annotation: 1 video, e.g. 'test1'" in caplog.text
    caplog.clear()
    small.text(TEST_LIST, "test1\n")
    small.crops("cropped_aligned", "test1")
    with caplog.at_level(logging.WARNING):
        assert len(small.read().trials) == 3
    assert "Left out" not in caplog.text


def test_labels_of_the_test_partition_are_reported_as_unused(small: Tree, caplog: pytest.LogCaptureFixture) -> None:
    labels = small.labels(f"{SIXTH}/Test_Set", "video8")
    with caplog.at_level(logging.WARNING):
        assert {trial.id for trial in small.read().trials} == {"video1", "video2"}
    assert f"Labels in '{labels.parent}' are not used" in caplog.text


@pytest.mark.parametrize("zipped", [False, True])
def test_a_crop_far_beyond_the_others_ends_no_trial(small: Tree, zipped: bool) -> None:
    """Where labels or a video give the length it is told against them; where 1,000 frames per crop are enough, it is the end."""
    small.text(TEST_LIST, "test1\ntest2\n")
    place = small.crops("cropped_aligned", "test1", [1, 2, 99_999_999])
    small.crops("cropped_aligned", "test2", [1, 100_000])
    small.labels(TRAIN, "long")
    small.crops("cropped_aligned", "long", [1, 99_999_999])
    name = "99999999.jpg"
    if zipped:
        shutil.make_archive(str(place), "zip", place.parent, "test1")
        shutil.rmtree(place)
        place, name = place.with_suffix(".zip"), f"test1/{name}"
    with pytest.raises(CorpusFaults) as caught:
        small.read()
    far, known = sorted(caught.value.faults, reverse=True)
    assert f"has {LENGTH} labels but 99999999 numbered crops" in known
    assert far.startswith(f"trial 'test1': crop '{name}' of '{place}' would make it 99999999 frames")
    assert "3 crops in all; expected at most 1000" in far
    assert f"Remove or rename '{name}', or add the video" in far
    lengths = {trial.id: trial.clock.num_frames for trial in caught.value.manifest.trials}
    assert lengths == {"long": LENGTH, "test2": 100_000, "video1": LENGTH, "video2": LENGTH}


def test_crops_alone_are_enough(small: Tree, caplog: pytest.LogCaptureFixture) -> None:
    small.text(TEST_LIST, "10-60-1280x720_right\n12-24-640x480-part2\n")
    for name in ("10-60-1280x720_right", "12-24-640x480-part2"):
        small.crops("cropped_aligned", name, [2, 7])
    with caplog.at_level(logging.WARNING):
        manifest = small.read(rate="30000/1001")
    assert {trial.id: (str(trial.clock.rate), trial.clock.num_frames) for trial in manifest.trials} == {
        "10-60-1280x720_right": ("60", 7),
        "12-24-640x480-part2": ("24", 7),
        "video1": ("30000/1001", LENGTH),
        "video2": ("30000/1001", LENGTH),
    }
    assert "There are no videos" in caplog.text
    with pytest.raises(SettingError, match="Rate 'fast' .*expected a positive number"):
        Config(rate="fast")


def test_videos_alone_go_through_detection(small: Tree) -> None:
    for name in ("video1", "video2"):
        small.video(f"batch1/{name}.mp4")
    assert all("crops" in trial.media for trial in small.read().trials)
    assert all("crops" not in trial.media for trial in small.read(use_crops=False).trials)
    shutil.rmtree(small.root / "cropped_aligned")
    assert [set(trial.media) for trial in small.read().trials] == [{"video"}, {"video"}]


def test_sound_and_words_are_found(small: Tree) -> None:
    silence = np.zeros(48000, np.float32)
    for name in ("video1", "video2"):
        small.media.write_video(small.root / f"{name}.mkv", LENGTH, audio=silence[:24000])
        (small.root / "batch1").mkdir(exist_ok=True)
        (small.root / f"{name}.mkv").rename(small.root / "batch1" / f"{name}.mp4")
    small.text("words/video1.srt", "")
    manifest = small.read()
    assert manifest.trial("video1").media["audio"] == manifest.trial("video1").media["video"]
    assert manifest.trial("video1").media["words"] == "words/video1.srt"
    assert "words" not in manifest.trial("video2").media


def test_every_fault_at_once(small: Tree) -> None:
    small.text(TEST_LIST, "video1\ngone\ngone\n")
    small.labels(TRAIN, "long", num=LENGTH + 3)
    small.crops("cropped_aligned", "long")
    small.labels(TRAIN, "few", num=LENGTH)
    small.crops("cropped_aligned", "few", [1, LENGTH + 3])
    small.labels(TRAIN, "faceless")
    small.crops("cropped_aligned", "faceless", [])
    small.text(f"{TRAIN}/odd.txt", "valence,arousal\n0,0\n2,0\n")
    small.crops("cropped_aligned", "odd", [1])
    for name in ("video1", "video2", "long", "few", "faceless", "odd"):
        small.video(f"batch1/{name}.mp4")
    small.video("batch2/video2.avi")
    (small.root / "batch1" / "odd.mp4").write_bytes(b"")
    faults = "\n".join(faults_of(small))
    for part in (
        "names 'gone' 2 times",
        "trial 'video1' is in train and in test, expected one partition",
        "trial 'gone': 0 videos 'gone.mp4' or 'gone.avi'",
        "trial 'gone': no crops 'gone' in",
        "trial 'video2': 2 videos 'video2.mp4' or 'video2.avi'",
        f"has {LENGTH + 3} labels but {LENGTH} video frames",
        f"has {LENGTH} labels but {LENGTH + 3} numbered crops",
        "faceless' holds no crops",
        "line 3 is '2,0'",
        "odd.mp4' is empty",
    ):
        assert part in faults
    with pytest.raises(CorpusError, match=r"(?s)has 10 faults:\n- .*Fix them"):
        small.read()


def test_whose_face_is_followed_where_no_name_tells_a_side(small: Tree, caplog: pytest.LogCaptureFixture) -> None:
    small.labels(TRAIN, "video3_left", LENGTH + 1)
    small.crops("cropped_aligned", "video3_left")
    for name in ("video1", "video2", "video3"):
        small.video(f"batch1/{name}.mp4")
    trials = small.read(face="centre").trials
    assert {trial.id: trial.face for trial in trials} == {"video1": "centre", "video2": "centre", "video3_left": "left"}
    assert "pictures, e.g. 'video3_left'" in caplog.text
    with pytest.raises(SettingError, match="Change corpus.settings.face"):
        small.read(face="above")


def test_all_faults_of_one_trial(small: Tree) -> None:
    small.text(f"{TRAIN}/odd.txt", "valence.arousal\n0,0\n2,0\n")
    small.crops("cropped_aligned", "odd", range(1, LENGTH))
    for name in ("video1", "video2", "odd"):
        small.video(f"batch1/{name}.mp4")
    small.text("words/odd.json", "{}")
    small.text("words/odd.srt", "")
    found = [fault for fault in faults_of(small) if "odd" in fault]
    parts = (
        "line 1 is 'valence.arousal'",
        "line 3 is '2,0'",
        "2 transcripts",
        "2 labels but 12 video",
        "2 labels but 11 numb",
    )
    for part in parts:
        assert any(part in fault for fault in found), part
    with pytest.raises(CorpusFaults) as caught:
        small.read()
    assert (caught.value.manifest.trial("odd").labels, len(caught.value.manifest.trials)) == (None, 3)


def test_nothing_at_all(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="No corpus folder"):
        AffWild2().read(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match="elsewhere"):
        AffWild2(Config(crops=("elsewhere",))).read(tmp_path)
    with pytest.raises(CorpusError, match="annotations in none, expected one folder"):
        AffWild2().read(tmp_path)
    assert not AffWild2.recognises(tmp_path)


def test_people_of_one_video_in_two_partitions_are_reported(small: Tree, caplog: pytest.LogCaptureFixture) -> None:
    small.labels(VALIDATION, "video1_right")
    small.crops("cropped_aligned", "video1_right")
    with caplog.at_level(logging.WARNING):
        small.read()
    assert "People of video 'video1'" in caplog.text
    assert "train and validation" in caplog.text


def test_the_demo_corpus_is_read_alike(tmp_path: Path) -> None:
    """Only the test partition differs: Aff-Wild2 keeps its labels back. Subjects are people there, videos here."""
    corpus = DemoCorpus(demo.Config(num_trials=5, num_subjects=4, min_s=1.0, max_s=1.2, width=160, height=120))
    corpus.generate(tmp_path)
    expected = [trial for trial in corpus.read(tmp_path).trials if trial.partition != "test"]
    found = AffWild2().read(tmp_path).trials
    assert [trial.id for trial in found] == [trial.id for trial in expected]
    assert {trial.partition for trial in found} == {"train", "validation"}
    assert {trial.face for trial in found} == {"largest", "left", "right"}
    for one, other in zip(found, expected, strict=True):
        assert (one.clock, one.partition, one.face, one.media) == (
            other.clock,
            other.partition,
            other.face,
            other.media,
        )
        np.testing.assert_array_equal(one.labels, other.labels)
