"""The store: what it keeps, what it refuses, and what a kill leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from cache.clock import FrameClock
from cache.documents.documents import sign
from cache.errors import FingerprintError, MissingFileError, ShapeError, StoreError, UnknownNameError
from cache.recipe import Recipe
from cache.store.chunks import chunk_rows
from cache.store.receipt import Receipt, open_receipt
from cache.store.store import FeatureStore, invalid_runs

RECIPE = Recipe("mobilefacenet", "visual", 8, {"size": 112}, "00ff")


def clock(num_frames: int) -> FrameClock:
    return FrameClock(Fraction(30000, 1001), num_frames)


def embeddings(num_frames: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_frames, 8)).astype(np.float32), rng.random(num_frames) > 0.2


def write(store: FeatureStore, trial_id: str, num_frames: int = 20, seed: int = 0) -> None:
    values, valid = embeddings(num_frames, seed)
    store.write(trial_id, values, valid, source=f"source of {trial_id}", clock=clock(num_frames))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "features" / "visual" / "mobilefacenet.zarr"


@pytest.mark.parametrize(
    "trial_id", ["10-60-1280x720_right", "video 59", "../../escape", "...", "日本/left", "a%20b", "x" * 200]
)
def test_reads_back_what_was_written(path: Path, trial_id: str) -> None:
    store = FeatureStore.create(path, RECIPE)
    write(store, trial_id)
    values, valid = embeddings(20)

    features = FeatureStore(path, RECIPE.fingerprint).read(trial_id, check=True)

    np.testing.assert_array_equal(features.valid, valid)
    np.testing.assert_array_equal(features.embeddings, np.where(valid[:, None], values, 0).astype(np.float16))
    assert store.trial_ids() == [trial_id]
    record = store.record(trial_id)
    assert (record.clock.num_frames, record.clock.rate) == (20, Fraction(30000, 1001))
    inside = {p.resolve() for p in path.parents[2].rglob("*")}
    assert all(p.is_relative_to(path.parents[1].resolve()) for p in inside)


def test_is_an_ordinary_zarr_with_one_plain_chunk(path: Path) -> None:
    store = FeatureStore.create(path, RECIPE)
    write(store, "P1")
    array = zarr.open(str(path), mode="r")[RECIPE.fingerprint]["P1"]
    features = store.read("P1")
    np.testing.assert_array_equal(array[:], features.embeddings)
    assert not features.embeddings.flags.owndata
    assert not features.embeddings.flags.writeable
    files = sorted(p.relative_to(store.group / "P1").as_posix() for p in (store.group / "P1").rglob("*") if p.is_file())
    assert files == ["c/0/0", "zarr.json"]
    assert (store.group / "P1/c/0/0").stat().st_size == 20 * 8 * 2


def test_reads_a_slice(path: Path) -> None:
    store = FeatureStore.create(path, RECIPE)
    write(store, "P1")
    whole, part = store.read("P1"), store.read("P1", 5, 9)
    np.testing.assert_array_equal(part.embeddings, whole.embeddings[5:9])
    np.testing.assert_array_equal(part.valid, whole.valid[5:9])


def test_a_trial_without_a_single_valid_frame_is_kept(path: Path) -> None:
    store = FeatureStore.create(path, RECIPE)
    values, _ = embeddings(20)
    store.write("P1", values, np.zeros(20, bool), source="s", clock=clock(20))
    assert not store.read("P1", check=True).valid.any()


def test_long_trials_are_split_into_equal_chunks(path: Path) -> None:
    store = FeatureStore.create(path, RECIPE)
    values = np.random.default_rng(0).normal(size=(65_537, 8)).astype(np.float16)
    store.write("long", values, np.ones(65_537, bool), source="s", clock=clock(65_537))
    np.testing.assert_array_equal(store.read("long", check=True).embeddings, values)
    assert len(list((store.group / "long/c").iterdir())) == 2


@given(st.integers(1, 1_000_000))
def test_padding_stays_under_one_row_per_chunk(num_frames: int) -> None:
    rows = chunk_rows(num_frames)
    chunks = -(-num_frames // rows)
    assert rows <= 65_536
    assert chunks * rows - num_frames < chunks
    assert chunks == -(-num_frames // 65_536)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_runs_say_just_which_frames_are_invalid(flags: list[bool]) -> None:
    rebuilt = np.ones(len(flags), bool)
    for start, stop in invalid_runs(np.array(flags)):
        assert stop > start
        rebuilt[start:stop] = False
    assert rebuilt.tolist() == flags


def test_an_array_without_commit_record_is_refused(path: Path) -> None:
    store = FeatureStore.create(path, RECIPE)
    write(store, "P1")
    metadata = store.group / "P1/zarr.json"
    document = json.loads(metadata.read_text())
    document["attributes"] = {}
    metadata.write_text(json.dumps(document))
    assert store.trial_ids() == []
    with pytest.raises(StoreError, match="'P1' is not finished"):
        store.read("P1")


def test_a_flipped_byte_is_found(path: Path) -> None:
    store = FeatureStore.create(path, RECIPE)
    write(store, "P1")
    chunk = store.group / "P1/c/0/0"
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(StoreError, match="differ from their digest"):
        store.read("P1", check=True)


def test_altered_valid_runs_are_found(path: Path) -> None:
    store = FeatureStore.create(path, RECIPE)
    write(store, "P1")
    metadata = store.group / "P1/zarr.json"
    document = json.loads(metadata.read_text())
    commit = document["attributes"]["avfusion_commit"]
    commit["invalid"] = []
    metadata.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="or its record is damaged"):
        store.read("P1")
    del commit["digest"]  # as older programs wrote it
    metadata.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="differ from their digest"):
        store.read("P1", check=True)


def test_a_truncated_chunk_is_refused(path: Path) -> None:
    store = FeatureStore.create(path, RECIPE)
    write(store, "P1")
    os.truncate(store.group / "P1/c/0/0", 100)
    with pytest.raises(StoreError, match="is 100 bytes long, expected 320 bytes"):
        store.read("P1")


def test_other_fingerprints_live_side_by_side_and_are_never_mixed(path: Path) -> None:
    other = Recipe("mobilefacenet", "visual", 8, {"size": 96}, "00ff")
    write(FeatureStore.create(path, RECIPE), "P1")
    write(FeatureStore.create(path, other), "P2")
    assert FeatureStore(path, RECIPE.fingerprint).trial_ids() == ["P1"]
    with pytest.raises(FingerprintError, match="has no features with fingerprint '000000000000'"):
        FeatureStore(path, "0" * 64)


def test_an_edited_recipe_is_refused(path: Path) -> None:
    store = FeatureStore.create(path, RECIPE)
    metadata = store.group / "zarr.json"
    metadata.write_text(metadata.read_text().replace("00ff", "00fe"))
    with pytest.raises(FingerprintError, match="edited.*again"):
        FeatureStore(path, RECIPE.fingerprint)


def test_a_newer_layout_is_refused(path: Path) -> None:
    FeatureStore.create(path, RECIPE)
    metadata = path / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"avfusion_store": 1', '"avfusion_store": 2'))
    with pytest.raises(StoreError, match="zarr.json' is damaged"):  # its digest is of version 1
        FeatureStore(path, RECIPE.fingerprint)
    document = json.loads(metadata.read_text())
    document["attributes"] = sign(document["attributes"])
    metadata.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="layout version 2; this program reads up to 1"):
        FeatureStore(path, RECIPE.fingerprint)


def test_an_absent_store_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="Run the extraction first"):
        FeatureStore(tmp_path / "none.zarr", RECIPE.fingerprint)


@pytest.mark.parametrize(
    ("values", "valid", "text"),
    [
        (np.zeros((19, 8)), np.ones(20, bool), r"shape \(19, 8\)"),
        (np.full((20, 8), np.nan), np.ones(20, bool), "not finite"),
        (np.full((20, 8), 1e6), np.ones(20, bool), "not finite in float16"),
    ],
)
def test_what_does_not_fit_is_never_written(path: Path, values: np.ndarray, valid: np.ndarray, text: str) -> None:
    store = FeatureStore.create(path, RECIPE)
    with pytest.raises(ShapeError, match=text):
        store.write("P1", values, valid, source="s", clock=clock(20))
    assert store.trial_ids() == []


@pytest.mark.parametrize("trial_id", ["", "é" * 100])
def test_impossible_ids_are_refused(path: Path, trial_id: str) -> None:
    with pytest.raises(UnknownNameError, match="Rename the trial"):
        write(FeatureStore.create(path, RECIPE), trial_id)


def test_receipts_depend_on_content_alone(path: Path, tmp_path: Path) -> None:
    store, other = FeatureStore.create(path, RECIPE), FeatureStore.create(tmp_path / "again.zarr", RECIPE)
    for trial_id in ("a", "b"):
        write(store, trial_id)
    for trial_id in ("b", "z", "a"):
        write(other, trial_id)
    Receipt.of(store, ["a", "b"]).save(path.with_suffix(".json"))
    Receipt.of(other, ["b", "a"]).save(tmp_path / "again.json")
    assert path.with_suffix(".json").read_bytes() == (tmp_path / "again.json").read_bytes()
    opened, receipt = open_receipt(path.with_suffix(".json"))
    assert list(receipt.trials) == opened.trial_ids() == ["a", "b"]


def test_a_receipt_refuses_features_that_were_made_again(path: Path) -> None:
    store = FeatureStore.create(path, RECIPE)
    write(store, "a")
    Receipt.of(store, ["a"]).save(path.with_suffix(".json"))
    write(store, "a", seed=1)
    with pytest.raises(FingerprintError, match="1 of 1 trials"):
        open_receipt(path.with_suffix(".json"))


def test_sigkill_while_writing_leaves_nothing_that_looks_finished(path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parents[3])!r})
        import numpy as np
        from fractions import Fraction
        import cache.places.folders
        from cache.store.store import FeatureStore
        from cache.clock import FrameClock
        from cache.recipe import Recipe
        recipe = Recipe("mobilefacenet", "visual", 8, {{"size": 112}}, "00ff")
        store = FeatureStore.create({str(path)!r}, recipe)
        def write(name):
            store.write(name, np.ones((20, 8)), np.ones(20, bool), source="s", clock=FrameClock(Fraction(25), 20))
        write("first")
        original = cache.places.folders._write_synced
        def dying(path, content):
            if path.name == "zarr.json":
                os.kill(os.getpid(), signal.SIGKILL)
            original(path, content)
        cache.places.folders._write_synced = dying
        write("second")
        """
    )
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    store = FeatureStore.create(path, RECIPE)
    assert (store.group / ".second.partial/c/0/0").exists()
    assert store.trial_ids() == ["first"]
    write(store, "second")
    assert store.trial_ids() == ["first", "second"]
    assert not list(store.group.glob(".*"))
    assert store.read("second", check=True).embeddings.shape == (20, 8)
