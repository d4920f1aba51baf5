"""A small corpus whose labels can be learned from its features, in real stores."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from cache.clock import FrameClock
from cache.corpus.folds import Fold, partition_fold
from cache.corpus.manifest import Manifest, Trial
from cache.recipe import Recipe
from cache.store.store import FeatureStore
from fusion.bank.bank import Bank

DIMS = {"audio": 5, "visual": 7}
LENGTHS = {"a": 40, "b": 33, "c": 8, "d": 37, "e": 21, "f": 12}
PARTITIONS = {"a": "train", "b": "train", "c": "train", "d": "validation", "e": "validation", "f": "test"}


@dataclass(frozen=True)
class Corpus:
    """What stage two is given."""

    manifest: Manifest
    stores: dict[str, FeatureStore]
    fold: Fold

    def bank(self, *trial_ids: str) -> Bank:
        """A bank of these trials, of all by default."""
        return Bank.from_stores(self.stores, self.manifest, trial_ids or tuple(LENGTHS))


def write_store(
    folder: Path, modality: str, embeddings: dict, valid: dict, settings: dict | None = None
) -> FeatureStore:
    """Features of all trials."""
    dim = next(iter(embeddings.values())).shape[1]
    store = FeatureStore.create(folder / f"{modality}.zarr", Recipe("toy", modality, dim, settings or {}))
    for name, rows in embeddings.items():
        clock = FrameClock(Fraction(25), len(rows))
        store.write(name, rows, valid[name], source="xxh3:0", clock=clock)
    return store


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Six trials; trial 'b' has unlabelled frames, trial 'a' frames without a face."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    mixing = {m: rng.standard_normal((2, dim)) for m, dim in DIMS.items()}
    labels = {
        name: np.tanh(rng.standard_normal((2, 1)).cumsum(0).T + rng.standard_normal((length, 2)).cumsum(0) / 3).astype(
            np.float32
        )
        for name, length in LENGTHS.items()
    }
    rows = {
        m: {
            name: labels[name] @ mixing[m] * 3 + 5 + rng.standard_normal((LENGTHS[name], DIMS[m])) / 10
            for name in LENGTHS
        }
        for m in DIMS
    }
    valid = {m: {name: np.ones(length, bool) for name, length in LENGTHS.items()} for m in DIMS}
    valid["visual"]["a"][3:9] = False
    labels["b"][5:8] = np.nan
    labels["b"][9, 0] = np.nan
    trials = [
        Trial(n, f"subject {n}", PARTITIONS[n], FrameClock(Fraction(25), LENGTHS[n]), {}, labels[n]) for n in LENGTHS
    ]
    manifest = Manifest(folder, tuple(trials))
    return Corpus(manifest, {m: write_store(folder, m, rows[m], valid[m]) for m in DIMS}, partition_fold(manifest))
