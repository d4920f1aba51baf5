"""A toy corpus and a toy backbone with two groups of weights, to train end to end in a second."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.clock import FrameClock
from cache.corpus.folds import Fold
from cache.corpus.manifest import Manifest, Trial
from extract.backbones.contract import Backbone
from extract.inputs.alignment import Alignment, align_frames
from extract.inputs.contract import Input, Source
from extract.weights.weights import Weights, load_weights
from fusion.bank.bank import Bank
from fusion.settings import TrainConfig
from pipelines.endtoend.fronts import Fronts
from pipelines.endtoend.items import ItemReader
from pipelines.endtoend.settings import FinetuneConfig
from pipelines.endtoend.training import Finetuned, finetune

WIDTH = 6
FRAMES = 23


class NumbersInput(Input):
    """Items (N, 6) that stand in a file of the trial; every seventh frame has none."""

    name = "numbers"
    media = ("audio",)
    version = 1

    def open(self, manifest: Manifest, trial: Trial, crops: Path | None) -> Source:
        return _Numbers(manifest.path(trial, "audio"))

    def check(self, batch: Tensor) -> None:
        assert batch.shape[1:] == (WIDTH,)

    def example(self, count: int, seed: int = 0) -> NDArray[np.float32]:
        return np.zeros((count, WIDTH), np.float32)


class _Numbers:
    def __init__(self, path: Path) -> None:
        self._path = path

    def digest(self) -> str:
        return hashlib.sha256(self._path.read_bytes()).hexdigest()

    def load(self) -> Alignment:
        self._items = np.load(self._path)
        return align_frames(np.arange(len(self._items)) % 7 != 6)

    def read(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._items[items]


class Toy(Backbone):
    """Items (B, 6) → (B, 4): the second layer is released first, then the first one; `trunk` never is."""

    name, modality, algorithm, cards, dim = "toy", "audio", 1, {}, 4

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        self.input = NumbersInput()
        trunk = nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5))
        first = nn.Sequential(nn.Linear(8, 5), nn.Tanh())
        second = nn.Sequential(nn.Dropout(0.2), nn.Linear(5, 4))
        self.body = nn.ModuleDict({"trunk": trunk, "first": first, "second": second})
        self.passes = 0
        trunk.register_forward_hook(lambda *_: self.count())

    def count(self) -> None:
        """One more pass of the trunk."""
        self.passes += 1

    @classmethod
    def build(cls, config: Any, weights: Weights) -> Self:
        with weights.seeded():
            return cls(weights).eval().requires_grad_(False)

    def settings(self) -> dict[str, Any]:
        return {"width": WIDTH}

    def release_groups(self) -> list[list[nn.Parameter]]:
        return [list(self.body[name].parameters()) for name in ("second", "first")]

    def split(self, released: int) -> tuple[nn.Module, nn.Module]:
        layers = list(self.body.values())
        return nn.Sequential(*layers[: 3 - released]), nn.Sequential(*layers[3 - released :])

    def forward(self, batch: Tensor) -> Tensor:
        return self.body["second"](self.body["first"](self.body["trunk"](batch)))


@dataclass
class Corpus:
    """Three trials, two to learn from and one to choose by."""

    folder: Path
    seed: int = 0
    manifest: Manifest = field(init=False)
    fold: Fold = field(init=False)

    def __post_init__(self) -> None:
        chance = np.random.default_rng(self.seed)
        trials = []
        for name in "abc":
            items = chance.standard_normal((FRAMES, WIDTH)).astype(np.float32)
            np.save(self.folder / f"{name}.npy", items)
            labels = np.tanh(items[:, :2]).astype(np.float32)
            trials.append(
                Trial(name, name, "", FrameClock(Fraction(5), FRAMES), {"audio": f"{name}.npy"}, labels=labels)
            )
        self.manifest = Manifest(self.folder, tuple(trials))
        self.fold = Fold(0, ("a", "b"), ("c",), ())

    def toy(self, weights: str = "random") -> Toy:
        """The backbone, untrained."""
        return Toy.build(None, load_weights(weights, {}))

    def fronts(self) -> Fronts:
        """A folder for what its fronts make."""
        return Fronts(self.folder / "fronts", self.manifest, self.manifest.trials, lambda kind: {})

    def train(self, how: FinetuneConfig, config: TrainConfig, backbone: Toy | None = None, **options: Any) -> Finetuned:
        """Fine-tune the toy under an RNN."""
        backbone = backbone or self.toy()
        reader = ItemReader(backbone.input, self.manifest, self.manifest.trials, None)
        bank = Bank.of_labels(self.manifest.trials, self.manifest.targets)
        return finetune(
            {"audio": backbone}, {"audio": reader}, bank, self.fold, "rnn", {"d_hidden": 8}, config, how, **options
        )


@pytest.fixture
def toy_corpus(tmp_path: Path) -> Corpus:
    """The toy corpus in a folder of its own."""
    return Corpus(tmp_path)


@pytest.fixture
def quick() -> Callable[..., TrainConfig]:
    """Settings of a short run."""
    defaults: dict[str, Any] = {"epochs": 3, "batch_size": 3, "window": 5, "hop": 5, "schedule": "constant", "lr": 1e-3}
    return lambda **changes: TrainConfig(**{**defaults, **changes})
