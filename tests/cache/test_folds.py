"""Folds never split a subject and always keep the test trials apart."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.clock import FrameClock
from cache.errors import CorpusError, SettingError, UnknownNameError
from cache.folds import Fold, grouped_folds, make_fold, partition_fold
from cache.manifest import Manifest, Trial


def corpus(*entries: tuple[str, str, str]) -> Manifest:
    """A manifest of (trial, subject, partition)."""
    clock = FrameClock(Fraction(25), 10)
    return Manifest(
        Path("."), tuple(Trial(name, subject, partition, clock, {}) for name, subject, partition in entries)
    )


def test_partition_is_fold_zero():
    manifest = corpus(("a", "1", "train"), ("b", "2", "validation"), ("c", "3", "test"), ("d", "1", "train"))
    assert partition_fold(manifest) == Fold(0, ("a", "d"), ("b",), ("c",))


def test_partition_refuses_a_split_subject_by_name():
    manifest = corpus(("a", "Ann", "train"), ("b", "Ann", "validation"))
    with pytest.raises(CorpusError, match="subject 'Ann' is in 'train' and in 'validate'"):
        partition_fold(manifest)


def test_partition_refuses_a_corpus_without_one():
    with pytest.raises(SettingError, match="Ask for grouped folds"):
        partition_fold(corpus(("a", "1", ""), ("b", "2", "")))
    with pytest.raises(CorpusError, match="e\\.g\\. 'b'"):
        partition_fold(corpus(("a", "1", "train"), ("b", "2", "")))


def test_make_fold_refuses_unknown_and_empty():
    manifest = corpus(("a", "1", "train"), ("b", "2", "validation"))
    with pytest.raises(UnknownNameError, match="Unknown trial 'x'"):
        make_fold(manifest, 0, ["a"], ["x"])
    with pytest.raises(SettingError, match="expected at least 1 of each"):
        make_fold(manifest, 0, ["a"], [])


@settings(max_examples=30, deadline=None)  # the first call imports scikit-learn
@given(st.lists(st.integers(0, 8), min_size=6, max_size=40), st.integers(2, 5), st.integers(0, 9))
def test_grouped_folds_are_disjoint_and_complete(subjects, n, seed):
    manifest = corpus(*((f"t{i:02d}", str(s), "") for i, s in enumerate(subjects)), ("z", "kept", "test"))
    if len(set(subjects)) < n:
        with pytest.raises(SettingError, match="Lower the number of folds"):
            grouped_folds(manifest, n, seed)
        return
    folds = grouped_folds(manifest, n, seed)
    everyone = {trial.id for trial in manifest.trials} - {"z"}
    assert sorted(name for fold in folds for name in fold.validate) == sorted(everyone)
    for fold in folds:
        assert set(fold.train) | set(fold.validate) == everyone
        assert fold.test == ("z",)
        assert not {manifest.trial(t).subject for t in fold.train} & {manifest.trial(t).subject for t in fold.validate}
    assert folds == grouped_folds(manifest, n, seed)


def test_another_seed_gives_other_folds():
    manifest = corpus(*((f"t{i:02d}", str(i), "train") for i in range(12)))
    assert grouped_folds(manifest, 3, 0) != grouped_folds(manifest, 3, 1)
