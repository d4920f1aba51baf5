"""Learning rates per step, and when a run stops."""

from __future__ import annotations

import math

import pytest
import torch

from fusion.settings import TrainConfig
from fusion.training.schedule import EarlyStopping, make_optimizer, make_schedule


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


PLATEAU = TrainConfig(schedule="plateau", lr=1e-5)


def drive(config: TrainConfig, epochs: int, steps: int = 5, better: tuple[int, ...] = ()) -> list[list[float]]:
    """Learning rate of every step of every epoch."""
    optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(1))], config)
    schedule = make_schedule(optimizer, config)
    rates = []
    for epoch in range(epochs):
        schedule.before_epoch(steps)
        rates.append([])
        for _ in range(steps):
            rates[-1].append(schedule.lr)
            optimizer.step()
            schedule.after_step()
        schedule.after_epoch(epoch in better)
    return rates


def test_warm_up_climbs_to_the_rate_in_each_of_five_epochs():
    rates = drive(PLATEAU, 6)
    for epoch in range(5):
        assert rates[epoch] == pytest.approx([2e-6, 4e-6, 6e-6, 8e-6, 1e-5])
    assert rates[5] == pytest.approx([1e-5] * 5)


def test_the_published_codes_warm_up_divides_by_five_twice():
    rates = drive(TrainConfig(schedule="plateau", lr=1e-5, legacy_warmup=True), 6)
    assert rates[2] == pytest.approx([1.2e-6 * k / 5 for k in range(5)])
    assert rates[5] == pytest.approx([1e-5] * 5)


def test_the_published_codes_warm_up_starts_from_nothing():
    """Of an epoch of 20 batches: 0, 2e-8, …, 3.8e-7, as the authors' scheduler gives them."""
    rates = drive(TrainConfig(schedule="plateau", lr=1e-5, legacy_warmup=True), 1, steps=20)
    assert rates[0] == pytest.approx([2e-8 * k for k in range(20)])


def test_the_rate_is_cut_after_more_than_five_epochs_without_improvement():
    ends = [epoch[-1] for epoch in drive(PLATEAU, 30)]
    assert ends[5:11] == pytest.approx([1e-5] * 6)
    assert ends[11:17] == pytest.approx([1e-6] * 6)
    assert ends[17:23] == pytest.approx([1e-7] * 6)
    assert ends[23:29] == pytest.approx([1e-8] * 6)
    assert ends[29] == pytest.approx(1e-9)
    assert [epoch[-1] for epoch in drive(PLATEAU, 18, better=(10,))][11:18] == pytest.approx([1e-5] * 6 + [1e-6])
    assert drive(PLATEAU, 12, better=(4,))[11][-1] == pytest.approx(1e-6), "warm-up epochs do not count"


def test_exhausted_only_strictly_below_the_smallest_rate():
    """1e-5 * 0.1^3 is not below 1e-8, whatever its rounding."""
    optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(1))], PLATEAU)
    schedule = make_schedule(optimizer, PLATEAU)
    exhausted, counts = [], []
    for _ in range(30):
        exhausted.append(schedule.exhausted)
        counts.append(schedule.counts)
        schedule.after_epoch(False)
    assert exhausted == [False] * 29 + [True]
    assert counts == [False] * 6 + [True] * 24


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
    stopping.restart()
    assert not stopping.exhausted
    assert [stopping.update(epoch, 0.1, counts=False) or stopping.exhausted for epoch in range(5, 9)] == [False] * 4
    assert stopping.best_epoch == 2
