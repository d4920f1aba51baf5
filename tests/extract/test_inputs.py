"""An input and a backbone that nobody knew before run through the real engine, without a line changed elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.errors import MissingFileError, ShapeError
from cache.store.store import FeatureStore
from extract.backbones.contract import Backbone
from extract.engine.embedding import EngineOptions, extract_features
from extract.inputs.alignment import Alignment, align_frames
from extract.inputs.contract import Input, Source, require_medium
from extract.weights.weights import Weights


@dataclass(frozen=True)
class PulseInput(Input):
    """One number per frame, from a text file with one line per frame; an empty line is a frame without pulse."""

    name = "pulse"
    media = ("pulse",)
    version = 7

    def open(self, manifest: Manifest, trial: Trial, crops: Path | None) -> Source:
        return Pulses(manifest.path(trial, "pulse"))

    def check(self, batch: Tensor) -> None:
        if batch.dtype != torch.float32 or batch.shape[1:] != (1,):
            raise ShapeError(f"Pulses are {batch.dtype} of shape {tuple(batch.shape)}, expected float32 (B, 1).")

    def example(self, count: int, seed: int = 0) -> NDArray[np.float32]:
        return np.random.default_rng(seed).uniform(40, 180, (count, 1)).astype(np.float32)


class Pulses:
    def __init__(self, path: Path) -> None:
        self._text = path.read_text()

    def digest(self) -> str:
        return self._text

    def load(self) -> Alignment:
        lines = self._text.split("\n")
        self._values = np.array([[float(line or 0)] for line in lines], np.float32)
        return align_frames(np.array([line != "" for line in lines]))

    def read(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._values[items]


class Doubling(Backbone):
    """x → (x, 2x)."""

    name, modality, algorithm, cards, dim = "doubling", "audio", 1, {}, 2
    input = PulseInput()

    @classmethod
    def build(cls, config: Any, weights: Weights) -> Doubling:
        return cls(weights)

    def settings(self) -> dict[str, Any]:
        return {}

    def forward(self, batch: Tensor) -> Tensor:
        return torch.cat([batch, 2 * batch], dim=1)


@pytest.fixture
def backbone() -> Doubling:
    return Doubling(Weights(None, "random:0", None, "random"))


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    (tmp_path / "a.txt").write_text("60\n61\n\n63")
    clock = FrameClock(Fraction(25), 4)
    return Manifest(tmp_path, (Trial("a", "a", "", clock, {"pulse": "a.txt"}), Trial("b", "b", "", clock, {})))


def test_through_the_engine(backbone: Doubling, manifest: Manifest, tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "pulse.zarr", backbone.recipe("float32"))
    outcome = extract_features(backbone, store, manifest, manifest.trials, None, EngineOptions(batch_size=3))
    assert (outcome.computed, outcome.failures, outcome.blind) == (["a", "b"], {}, ["b"])
    found = store.read("a", check=True)
    assert found.embeddings.tolist() == [[60, 120], [61, 122], [0, 0], [63, 126]]
    assert found.valid.tolist() == [True, True, False, True]
    assert not store.read("b").valid.any()


def test_the_version_of_an_input_is_part_of_the_recipe(backbone: Doubling, monkeypatch: pytest.MonkeyPatch) -> None:
    before = backbone.recipe()
    assert before.input == {"kind": "pulse", "version": 7}
    monkeypatch.setattr(PulseInput, "version", 8)
    assert backbone.recipe().fingerprint != before.fingerprint


def test_a_corpus_without_the_medium_is_refused(manifest: Manifest) -> None:
    require_medium(manifest, manifest.trials, PulseInput())
    without = replace(manifest, trials=(manifest.trial("b"),))
    with pytest.raises(MissingFileError, match="Trial 'b' has no pulse, only nothing"):
        require_medium(without, without.trials, PulseInput())
    several = [replace(manifest.trial("b"), id=name, media={"audio": ""}) for name in "bcd"]
    with pytest.raises(MissingFileError, match="None of 3 trials has pulse, only audio"):
        require_medium(manifest, several, PulseInput())
