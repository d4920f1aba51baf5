"""Targets: what a corpus may declare, and the way into [-1, 1] and back."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.errors import CorpusError, SettingError
from cache.targets import AFFECT, Target, from_unit, to_unit

RATING = (Target("arousal", low=1, high=9), Target("pain", low=0, high=10), Target("valence"))


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"kind": "classes"}, ["kind is 'classes'", "continuous"]),
        ({"unit": "trial"}, ["unit is 'trial'", "frame"]),
        ({"low": 9.0, "high": 1.0}, ["[9, 1]", "the lower end first"]),
        ({"low": 1.0}, ["[1, 1]"]),
        ({"high": float("inf")}, ["inf"]),
        ({"name": " "}, ["' '"]),
        ({"name": "mean"}, ["'mean'"]),
        ({"kind": "x", "unit": "y", "high": -2.0}, ["'x'", "'y'", "[-1, -2]"]),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        Target(**{"name": "pain", **fields})
    for part in [*parts, "Change how the corpus declares it"]:
        assert part in str(caught.value)


def test_ends_and_middle() -> None:
    labels = np.array([[1, 0, -1], [5, 5, 0], [9, 10, 1], [np.nan, 2.5, np.nan]], np.float32)
    expected = np.array([[-1, -1, -1], [0, 0, 0], [1, 1, 1], [np.nan, -0.5, np.nan]], np.float32)
    np.testing.assert_array_equal(to_unit(labels, RATING), expected)
    np.testing.assert_array_equal(from_unit(expected, RATING), labels)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1))
def test_the_usual_range_is_kept_bit_for_bit(values: list[float]) -> None:
    labels = np.array([values, values], np.float32).T
    assert to_unit(labels, AFFECT).tobytes() == labels.tobytes()
    np.testing.assert_array_equal(from_unit(labels, AFFECT), labels)


def make_trial(labels: Any, name: str = "a") -> Trial:
    rows = np.array(labels, np.float32)
    return Trial(name, name, "train", FrameClock(Fraction(25), len(rows)), {}, rows)


def test_a_manifest_keeps_targets_and_labels_as_the_corpus_has_them(tmp_path: Path) -> None:
    trial = make_trial([[1, 10, np.nan], [9, np.nan, 0.25]])
    Manifest(tmp_path, (trial,), RATING).save(tmp_path)
    again = Manifest.load(tmp_path)
    assert again.targets == RATING
    np.testing.assert_array_equal(again.trials[0].labels, trial.labels)


def test_labels_outside_the_declared_range_are_refused(tmp_path: Path) -> None:
    trials = (make_trial([[0, 0], [0.5, 7.5], [0, 9]]), make_trial([[1, 1]], "b"), make_trial([[-1.25, 0]], "c"))
    with pytest.raises(CorpusError) as caught:
        Manifest(tmp_path, trials)
    for part in (
        "trial 'a' has 2 labels of 'arousal' outside [-1, 1], the first is 7.5 in frame 1",
        "trial 'c' has 1 label of 'valence' outside [-1, 1], the first is -1.25 in frame 0",
        "Declare the range",
        "'corpus.settings.targets'",
    ):
        assert part in str(caught.value)
    assert "'b'" not in str(caught.value)
    many = tuple(make_trial([[5, 5]], f"t{number:02}") for number in range(30))
    with pytest.raises(CorpusError, match="and 50 more"):
        Manifest(tmp_path, many)


def test_a_target_is_declared_once(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="target 'pain' is declared 2 times"):
        Manifest(tmp_path, (), (Target("pain"), Target("pain", high=5)))
