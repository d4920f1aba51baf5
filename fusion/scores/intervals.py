"""Bootstrap confidence intervals of the metrics, over trials [Efron1993].

Frames of one trial depend on each other, trials do not, so trials are what is drawn, with replacement, as many as there
are. All metrics are functions of sums over frames; they are summed per trial once, and a draw only weighs these sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cache.errors import SettingError

Array = NDArray[np.float64]
Run = Mapping[str, tuple[NDArray[np.floating], NDArray[np.floating]]]
"""Trial id → prediction (T, C) and target (T, C), nan where it does not count."""


def bootstrap(runs: Sequence[Run], draws: int, level: float, seed: int) -> dict[str, Array]:
    """Percentile intervals of the metrics' means over runs; the same trials are drawn in every run.

    Args:
        runs: predictions of one training run each; folds may hold different trials.
        draws: bootstrap samples, at least 1.
        level: share of samples inside the interval, between 0 and 1.
        seed: of the draws.

    Returns:
        Name of `fusion.scores.metrics.METRICS` → (2, C + 1), low and high of each target and of their mean; nan where a metric
        is nan in every draw.

    Raises:
        SettingError: if a number is outside its range or there is nothing to draw from.
    """
    names = sorted({name for run in runs for name in run})
    if draws < 1 or not 0 < level < 1 or not names:
        raise SettingError(
            f"{draws} bootstrap samples of {len(names)} trials at level {level:g}; expected at least 1 of each and a level "
            "between 0 and 1. Change the section 'evaluate'."
        )
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), draws)
    centre = _centre(runs)
    sums = np.stack([_sum_trials(run, names, centre) for run in runs])  # (R, N, S, C)
    scores = score_sums(np.einsum("dn,rnsc->rdsc", counts.astype(np.float64), sums))
    tails = [50 * (1 - level), 50 * (1 + level)]
    return {metric: _interval(values, tails) for metric, values in scores.items()}


def score_sums(sums: Array) -> dict[str, Array]:
    """Every metric from sums (…, S, C) over frames and trials → (…, C)."""
    n, p, t, pp, tt, pt, error, agree, trial_ccc, trials = np.moveaxis(sums, -2, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_p, mean_t = p / n, t / n
        var_p, var_t, cov = pp / n - mean_p**2, tt / n - mean_t**2, pt / n - mean_p * mean_t
        return {
            "ccc": 2 * cov / (var_p + var_t + (mean_p - mean_t) ** 2),
            "trial_ccc": trial_ccc / trials,
            "pcc": cov / np.sqrt(var_p * var_t),
            "rmse": np.sqrt(error / n),
            "sagr": agree / n,
        }


def _centre(runs: Sequence[Run]) -> Array:
    """(C,) near the means, so that differences of squares keep their digits."""
    targets = np.concatenate([target for run in runs for _, target in run.values()])
    present = np.isfinite(targets)
    centre: Array = np.where(present, targets, 0).sum(axis=0, dtype=np.float64) / present.sum(axis=0).clip(1)
    return centre


def _sum_trials(run: Run, names: Sequence[str], centre: Array) -> Array:
    """(N, S, C), zero for trials that the run does not have."""
    sums = np.zeros((len(names), 10, len(centre)))
    for row, name in enumerate(names):
        if name in run and len(run[name][0]):
            prediction, target = run[name]
            sums[row] = _sum_trial(prediction.astype(np.float64), target.astype(np.float64), centre)
    return sums


def _sum_trial(prediction: Array, target: Array, centre: Array) -> Array:
    """(S, C): frames, p, t, p^2, t^2, p t, squared errors, equal signs, the trial's CCC and whether it has one."""
    p, t, present = prediction - centre, target - centre, np.isfinite(target)
    parts = [np.ones_like(p), p, t, p * p, t * t, p * t, (p - t) ** 2, np.sign(prediction) == np.sign(target)]
    sums = np.stack([np.where(present, part, 0).sum(axis=0) for part in parts])
    one = np.concatenate([sums, np.zeros((2, len(centre)))])
    own = score_sums(one)["ccc"]
    return np.concatenate([sums, [np.nan_to_num(own), np.isfinite(own)]])


def _interval(values: Array, tails: Sequence[float]) -> Array:
    """Scores (R, D, C) → (2, C + 1)."""
    values = np.concatenate([values, values.mean(axis=2, keepdims=True)], axis=2)
    present = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(present, values, 0).sum(axis=0) / present.sum(axis=0)
    columns = [column[np.isfinite(column)] for column in means.T]
    return np.stack([np.percentile(c, tails) if len(c) else np.full(2, np.nan) for c in columns], axis=1)
