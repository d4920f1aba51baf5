"""Places that a store can live in, and made-up features."""

from __future__ import annotations

import uuid
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cache.clock import FrameClock
from cache.places.folders import Where
from cache.recipe import Recipe
from cache.store.store import FeatureStore

RECIPE = Recipe("mobilefacenet", "visual", 8, {"size": 112}, "00ff")


def make_clock(num_frames: int = 20) -> FrameClock:
    """A clock of 30000/1001 Hz."""
    return FrameClock(Fraction(30000, 1001), num_frames)


def make_features(num_frames: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(T, 8) embeddings and (T,) valid, every fifth frame or so unseen."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_frames, 8)).astype(np.float32), rng.random(num_frames) > 0.2


def write_trial(store: FeatureStore, trial_id: str, num_frames: int = 20, seed: int = 0) -> None:
    """Commit a trial of made-up embeddings."""
    values, valid = make_features(num_frames, seed)
    store.write(trial_id, values, valid, source=f"source of {trial_id}", clock=make_clock(num_frames))


@pytest.fixture
def made() -> SimpleNamespace:
    """The helpers above."""
    return SimpleNamespace(recipe=RECIPE, clock=make_clock, features=make_features, write=write_trial)


@pytest.fixture(params=["local", "memory", "s3"])
def features(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    """An empty folder for features: a path or a URL."""
    if request.param == "local":
        return tmp_path / "features"
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"
