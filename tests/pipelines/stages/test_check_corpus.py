"""`avfusion corpus check`: which corpus it is, what it holds, every fault at once, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from cache.errors import SettingError
from extract.corpora import CORPORA
from pipelines.project.params import CorpusParams
from pipelines.stages.check_corpus import check_corpus, recognise

Run = Callable[..., Result]
SET = "6th ABAW Annotations/VA_Estimation_Challenge"


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_video(path: Path) -> None:
    """A second of noise."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for index in range(25):
            picture = np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def affwild2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Crops of three trials; of `a` two of four frames have no crop, one of them is labelled."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "affwild2"
    write(root / SET / "Train_Set" / "a.txt", "valence,arousal\n0,0\n-5,0\n0,0\n0,0\n")
    write(root / SET / "Train_Set" / "a_left.txt", "valence,arousal\n0,0\n0,0\n")
    write(root / SET / "Validation_Set" / "b.txt", "valence,arousal\n0,0\n0,0\n0,0\n")
    for name, numbers in (("a", (1, 4)), ("a_left", (1, 2)), ("b", (1, 2, 3))):
        for number in numbers:
            write(root / "cropped_aligned" / name / f"{number:05d}.jpg")
    return root


def test_counts_per_partition(affwild2: Path, run: Run) -> None:
    result = run("corpus", "check", affwild2, "--json")
    assert result.exit_code == 0, result.output
    (document,) = json.loads(result.stdout)
    assert (document["corpus"], document["faults"]) == ("affwild2", [])
    assert [row["partition"] for row in document["partitions"]] == ["train", "validation", "all"]
    assert document["partitions"][0] == {
        "partition": "train",
        "trials": 2,
        "subjects": 1,
        "frames": 6,
        "labelled_frames": 5,
        "trials_with_crops": 2,
        "crops": 4,
        "missing_crops": 2,
        "labelled_without_crop": 1,
    }
    assert any("1 rows are annotated in part" in note for note in document["notes"])
    table = run("corpus", "check", affwild2)
    assert table.stdout.splitlines()[0].split()[:3] == ["partition", "trials", "subjects"]
    assert "Warning: There are no videos" in table.stderr


def test_every_fault_and_exit_code_1(affwild2: Path, run: Run) -> None:
    write(affwild2 / SET / "Train_Set" / "c.txt", "valence,arousal\n0,0\n")
    write(affwild2 / SET / "Train_Set" / "d.txt", "valence;arousal\n0,0\n")
    write(affwild2 / "cropped_aligned" / "d" / "00001.jpg")
    write(affwild2 / "words" / "b.json", "{")
    result = run("corpus", "check", affwild2)
    assert result.exit_code == 1
    assert "has 3 faults:" in result.stderr
    for part in ("no crops 'c'", "line 1 is 'valence;arousal'", "trial 'b': ", "check it again."):
        assert part in result.stderr
    assert "validation" in result.stdout  # the counts of what could be read come all the same
    document = run("corpus", "check", affwild2, "--json")
    assert document.exit_code == 1
    assert len(json.loads(document.stdout)[0]["faults"]) == 3


def test_media_are_decoded_where_asked_for(tmp_path: Path, run: Run) -> None:
    root = tmp_path / "mine"
    (root / "videos").mkdir(parents=True)
    for name in "ab":
        write_video(root / "videos" / f"{name}.mp4")
    for number in range(1, 9):
        crop = root / "crops" / "a" / f"{number:05d}.png"
        crop.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(crop)
    assert run("corpus", "check", root, "--decode").exit_code == 0
    for number in range(2, 9):
        crop = root / "crops" / "a" / f"{number:05d}.png"
        crop.write_bytes(crop.read_bytes()[:-30])
    video = root / "videos" / "b.mp4"
    content = bytearray(video.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4000] = bytes(4000)
    video.write_bytes(content)
    assert run("corpus", "check", root).exit_code == 0
    result = run("corpus", "check", root, "--decode")
    assert result.exit_code == 1
    assert "has 7 faults" in result.stderr, result.stderr
    for part in ("'00002.png'", "7 of 8 crops", "b.mp4"):
        assert part in result.stderr


