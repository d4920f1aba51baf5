"""MuSe: clocks from timestamps, partitions, absent test labels, imported features on the same clock."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cache.clock import FrameClock
from cache.errors import CorpusError, MissingFileError
from cache.formats.interchange import ImportOptions, import_features
from extract.corpora.muse import Config, MuSe, infer_clock


def write(root: Path, name: str, lines: list[str]) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def write_labels(root: Path, subject: str, times: range, value: str = "0.5") -> None:
    for target in ("arousal", "valence"):
        sign = "-" if target == "arousal" and value else ""
        rows = [f"{time},{sign}{value}" for time in times]
        write(root, f"label_segments/{target}/{subject}.csv", ["timestamp,value", *rows])


def write_features(root: Path, subject: str, times: range) -> None:
    rows = [f"{time},1,{time / 1000},0.25" for time in times]
    write(root, f"feature_segments/deep/{subject}.csv", ["timestamp,segment_id,f0,f1", *rows])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, "metadata/partition.csv", ["Id,Proposal", "1,train", "2,devel", "3,test", "4,test"])
    write_labels(tmp_path, "1", range(0, 5000, 500))
    write_labels(tmp_path, "2", range(1000, 3000, 250))
    write_labels(tmp_path, "3", range(0, 4000, 500), value="")
    for subject, times in (("1", range(0, 5000, 500)), ("2", range(1000, 3000, 250)), ("3", range(0, 4000, 500))):
        write_features(tmp_path, subject, times)
    write_features(tmp_path, "4", range(0, 2000, 500))
    return tmp_path


def test_clocks_partitions_and_labels(root: Path) -> None:
    manifest = MuSe().read(root)
    assert {trial.id: (trial.partition, trial.clock) for trial in manifest.trials} == {
        "1": ("train", FrameClock(Fraction(2), 10)),
        "2": ("validation", FrameClock(Fraction(4), 8, 1.0)),
        "3": ("test", FrameClock(Fraction(2), 8)),
        "4": ("test", FrameClock(Fraction(2), 4)),
    }
    np.testing.assert_array_equal(manifest.trial("1").labels, [[0.5, -0.5]] * 10)
    assert manifest.trial("3").labels is manifest.trial("4").labels is None
    assert all(trial.media == {} and trial.subject == trial.id for trial in manifest.trials)
    other = MuSe(Config(targets=("arousal",))).read(root)
    np.testing.assert_array_equal(other.trial("1").labels, [[-0.5]] * 10)
    assert MuSe.recognises(root)


def test_gaps_are_not_annotated(root: Path) -> None:
    for target in ("valence", "arousal"):
        write(
            root, f"label_segments/{target}/1.csv", ["timestamp,value,segment_id", "0,0.1,1", "500,0.2,1", "2000,0.3,2"]
        )
    trial = MuSe().read(root).trial("1")
    assert trial.labels is not None
    expected = np.array([0.1, 0.2, np.nan, np.nan, 0.3], np.float32)
    np.testing.assert_array_equal(trial.labels, np.stack([expected, expected], axis=1))


def test_imported_features_lie_on_the_same_clock(root: Path, tmp_path: Path) -> None:
    manifest, options = MuSe().read(root), ImportOptions("deep", "visual")
    store, _ = import_features(root / "feature_segments" / "deep", "muse", tmp_path / "features", options, manifest)
    for trial in manifest.trials:
        embeddings, valid = store.read(trial.id)
        assert valid.all()
        np.testing.assert_allclose(embeddings[:, 0], trial.clock.times_s())


def test_a_video_extends_the_clock_to_its_end(root: Path, media: SimpleNamespace) -> None:
    (root / "raw_data" / "videos").mkdir(parents=True)
    media.write_video(root / "raw_data" / "videos" / "1.mp4", 24, rate=4)
    trial = MuSe().read(root).trial("1")
    assert trial.media == {"video": "raw_data/videos/1.mp4"}
    assert (trial.clock.rate, trial.clock.num_frames) == (2, 12)
    assert trial.labels is not None
    assert np.isnan(trial.labels[10:]).all()
    assert np.isfinite(trial.labels[:10]).all()
    media.write_video(root / "raw_data" / "videos" / "1.mp4", 12, rate=4)
    with pytest.raises(CorpusError, match="Trial '1' has 10 labels but 6 ticks of video"):
        MuSe().read(root)


@pytest.mark.parametrize(
    "rate", [Fraction(2), Fraction(4), Fraction(10), Fraction(25), Fraction(30), Fraction(30000, 1001)]
)
def test_clocks_of_rounded_timestamps(rate: Fraction) -> None:
    ticks = np.delete(np.arange(3000), np.s_[700:900])
    times = np.rint(ticks * 1000 / float(rate)) + 120
    clock = infer_clock(times, Path("t.csv"))
    assert (clock.rate, clock.num_frames, clock.start_s) == (rate, 3000, 0.12)


def test_irregular_timestamps_are_refused() -> None:
    with pytest.raises(CorpusError, match="regular clock: .* ms off. Fix"):
        infer_clock(np.array([0.0, 500, 1100, 1500, 2000]), Path("t.csv"))
    with pytest.raises(CorpusError, match="1 timestamp"):
        infer_clock(np.array([0.0]), Path("t.csv"))


def test_every_fault_at_once(root: Path) -> None:
    write(
        root, "metadata/partition.csv", ["Id,Proposal", "1,train", "2,dev", "1,train", "5,train", "6,test", "7,train"]
    )
    write(root, "label_segments/valence/1.csv", ["timestamp,value", "0,0", "0,0"])
    write_labels(root, "7", range(0, 2000, 500))
    write(root, "label_segments/valence/7.csv", ["timestamp,value", "0,2", "500,x"])
    with pytest.raises(CorpusError) as caught:
        MuSe().read(root)
    for part in (
        "line 3: '2,dev', expected a subject and one of train, devel, test",
        "line 4: subject '1' is listed twice",
        "subject '5': no labels",
        "subject '6': no labels, and no features",
        "subject '2' has no partition",
        "valence/1.csv' has two rows with the same timestamp",
        "valence/7.csv' lines 2, 3: expected milliseconds",
    ):
        assert part in str(caught.value)
    with pytest.raises(MissingFileError, match="No labels of joy in .*, only arousal, valence"):
        MuSe(Config(targets=("joy",))).read(root)
    with pytest.raises(MissingFileError, match=r"partition\.csv"):
        MuSe().read(root / "metadata")


def test_targets_of_different_timestamps_are_refused(root: Path) -> None:
    write(root, "label_segments/valence/1.csv", ["timestamp,value", "0,0", "500,0"])
    with pytest.raises(CorpusError, match=r"timestamps of '.*' and '.*' differ"):
        MuSe().read(root)


def test_files_in_another_encoding_are_faults(root: Path) -> None:
    (root / "label_segments/valence/1.csv").write_bytes(b"timestamp,value\n0,0\n500,\xfc\n")
    (root / "label_segments/valence/2.csv").unlink()
    (root / "label_segments/valence/2.csv").mkdir()
    with pytest.raises(CorpusError, match="valence/1.csv' line 3 is not UTF-8(.|\n)*valence/2.csv' is a folder"):
        MuSe().read(root)
    (root / "metadata/partition.csv").write_bytes("Id,Proposal\n1,train\n".encode("utf-16"))
    with pytest.raises(CorpusError, match="has 1 fault:\n- .*partition.csv' line 1 is not UTF-8"):
        MuSe().read(root)
