"""Figures of a system: each metric over its runs, with intervals, and of the mean prediction of all runs."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np

from cache.targets import MEAN, Target, names_of
from fusion.scores.intervals import Measured, Metrics, bootstrap, score
from fusion.scores.metric import Metric

Scores = dict[str, dict[str, float]]
"""Metric → target, or "mean" over targets → value."""
Summary = dict[str, dict[str, dict[str, float]]]
"""Metric → target, or "mean" → figures: mean, std, best, low, high, ensemble, …"""


def score_run(measured: Measured, targets: Sequence[Target], metrics: Metrics) -> Scores:
    """Each metric over all labelled frames of a run, and its mean over targets."""
    table = {}
    for name, figures in score(measured, metrics).items():
        values = figures.tolist()
        mean = nan if _is_mixed(metrics[name], targets) else sum(values) / len(values)
        table[name] = {**dict(zip(names_of(targets), values, strict=True)), MEAN: mean}
    return table


def _is_mixed(metric: type[Metric], targets: Sequence[Target]) -> bool:
    """Whether a mean over targets would mix units."""
    return metric.in_unit and len({target.half for target in targets}) > 1


def summarise(
    measured: Sequence[Measured],
    ensemble: Measured,
    targets: Sequence[Target],
    metrics: Metrics,
    draws: int,
    level: float,
    seed: int,
) -> tuple[Summary, list[Scores]]:
    """The figures of a system, and the scores of each run.

    Args:
        measured: the sums of each run.
        ensemble: those of the runs' mean prediction.
        targets: what is predicted.
        metrics: name → metric.
        draws: number of bootstrap samples, as `level` and `seed` for `fusion.scores.intervals.bootstrap`.
        level: share of the samples inside an interval.
        seed: seed of the samples.

    Returns:
        Figures rounded to four digits, and the scores as they are; the standard deviation in its N - 1 form, nan for one run.

    Raises:
        SettingError: as `bootstrap`.
    """
    scored = [score_run(run, targets, metrics) for run in measured]
    intervals = bootstrap(measured, metrics, draws, level, seed)
    around = bootstrap([ensemble], metrics, draws, level, seed)
    summary: Summary = {}
    for metric, own in score_run(ensemble, targets, metrics).items():
        summary[metric] = {}
        for column, target in enumerate(own):
            values = np.array([run[metric][target] for run in scored])
            figures = {
                "mean": values.mean(),
                "std": values.std(ddof=1) if len(values) > 1 else nan,
                "best": values.max() if metrics[metric].higher_is_better else values.min(),
                "low": intervals[metric][0, column],
                "high": intervals[metric][1, column],
                "ensemble": own[target],
                "ensemble_low": around[metric][0, column],
                "ensemble_high": around[metric][1, column],
            }
            known = not (target == MEAN and _is_mixed(metrics[metric], targets))
            summary[metric][target] = {key: round(float(value), 4) if known else nan for key, value in figures.items()}
    return summary, scored