def test_the_name_is_told_or_recognised(affwild2: Path, tmp_path: Path, run: Run) -> None:
    for name, part in (
        ("demo", "truth/x"),
        ("folder", "videos/x"),
        ("muse", "label_segments/x"),
        ("recola", "ratings_gold_standard/x"),
    ):
        write(tmp_path / name / part)
    write(tmp_path / "demo" / "subjects.csv")
    write(tmp_path / "muse" / "metadata" / "partition.csv")
    assert {name: recognise(tmp_path / name) for name in CORPORA} == {name: name for name in CORPORA}
    with pytest.raises(SettingError, match=f"empty.* expected one of {', '.join(CORPORA)}. Name it with --corpus"):
        recognise(write(tmp_path / "empty" / "x").parent)
    write(affwild2 / "videos" / "x")
    with pytest.raises(SettingError, match="looks like affwild2 and folder"):
        recognise(affwild2)
    assert run("corpus", "check", affwild2, "--corpus", "affwild2").exit_code == 0
    for arguments in ((), ("--corpus", "affwild2")):
        absent = run("corpus", "check", tmp_path / "nowhere", *arguments)
        assert (absent.exit_code, f"No corpus folder '{tmp_path}/nowhere'" in absent.stderr) == (1, True)
    wrong = run("corpus", "check", affwild2, "--corpus", "afwild2")
    assert wrong.exit_code == 2
    assert "Did you mean 'affwild2'?" in wrong.stderr


def test_params_count_where_they_are_about_this_folder(affwild2: Path, tmp_path: Path) -> None:
    write(affwild2 / "videos" / "x")
    write(affwild2 / "names.txt", "b\n")
    settings = {"test_list": "names.txt"}
    found = check_corpus(affwild2, params=CorpusParams("affwild2", str(affwild2), settings))
    (fault,) = found.faults
    assert "trial 'b' is in validation and in test" in fault
    elsewhere = CorpusParams("demo", str(tmp_path), {})
    (affwild2 / "videos" / "x").unlink()
    (affwild2 / "videos").rmdir()
    assert check_corpus(affwild2, params=elsewhere).corpus == "affwild2"


def test_a_folder_that_is_not_there(tmp_path: Path, run: Run) -> None:
    result = run("corpus", "check", tmp_path / "nowhere", "--corpus", "affwild2")
    assert result.exit_code == 1
    assert "No corpus folder" in result.stderr


def test_numbers_beyond_any_clock_and_folders_for_files(affwild2: Path) -> None:
    write(affwild2 / "cropped_aligned" / "a" / f"{'9' * 20}.jpg")
    write(affwild2 / "cropped_aligned" / "b" / "00000.jpg")
    (affwild2 / "names_of_videos_in_each_test_set" / "Valence_Arousal_test_set.txt").mkdir(parents=True)
    faults = check_corpus(affwild2).faults
    assert len(faults) == 3, faults
    for fault, part in zip(
        faults, ("is a folder", f"'{'9' * 20}.jpg' is numbered beyond the end", "number 0"), strict=True
    ):
        assert part in fault


def test_reference_pictures_are_opened(tmp_path: Path, run: Run) -> None:
    write(tmp_path / "mine" / "faces" / "a.jpg")
    (tmp_path / "mine" / "videos").mkdir()
    write_video(tmp_path / "mine" / "videos" / "a.mp4")
    (fault,) = check_corpus(tmp_path / "mine").faults
    assert "trial 'a': Reference picture" in fault
    Image.new("RGB", (16, 16)).save(tmp_path / "mine" / "faces" / "a.jpg")
    assert check_corpus(tmp_path / "mine").faults == ()


def test_known_faults_are_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the length or the numbers, every crop is decoded; nothing is told in two ways."""
    monkeypatch.chdir(tmp_path)
    write_video(write(tmp_path / "mine" / "videos" / "a.mp4"))
    write(tmp_path / "mine" / "labels" / "a.csv", "valence\n" + "0\n" * 35)
    for name in ("00000.png", "00001.png"):
        Image.new("RGB", (16, 16)).save(write(tmp_path / "mine" / "crops" / "a" / name))
    write(tmp_path / "mine" / "crops" / "a" / "00002.png")
    faults = check_corpus(Path("mine"), decode=True).faults
    assert len(faults) == 3, faults
    for fault, part in zip(faults, ("Trial 'a' has 35 labels but 25 video", "number 0", "'00002.png'"), strict=True):
        assert part in fault
    assert faults[0].startswith("Trial 'a' has"), "not named twice"
    assert "(its format is unknown)" in faults[2]
