"""Learning rates per step, and when a run stops."""

from __future__ import annotations

import math

import pytest
import torch

from fusion.schedule import EarlyStopping, make_optimizer, make_schedule
from fusion.settings import TrainConfig


def rates(config: TrainConfig, steps: int) -> list[float]:
    optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(1))], config)
    schedule = make_schedule(optimizer, config)
    seen = []
    for _ in range(steps):
        seen.append(schedule.lr)
        optimizer.step()
        schedule.after_step()
    return seen


def test_cosine_restarts_every_so_many_steps():
    seen = rates(TrainConfig(lr=0.1, restart_steps=4), 10)
    expected = [0.1 * (1 + math.cos(math.pi * (t % 4) / 4)) / 2 for t in range(10)]
    assert seen == pytest.approx(expected)


def test_constant_stays():
    assert rates(TrainConfig(lr=0.1, schedule="constant"), 3) == [0.1] * 3


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_optimizers(name, kind):
    optimizer = make_optimizer(
        [torch.nn.Parameter(torch.zeros(1))], TrainConfig(optimizer=name, lr=0.3, weight_decay=0.2)
    )
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == 0.3
    assert optimizer.param_groups[0]["weight_decay"] == 0.2


def test_early_stopping_counts_epochs_without_a_better_score():
    stopping = EarlyStopping(2)
    story = [(0.1, True, False), (math.nan, False, False), (0.2, True, False), (0.2, False, False), (0.1, False, True)]
    for epoch, (score, improved, exhausted) in enumerate(story):
        assert stopping.update(epoch, score) is improved
        assert stopping.exhausted is exhausted
    assert (stopping.best, stopping.best_epoch) == (0.2, 2)
