"""Bootstrap intervals against the metrics on concatenated trials, and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from cache.errors import SettingError
from fusion.scores import METRICS
from fusion.scores import intervals as module
from fusion.scores.ccc import CCC
from fusion.scores.intervals import measure
from fusion.scores.metric import load_metrics

KINDS = load_metrics()


def bootstrap(runs: list, draws: int, level: float, seed: int) -> dict[str, np.ndarray]:
    """Intervals of every metric."""
    return module.bootstrap([measure(run, KINDS) for run in runs], KINDS, draws, level, seed)


def make_run(seed: int, lengths: dict[str, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Labels that are the same in every run, and noisy predictions of them."""
    run = {}
    for trial_id, length in lengths.items():
        own = np.random.default_rng([ord(c) for c in trial_id])
        target = own.standard_normal((length, 2)).cumsum(0) / 10 + own.standard_normal((1, 2)) / 3
        noise = np.random.default_rng([seed, *map(ord, trial_id)]).standard_normal((length, 2))
        run[trial_id] = (target * 0.6 + noise / 5).astype(np.float32), target.astype(np.float32)
    return run


LENGTHS = {name: 20 + 7 * i for i, name in enumerate("abcdefgh")}


def score(run: dict, names: list[str]) -> dict[str, np.ndarray]:
    """Every metric by its class, over trials that may occur several times."""
    metrics = {name: kind() for name, kind in KINDS.items()}
    for name in names:
        for metric in metrics.values():
            metric.update(*(torch.from_numpy(series) for series in run[name]))
    return {name: metric.compute().numpy() for name, metric in metrics.items()}


def test_a_draw_is_the_metric_over_the_drawn_trials():
    """One sample: both ends of the interval are its value."""
    runs = [make_run(seed, LENGTHS) for seed in (0, 1, 2)]
    counts = np.random.default_rng(5).multinomial(8, np.full(8, 1 / 8), 1)[0]
    drawn = [name for name, count in zip(LENGTHS, counts, strict=True) for _ in range(count)]
    intervals = bootstrap(runs, 1, 0.9, 5)
    assert set(intervals) == set(METRICS)
    for metric, interval in intervals.items():
        each = np.mean([score(run, drawn)[metric] for run in runs], axis=0)
        for end in interval:
            np.testing.assert_allclose(end, [*each, each.mean()], atol=1e-9)


def test_percentiles_are_those_of_scipy():
    run = make_run(0, LENGTHS)
    names = np.array(list(LENGTHS))

    def statistic(chosen: np.ndarray) -> float:
        p, t = (torch.from_numpy(np.concatenate([run[n][k] for n in names[chosen]])) for k in (0, 1))
        return float(CCC.of(p, t)[0])

    theirs = scipy.stats.bootstrap(
        (np.arange(8),),
        statistic,
        n_resamples=1500,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    ours = bootstrap([run], 4000, 0.95, 0)["ccc"][:, 0]
    np.testing.assert_allclose(ours, [theirs.low, theirs.high], atol=0.02)
    assert ours[0] < statistic(np.arange(8)) < ours[1]


def test_the_seed_decides_and_a_higher_level_is_wider():
    runs = [make_run(0, LENGTHS)]
    narrow, wide = (bootstrap(runs, 300, level, 0)["ccc"] for level in (0.5, 0.99))
    assert (wide[0] < narrow[0]).all()
    assert (wide[1] > narrow[1]).all()
    np.testing.assert_array_equal(bootstrap(runs, 300, 0.5, 0)["ccc"], narrow)
    assert (bootstrap(runs, 300, 0.5, 1)["ccc"] != narrow).any()


def test_runs_of_other_folds_hold_other_trials():
    first, second = make_run(0, {"a": 20, "b": 27}), make_run(0, {"c": 34, "d": 41})
    interval = bootstrap([first, second], 200, 0.95, 0)["ccc"]
    assert np.isfinite(interval).all()
    assert (interval[0] < interval[1]).all()


def test_trials_without_frames_and_metrics_without_a_value():
    run = make_run(0, LENGTHS) | {"z": (np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32))}
    assert np.isfinite(bootstrap([run], 50, 0.95, 0)["trial_ccc"]).all()
    still = {"a": (np.full((4, 1), 0.1), np.full((4, 1), 0.1))}
    intervals = bootstrap([still], 10, 0.95, 0)
    assert np.isnan(intervals["ccc"]).all()
    np.testing.assert_array_equal(intervals["sagr"], 1)


@pytest.mark.parametrize(("runs", "draws", "level"), [([{}], 10, 0.95), ([LENGTHS], 0, 0.95), ([LENGTHS], 10, 1.0)])
def test_refusals(runs, draws, level):
    with pytest.raises(SettingError, match="Change the section 'evaluate'"):
        bootstrap([make_run(0, run) for run in runs], draws, level, 0)
