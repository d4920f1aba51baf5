"""Scores of a run and their bootstrap confidence intervals over trials [Efron1993].

The frames of a trial depend on each other while trials do not, so each bootstrap sample draws trials, with replacement,
as many as there are. Metrics are functions of sums over trials: each trial is summed once, and a draw only weights these
sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.errors import SettingError
from fusion.scores.metric import Metric

Array = NDArray[np.float64]
Run = Mapping[str, tuple[NDArray[np.floating], NDArray[np.floating]]]
"""Trial id → prediction (T, C) and target (T, C), with target nan where a frame does not count."""
Metrics = Mapping[str, type[Metric]]
Measured = dict[str, dict[str, Tensor]]
"""Metric → trial id → sums (S, C)."""


def measure(run: Run, metrics: Metrics) -> Measured:
    """Sum every trial of a run for every metric."""
    tensors = {
        trial: (torch.from_numpy(prediction), torch.from_numpy(target)) for trial, (prediction, target) in run.items()
    }
    return {
        name: {
            trial: kind().update(p, t, t.isfinite()).sums().expand(-1, p.shape[1]) for trial, (p, t) in tensors.items()
        }
        for name, kind in metrics.items()
    }


def score(measured: Measured, metrics: Metrics) -> dict[str, Array]:
    """Every metric (C,) over all trials of a run."""
    figures = {}
    for name, kind in metrics.items():
        sums = torch.stack(list(measured[name].values()))
        figures[name] = kind.figure(kind.weigh(sums.new_ones(1, len(sums)), sums))[0].numpy()
    return figures


def bootstrap(runs: Sequence[Measured], metrics: Metrics, draws: int, level: float, seed: int) -> dict[str, Array]:
    """Percentile intervals of the metrics' means over runs; the same trials are drawn in every run.

    Args:
        runs: the sums of each training run; folds may have different trials.
        metrics: name → metric.
        draws: number of bootstrap samples, at least 1.
        level: share of samples inside the interval, between 0 and 1.
        seed: seed of the draws.

    Returns:
        Name → (2, C + 1), low and high for each target and for their mean; nan if a metric is nan in every draw.

    Raises:
        SettingError: if a number is outside its range or there is nothing to draw from.
    """
    names = sorted({trial for run in runs for trials in run.values() for trial in trials})
    if draws < 1 or not 0 < level < 1 or not names:
        raise SettingError(
            f"{draws} bootstrap samples of {len(names)} trials at level {level:g}; expected at least 1 of each and a level "
            "between 0 and 1. Change the section 'evaluate'."
        )
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), draws)
    weights = torch.from_numpy(drawn.astype(np.float64))
    tails = [50 * (1 - level), 50 * (1 + level)]
    intervals = {}
    for name, kind in metrics.items():
        sums = (_stack(run[name], names) for run in runs)
        values = torch.stack([kind.figure(kind.weigh(weights, own)) for own in sums])
        intervals[name] = _interval(values.numpy(), tails)
    return intervals


def luck_of_best(
    systems: Sequence[Mapping[str, Tensor]], kind: type[Metric], draws: int, seed: int
) -> tuple[float, float]:
    """How much of the highest score among many systems is luck: the optimism of choosing it [Efron1993, Section 17.6].

    Each draw of trials is a validation set in which the best system s* is chosen again; its score there exceeds the score that the
    same system has over all trials by what the choice owes to the draw:

        luck = mean over draws b of (score_b(s*_b) - score(s*_b)),    s*_b = argmax_s score_b(s)

    Args:
        systems: of each, trial id → sums (S, C) of the metric; all over the same trials.
        kind: the metric, of which higher is better; its mean over targets counts.
        draws: number of bootstrap samples.
        seed: seed of the draws.

    Returns:
        The luck, and the share of draws in which the system with the highest score over all trials is the best one, too.
    """
    names = sorted(systems[0])
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), draws)
    weights = torch.from_numpy(np.concatenate([np.ones((1, len(names))), drawn]))
    scores = torch.stack(
        [kind.figure(kind.weigh(weights, _stack(own, names))).mean(dim=-1) for own in systems]
    ).nan_to_num(-1)
    whole, sampled = scores[:, 0], scores[:, 1:]
    best = sampled.argmax(dim=0)
    luck = sampled.gather(0, best[None])[0] - whole[best]
    return float(luck.mean()), float((best == whole.argmax()).double().mean())


def _stack(trials: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """(N, S, C), zero for trials that are not in the run."""
    nothing = torch.zeros_like(next(iter(trials.values())))
    return torch.stack([trials.get(name, nothing) for name in names])


def _interval(values: Array, tails: Sequence[float]) -> Array:
    """Scores (R, D, C) → (2, C + 1)."""
    values = np.concatenate([values, values.mean(axis=2, keepdims=True)], axis=2)
    present = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(present, values, 0).sum(axis=0) / present.sum(axis=0)
    columns = [column[np.isfinite(column)] for column in means.T]
    return np.stack([np.percentile(c, tails) if len(c) else np.full(2, np.nan) for c in columns], axis=1)
