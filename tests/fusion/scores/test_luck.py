"""The luck of the best of many systems: found again where it is known, and none where there is nothing to choose."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.scores.ccc import CCC
from fusion.scores.intervals import luck_of_best, measure


def make(skills: list[float], trials: int, seed: int) -> tuple[list, list]:
    """Systems of given skill on validation and test trials; noise differs by trial, as if some trials suited some systems."""
    random = np.random.default_rng(seed)
    shape = (60, len(skills), 2)
    found = []
    for _ in range(2):
        run = {}
        for index in range(trials):
            labels = np.repeat(random.normal(size=(60, 1, 2)), len(skills), axis=1)
            noise = random.normal(size=shape) * random.uniform(0.2, 1.8, (1, len(skills), 1))
            predictions = np.array(skills)[:, None] * labels + noise
            run[f"t{index}"] = (predictions.reshape(60, -1), labels.reshape(60, -1))
        sums = measure(run, {"ccc": CCC})["ccc"]  # of all systems at once, side by side
        found.append([{name: own[:, 2 * at : 2 * at + 2] for name, own in sums.items()} for at in range(len(skills))])
    return found[0], found[1]


def score(sums: dict) -> float:
    return float(CCC.figure(sum(sums.values())).mean())


def test_luck_is_what_the_best_of_equals_loses_on_other_trials() -> None:
    expected, lost = [], []
    for seed in range(12):
        validation, test = make([0.8] * 40, 12, seed)
        luck, wins = luck_of_best(validation, CCC, 100, seed)
        before = [score(own) for own in validation]
        best = int(np.argmax(before))
        expected.append(luck)
        lost.append(before[best] - score(test[best]))
        assert 0 < wins < 0.9
    assert np.mean(lost) > 0.02
    assert np.mean(expected) == pytest.approx(np.mean(lost), rel=0.5)


def test_a_system_far_ahead_owes_nothing_to_luck() -> None:
    validation, _ = make([1.0, 0.1, 0.1], 12, 0)
    luck, wins = luck_of_best(validation, CCC, 500, 0)
    assert abs(luck) < 0.02
    assert wins == 1


def test_the_luck_of_one_trial_or_one_system_is_none() -> None:
    validation, _ = make([0.5], 5, 0)
    assert abs(luck_of_best(validation, CCC, 2000, 0)[0]) < 0.02
    alone, _ = make([0.5, 0.6], 1, 0)
    assert luck_of_best(alone, CCC, 50, 0) == (0.0, 1.0)
