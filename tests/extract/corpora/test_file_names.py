"""Names of real files: both Unicode forms, capitals, bytes that are not text, too long ones."""

from __future__ import annotations

import os
import unicodedata
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import simplejpeg

from cache.corpus.manifest import Manifest
from cache.errors import CorpusError
from extract.corpora.affwild2 import AffWild2
from extract.corpora.file_names import FolderIndex, printable, require_text
from extract.corpora.folder import Folder
from extract.corpora.muse import MuSe
from extract.corpora.reading import CorpusFaults

NFC, NFD = (unicodedata.normalize(form, "é à 각") for form in ("NFC", "NFD"))
WORDS = '{"words": [{"word": "hello", "start": 0.1, "end": 0.2}]}'


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_crops(folder: Path) -> None:
    for number in range(1, 11):
        write(folder / f"{number:05d}.JPG", simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8)))


@pytest.mark.parametrize(("one", "other"), [(NFD, NFC), (NFC, NFD)])
def test_both_unicode_forms_are_one_name(tmp_path: Path, media: SimpleNamespace, one: str, other: str) -> None:
    (tmp_path / "videos").mkdir()
    media.write_video(tmp_path / "videos" / f"{one}.mp4", 10)
    write(tmp_path / "labels" / f"{other}.CSV", "valence\n" + "0.1\n" * 10)
    write(tmp_path / "subjects.csv", f"trial,subject,partition\n{other},Zoé,train\n")
    write(tmp_path / "words" / f"{other}.JSON", WORDS)
    write(tmp_path / "faces" / f"{other}.JPG", b"")
    write_crops(tmp_path / "crops" / other)
    trial = Folder().read(tmp_path).trial(NFC)
    assert (trial.partition, trial.subject) == ("train", "Zoé")
    assert set(trial.media) == {"video", "words", "crops", "face"}
    assert trial.labels is not None


@pytest.mark.parametrize(("one", "other"), [(NFD, NFC), (NFC, NFD)])
def test_affwild2_in_both_unicode_forms(tmp_path: Path, media: SimpleNamespace, one: str, other: str) -> None:
    (tmp_path / "batch1").mkdir()
    for name in (f"{one}.MP4", "b.mp4"):
        media.write_video(tmp_path / "batch1" / name.lower(), 10).rename(tmp_path / "batch1" / name)
    rows = "valence,arousal\n" + "0.1,0.1\n" * 10
    write(tmp_path / "VA_Set" / "Train_Set" / f"{other}.TXT", rows)
    write(tmp_path / "VA_Set" / "Validation_Set" / "b.txt", rows)
    write(tmp_path / "words" / f"{other}.VTT", "")
    for name in (other, "b"):
        write_crops(tmp_path / "cropped_aligned" / name)
    trial = AffWild2().read(tmp_path).trial(NFC)
    assert set(trial.media) == {"video", "words", "crops"}


def test_muse_in_both_unicode_forms(tmp_path: Path) -> None:
    write(tmp_path / "metadata" / "partition.csv", f"Id,Partition\n{NFD},train\n")
    for target in ("valence", "arousal"):
        write(tmp_path / "label_segments" / target / f"{NFC}.CSV", "timestamp,value\n0,0.1\n500,0.2\n1000,0.3\n")
    assert MuSe().read(tmp_path).trial(NFC).clock.num_frames == 3


def test_two_names_that_differ_by_form_only_are_a_fault(tmp_path: Path, media: SimpleNamespace) -> None:
    (tmp_path / "videos").mkdir()
    for name in (NFC, NFD):
        media.write_video(tmp_path / "videos" / f"{name}.mp4", 10)
    with pytest.raises(CorpusFaults, match="two videos are named"):
        Folder().read(tmp_path)


def test_a_name_that_is_not_text_is_a_fault_of_its_file(tmp_path: Path, media: SimpleNamespace) -> None:
    (tmp_path / "videos").mkdir()
    media.write_video(tmp_path / "videos" / "a.mp4", 10)
    strange = os.fsdecode(os.fsencode(tmp_path / "videos") + b"/b\xff.mp4")
    Path(strange).write_bytes((tmp_path / "videos" / "a.mp4").read_bytes())
    with pytest.raises(CorpusFaults) as caught:
        Folder().read(tmp_path)
    assert len(caught.value.faults) == 1
    assert "b\\udcff.mp4' is not UTF-8" in caught.value.faults[0]
    assert [trial.id for trial in caught.value.manifest.trials] == ["a"]
    with pytest.raises(CorpusError, match=r"b\\udcff\.mp4' is not UTF-8, expected UTF-8\. Rename it"):
        require_text(Path(strange))
    printable(Path(strange)).encode()
    assert FolderIndex(tmp_path / "videos").find("b", (".mp4",)) == []


def test_ids_that_no_file_can_be_named_after_are_refused_when_the_corpus_is_built(
    tmp_path: Path, media: SimpleNamespace
) -> None:
    (tmp_path / "videos").mkdir()
    longest, too_long = "é" * 40, "é" * 41  # 240 and 246 bytes with percent signs
    for name in (longest, too_long, "a"):
        media.write_video(tmp_path / "videos" / f"{name}.mp4", 10)
    with pytest.raises(CorpusFaults) as caught:
        Folder().read(tmp_path)
    assert len(caught.value.faults) == 1
    assert "246 bytes" in caught.value.faults[0]
    assert [trial.id for trial in caught.value.manifest.trials] == ["a", longest]


@pytest.mark.parametrize("step_s", [0.5, 1, 0.04])
def test_muse_labels_in_seconds_are_refused(tmp_path: Path, step_s: float) -> None:
    write(tmp_path / "metadata" / "partition.csv", "Id,Partition\n1,train\n")
    for target in ("valence", "arousal"):
        rows = "".join(f"{i * step_s:.2f},0.1\n" for i in range(40))
        write(tmp_path / "label_segments" / target / "1.csv", f"timestamp,value\n{rows}")
    with pytest.raises(CorpusFaults, match=rf"steps of {step_s:.4g}, expected milliseconds .* multiply them by 1000"):
        MuSe().read(tmp_path)


def test_muse_labels_in_seconds_beside_a_video_are_refused(tmp_path: Path, media: SimpleNamespace) -> None:
    write(tmp_path / "metadata" / "partition.csv", "Id,Partition\n1,train\n")
    (tmp_path / "raw_data" / "videos").mkdir(parents=True)
    media.write_video(tmp_path / "raw_data" / "videos" / "1.mkv", 100, Fraction(1))
    for target in ("valence", "arousal"):
        rows = "".join(f"{i * 10},0.1\n" for i in range(10))
        write(tmp_path / "label_segments" / target / "1.csv", f"timestamp,value\n{rows}")
    with pytest.raises(CorpusFaults, match=r"end at 100 ms, but '.*1\.mkv' lasts 100 s"):
        MuSe().read(tmp_path)


def test_manifests_hold_any_name(tmp_path: Path, media: SimpleNamespace) -> None:
    (tmp_path / "videos").mkdir()
    media.write_video(tmp_path / "videos" / f"{NFD}.mp4", 10)
    Folder().read(tmp_path).save(tmp_path / "saved")
    manifest = Manifest.load(tmp_path / "saved")
    assert manifest.path(manifest.trial(NFC), "video").is_file()
