"""The loop: stages of the plateau schedule as in the published code, releases, patience, the best weights."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import nn

from cache.errors import CorpusError, SettingError
from fusion.bank.batches import Batch
from fusion.model import Inputs
from fusion.settings import TrainConfig
from fusion.training.fitting import EpochRecord, fit

PUBLISHED = TrainConfig(
    schedule="plateau", lr=1e-5, epochs=100, batch_size=12, optimizer="adam", weight_decay=1e-3, targets=("valence",)
)


class Tower(nn.Module):
    """Three layers, released from the top."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.low, self.middle, self.top = (nn.Linear(1, 1) for _ in range(3))

    def forward(self, inputs: Inputs) -> torch.Tensor:
        return self.top(self.middle(self.low(inputs.embeddings["x"])))


class OneBatch:
    """One batch of two frames."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterable[Batch]:
        ones = torch.ones(1, 2, 1)
        yield Batch({"x": ones}, {}, ones[..., 0] > 0, ones * 5, (None,), torch.tensor([2]))


def squared(estimate: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (estimate - target).square().mean()


def groups(model: Tower) -> list[list[nn.Parameter]]:
    return [list(layer.parameters()) for layer in (model.top, model.middle, model.low)]


def run(scores: dict[int, float], config: TrainConfig = PUBLISHED, groups=groups) -> tuple[list[EpochRecord], int]:
    """Epochs of a run whose validation score is 0.1 in the first epoch, `scores` where named, and 0 else."""
    told: list[EpochRecord] = []
    history, best = fit(
        Tower(),
        squared,
        OneBatch(),
        lambda: {"valence": scores.get(len(told), 0.1 if not told else 0.0)},
        config,
        groups,
        told.append,
    )
    assert list(history) == told
    return told, best


def releases(history: list[EpochRecord]) -> list[int]:
    return [record.epoch for i, record in enumerate(history) if i == 0 or record.stage != history[i - 1].stage]


def test_without_improvement_groups_are_released_at_0_29_and_58_and_the_run_ends_at_87():
    history, best = run({})
    assert releases(history) == [0, 29, 58]
    assert len(history) == 87
    assert best == 0


def test_patience_20_ends_the_published_rule_at_epoch_25_before_the_second_release():
    literal, _ = run({}, replace_in(PUBLISHED, patience=20, stop_before_release=True))
    assert releases(literal) == [0]
    assert literal[-1].epoch == 25


def test_patience_20_never_ends_a_run_before_the_last_release():
    history, _ = run({}, replace_in(PUBLISHED, patience=20))
    assert releases(history) == [0, 29, 58]
    assert history[-1].epoch == 58 + 25


def test_improvement_delays_release_and_is_compared_with_all_earlier_epochs():
    history, best = run({8: 0.2, 40: 0.15})
    assert releases(history) == [0, 33, 62]  # cuts count from epoch 9 on, not from 5 on; 40 is no improvement
    assert best == 8
    assert [record.epoch for record in history if record.best] == [0, 8]


def test_one_group_of_everything_by_default():
    history, _ = run({}, groups=None)
    assert releases(history) == [0]
    assert len(history) == 29


def replace_in(config: TrainConfig, **changes: object) -> TrainConfig:
    from dataclasses import replace

    return replace(config, **changes)


def test_only_released_groups_are_trained_and_a_release_starts_from_the_best_weights():
    model, states = Tower(), []
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores = iter([0.1, 0.2, *[0.0] * 200])

    def run_validation() -> dict[str, float]:
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"valence": next(scores)}

    config = replace_in(PUBLISHED, lr=0.1, min_lr=0.01, warmup_epochs=0, plateau_patience=0)
    history, best = fit(model, squared, OneBatch(), run_validation, config, groups)
    assert best == 1
    assert releases(history) == [0, 4, 6]  # the rate is cut after every bad epoch: 0.1, 0.01, below
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in model.state_dict().items())
    for record, state in zip(history, states, strict=True):
        trained = {name.split(".")[0] for name in state if not torch.equal(state[name], start[name])}
        assert trained == {0: {"top"}, 1: {"top", "middle"}, 2: {"top", "middle", "low"}}[record.stage]
    first, second = states[4], states[1]
    assert torch.allclose(first["top.weight"], second["top.weight"], atol=0.11)


def test_refusals():
    with pytest.raises(SettingError, match="'cosine' never releases the other 2 groups of weights. Use 'plateau'"):
        run({}, TrainConfig(targets=("valence",)))
    with pytest.raises(SettingError, match="No group of weights"):
        run({}, groups=lambda model: [])
    with pytest.raises(CorpusError, match="was nan in every epoch"):
        fit(Tower(), squared, OneBatch(), lambda: {"valence": float("nan")}, replace_in(PUBLISHED, epochs=2))
