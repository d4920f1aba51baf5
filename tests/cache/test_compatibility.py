"""A store of layout version 1, written in November 2026, is read for ever; newer ones are refused with a sentence."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import zarr

from cache.clock import FrameClock
from cache.errors import StoreError
from cache.names import encode_trial_id
from cache.store.receipt import Receipt, open_receipt
from cache.store.store import FeatureStore
from cache.store.verification import verify

OLD = Path(__file__).parents[1] / "data" / "store_v1"
FINGERPRINTS = {
    "visual/mobilefacenet": "671e2be033125290c88205b2443e01980fa5bd4d35df95a94115e5cc13ccaca8",
    "audio/conv1d": "11da8a55de043b965565e00037159e35ff3b3995634709d7d6749b43a8b810be",
}


@pytest.mark.parametrize(("name", "dtype"), [("visual/mobilefacenet", "float16"), ("audio/conv1d", "float32")])
def test_version_1_is_read(name: str, dtype: str) -> None:
    store, receipt = open_receipt(OLD / f"{name}.json")
    assert store.recipe.fingerprint == FINGERPRINTS[name]
    assert store.trial_ids() == list(receipt.trials) == ["10-60-1280x720_right", "video 59/left"]
    for number, (trial_id, num_frames) in enumerate((("10-60-1280x720_right", 50), ("video 59/left", 30))):
        features, record = store.read(trial_id, check=True), store.record(trial_id)
        expected = np.arange(num_frames * 16, dtype=np.float32).reshape(num_frames, 16) / 64 - number
        valid = np.ones(num_frames, bool)
        valid[5:9] = valid[-1] = False
        expected[~valid] = 0
        np.testing.assert_array_equal(features.valid, valid)
        np.testing.assert_array_equal(features.embeddings, expected.astype(dtype))
        assert record.clock == FrameClock(Fraction(30000, 1001), num_frames, 0.25 * number)
        assert record.source == f"{number:064x}"
        array = zarr.open_array(str(Path(store.group) / encode_trial_id(trial_id)), mode="r")
        np.testing.assert_array_equal(array[:], features.embeddings)


def test_version_1_verifies() -> None:
    assert verify(OLD) == []


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    shutil.copytree(OLD, tmp_path / "features")
    return tmp_path / "features"


def edit(path: Path, *names: str, value: object) -> None:
    document = json.loads(path.read_text())
    place = document
    for name in names[:-1]:
        place = place[name]
    place[names[-1]] = value
    path.write_text(json.dumps(document))


def test_a_newer_store_is_refused(newer: Path) -> None:
    edit(newer / "audio/conv1d.zarr/zarr.json", "attributes", "avfusion_store", value=2)
    with pytest.raises(
        StoreError, match=r"conv1d.zarr' has layout version 2; this program reads up to 1. Update avfusion."
    ):
        open_receipt(newer / "audio/conv1d.json")
    recipe = Receipt.load(newer / "audio/conv1d.json").recipe
    with pytest.raises(StoreError, match="layout version 2"):
        FeatureStore.create(newer / "audio/conv1d.zarr", recipe)


def test_a_newer_trial_is_refused_and_never_written_over(newer: Path) -> None:
    store, _ = open_receipt(newer / "audio/conv1d.json")
    path = Path(store.group) / "10-60-1280x720_right/zarr.json"
    edit(path, "attributes", "avfusion_commit", "version", value=2)
    for ask in (store.record, store.read, store.find_record):
        with pytest.raises(StoreError, match="layout version 2"):
            ask("10-60-1280x720_right")


def test_a_newer_receipt_is_refused(newer: Path) -> None:
    edit(newer / "audio/conv1d.json", "version", value=2)
    with pytest.raises(StoreError, match="newer"):
        open_receipt(newer / "audio/conv1d.json")
