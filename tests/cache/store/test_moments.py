"""Components agree with numpy's over the same frames, in any process."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import dask
import numpy as np
import pytest

from cache.errors import SettingError, StoreError
from cache.store import moments
from cache.store.moments import Components, fit_pca, to_dask
from cache.store.store import FeatureStore


@pytest.fixture
def store(tmp_path: Path, made: SimpleNamespace) -> FeatureStore:
    store = FeatureStore.create(tmp_path / "a.zarr", made.recipe)
    for seed, (name, num_frames) in enumerate({"c": 50, "a": 70, "b": 30}.items()):
        made.write(store, name, num_frames, seed)
    values, _ = made.features(20)
    store.write("unseen", values, np.zeros(20, bool), source="s", clock=made.clock(20))
    return store


def rows_of(store: FeatureStore, *trial_ids: str, valid_only: bool) -> np.ndarray:
    parts = [store.read(trial_id) for trial_id in trial_ids]
    return np.concatenate([p.embeddings[p.valid] if valid_only else p.embeddings for p in parts])


def test_trials_in_a_row(store: FeatureStore) -> None:
    array = to_dask(store, ["b", "a"])
    assert array.shape == (100, 8)
    assert array.chunks[0] == (30, 70)
    assert array.dtype == np.float16
    np.testing.assert_array_equal(array.compute(), rows_of(store, "b", "a", valid_only=False))
    np.testing.assert_array_equal(array[25:40].compute(), rows_of(store, "b", "a", valid_only=False)[25:40])
    assert to_dask(store).shape == (170, 8)


def test_frames_never_seen_are_left_out(store: FeatureStore) -> None:
    array = to_dask(store, ["unseen", "a"], valid_only=True)
    np.testing.assert_array_equal(array.compute(), rows_of(store, "a", valid_only=True))
    with pytest.raises(SettingError, match="have no frames to use"):
        to_dask(store, ["unseen"], valid_only=True)
    with pytest.raises(StoreError, match="'z' is not finished"):
        to_dask(store, ["a", "z"])


def test_blocks_travel_to_other_processes(store: FeatureStore) -> None:
    with dask.config.set({"multiprocessing.context": "spawn"}):
        total = to_dask(store, ["a"]).astype(float).sum().compute(scheduler="processes", num_workers=1)
    assert total == pytest.approx(store.read("a").embeddings.astype(float).sum())


@pytest.mark.parametrize("batch", [8192, 40])
def test_components_are_those_of_a_singular_value_decomposition(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """With all components kept, the incremental fit is exact in however many steps."""
    monkeypatch.setattr(moments, "_BATCH", batch)
    monkeypatch.setattr(moments, "_batches", lambda rows, size, inner=moments._batches: inner(rows, batch))
    rows = rows_of(store, "a", "c", valid_only=True).astype(np.float64)
    found = fit_pca(store, ["a", "c"], 8)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), atol=1e-6)
    _, _, directions = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(found.components * directions, axis=1)), 1, atol=1e-5)


def test_too_many_components_are_refused(store: FeatureStore) -> None:
    with pytest.raises(SettingError, match="expected 1 to 8"):
        fit_pca(store, ["a"], 9)
    assert isinstance(fit_pca(store, ["a"], 1), Components)
