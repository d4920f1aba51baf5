"""Frozen fronts: the same weights without a pass of the trunk per step, and only where that is exact."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cache.store.store import FeatureStore, fingerprints
from fusion.settings import TrainConfig
from pipelines.endtoend.settings import FinetuneConfig, SoundChanges
from pipelines.endtoend.training import Finetuned, Watch

TWO_STAGE = FinetuneConfig(release="two-stage", frozen_epochs=3, released_lr=1e-3)
GRADUAL = FinetuneConfig(release="gradual")
PASSES = 3  # of the trunk for one front: each trial has fewer items than a pass
Quick = Callable[..., TrainConfig]


@pytest.fixture
def releasing(quick: Quick) -> Quick:
    """A schedule that releases the next weights after two epochs, or (`waiting`) never."""

    def make(waiting: bool = False, **changes: Any) -> TrainConfig:
        return quick(schedule="plateau", warmup_epochs=1, min_lr=0.0 if waiting else 1.0, **{"epochs": 5, **changes})

    return make


def weights_of(result: Finetuned) -> dict[str, Tensor]:
    return {**result.backbones["audio"].state_dict(), **result.fusion.state_dict()}


def assert_same(one: Finetuned, other: Finetuned, tolerance: float = 1e-6) -> None:
    assert [record.stage for record in one.history] == [record.stage for record in other.history]
    for name, tensor in weights_of(one).items():
        assert torch.allclose(tensor, weights_of(other)[name], rtol=0, atol=tolerance), name


@pytest.mark.parametrize("how", [TWO_STAGE, GRADUAL], ids=["two-stage", "gradual"])
@pytest.mark.parametrize("piece", [0, 4])
def test_weights_are_those_without_fronts(
    toy_corpus: Any, quick: Quick, releasing: Quick, how: FinetuneConfig, piece: int
) -> None:
    how = FinetuneConfig(**{**vars(how), "piece": piece, "normalise": "dimension"})
    config = releasing() if how.release == "gradual" else quick(epochs=5)
    plain = toy_corpus.train(how, config)
    assert_same(toy_corpus.train(how, config, fronts=toy_corpus.fronts()), plain)
    assert {record.stage for record in plain.history} == {0, 1}
    assert len(fingerprints(toy_corpus.folder / "fronts/toy.zarr")) == {"two-stage": 1, "gradual": 2}[how.release]
    start = toy_corpus.toy().state_dict()
    assert any(not torch.equal(start[name], tensor) for name, tensor in plain.backbones["audio"].state_dict().items())


def embeds_again(result: Finetuned) -> bool:
    """Whether the validation trial is embedded once more for its windows: the last epoch's embeddings are still at hand."""
    return result.best_epoch < len(result.history) - 1


def test_epochs_of_a_stage_do_not_run_its_front(toy_corpus: Any, releasing: Quick) -> None:
    for epochs, expected in ((2, PASSES + 2), (6, 2)):  # two passes of a single item say how wide the rows are
        toy = toy_corpus.toy()
        toy_corpus.train(GRADUAL, releasing(waiting=True, epochs=epochs), toy, fronts=toy_corpus.fronts())
        assert toy.passes == expected
    toy = toy_corpus.toy()
    result = toy_corpus.train(GRADUAL, releasing(waiting=True, epochs=2), toy)
    assert toy.passes == 2 * (4 + 1) + embeds_again(result)  # steps, and the validation trial


def test_a_frozen_backbone_is_not_run_at_all(toy_corpus: Any, quick: Quick) -> None:
    toy = toy_corpus.toy()
    result = toy_corpus.train(TWO_STAGE, quick(epochs=4), toy, fronts=toy_corpus.fronts())
    assert toy.passes == PASSES + (4 + 1) + embeds_again(result)  # the last epoch trains it


class Kept:
    """State of a run in memory."""

    def __init__(self) -> None:
        self.states: dict[int, Any] = {}

    def __call__(self, number: int, batches: Any) -> Kept:
        self.number, self.batches = number, batches
        return self

    def load(self) -> Any:
        state = self.states.get(self.number)
        if state is not None:
            self.batches.start_at(len(state["history"]))
        return state

    def save(self, state: Any) -> None:
        self.states[self.number] = copy.deepcopy(state)


class Killer(Watch):
    """Stops a run at a step."""

    def __init__(self, step: int) -> None:
        self.left = step

    def step(self, epoch: int, steps: int, loss: Tensor) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_killed_at_any_step_it_ends_with_the_same_weights(
    toy_corpus: Any, releasing: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = toy_corpus.train(GRADUAL, releasing())
    kept, toy = Kept(), toy_corpus.toy()

    def stop() -> None:
        toy.passes += 1
        if toy.passes == 4:  # the second trial of the first front
            raise KeyboardInterrupt

    monkeypatch.setattr(toy, "count", stop)
    with pytest.raises(KeyboardInterrupt):
        toy_corpus.train(GRADUAL, releasing(), toy, keep=kept, fronts=toy_corpus.fronts())
    for step in (2, 9, 5):  # in the first stage, and twice in the second
        with pytest.raises(KeyboardInterrupt):
            toy_corpus.train(GRADUAL, releasing(), keep=kept, watch=Killer(step), fronts=toy_corpus.fronts())
    assert_same(toy_corpus.train(GRADUAL, releasing(), keep=kept, fronts=toy_corpus.fronts()), expected)


def test_other_media_other_weights_and_damage_are_noticed(toy_corpus: Any, releasing: Quick) -> None:
    config = releasing(waiting=True, epochs=1)

    def passes(weights: str = "random") -> int:
        toy = toy_corpus.toy(weights)
        toy_corpus.train(GRADUAL, config, toy, fronts=toy_corpus.fronts())
        return toy.passes - 2

    assert [passes(), passes()] == [PASSES, 0]
    np.save(toy_corpus.folder / "b.npy", np.load(toy_corpus.folder / "b.npy")[::-1].copy())
    assert [passes(), passes()] == [1, 0]
    assert [passes("random:1"), passes("random:1"), passes()] == [PASSES, 0, 0]
    place = toy_corpus.folder / "fronts/toy.zarr"
    (name, *_) = fingerprints(place)
    (chunk, *_) = (path for path in (place / name / "a/c").rglob("*") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"\1")
    assert [passes("random:1") + passes(), passes("random:1") + passes()] == [1, 0]
    recipe = FeatureStore(place, name).recipe
    assert (recipe.settings["front"], recipe.dim, recipe.dtype) == (1, 5, "float32")


@pytest.mark.parametrize(
    "changes",
    [{"batch_norm": "learn"}, {"precision": "bf16"}, {"sound": SoundChanges(noise=0.1)}, {"fronts_gb": 1e-6}, {"fronts_gb": 0.0}],
    ids=["norms learn", "bf16", "noise", "too large", "off"],
)  # fmt: skip
def test_no_front_is_used_where_that_is_not_exact_or_not_wanted(
    toy_corpus: Any, releasing: Quick, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    toy = toy_corpus.toy()
    monkeypatch.setattr(type(toy.input), "name", "waves")
    how = FinetuneConfig(release="gradual", **changes)
    toy_corpus.train(how, releasing(waiting=True, epochs=1), toy, fronts=toy_corpus.fronts())
    assert not (toy_corpus.folder / "fronts").exists()
