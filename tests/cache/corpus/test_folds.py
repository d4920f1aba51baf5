"""Folds never split a subject and always keep the test trials apart."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.clock import FrameClock
from cache.corpus.folds import (
    Fold,
    grouped_folds,
    load_folds,
    make_fold,
    make_folds,
    partition_fold,
    rotated_folds,
    save_folds,
    stratified_folds,
)
from cache.corpus.manifest import Manifest, Trial
from cache.errors import CorpusError, MissingFileError, SettingError, UnknownNameError


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
    with pytest.raises(SettingError, match="grouped folds"):
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
        with pytest.raises(SettingError, match="number of folds|as folds keep subjects apart"):
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


def aff_wild(num_train: int = 356, num_validation: int = 76) -> Manifest:
    """As many trials as in the papers, every one a subject of its own."""
    train = [(f"a{i:03d}", f"s{i}", "train") for i in range(num_train)]
    validation = [(f"b{i:03d}", f"s{num_train + i}", "validation") for i in range(num_validation)]
    return corpus(*train, *validation, ("c000", "kept", "test"))


@pytest.mark.parametrize("disjoint", [True, False])
def test_the_papers_six_rotated_blocks(disjoint):
    """The ranges that the authors' code gives, as indices into train and then validation trials."""
    manifest = aff_wild()
    order = [trial.id for trial in manifest.trials if trial.partition != "test"]
    folds = rotated_folds(manifest, 6, disjoint)
    ranges = [(356, 431), (284, 355), (213, 283), (142, 212), (71, 141), (0, 70)]
    assert [fold.validate for fold in folds] == [tuple(order[first : last + 1]) for first, last in ranges]
    assert [len(fold.train) for fold in folds] == [356, 360, 361, 361, 361, 361]
    for fold in folds:
        assert sorted((*fold.train, *fold.validate)) == order
        assert fold.test == ("c000",)
    assert folds[0] == partition_fold(manifest)


def test_rotated_blocks_split_a_subject_only_where_they_may():
    """Trials a2 and a3 are one person; the border between two blocks of three is between them."""
    entries = [(f"a{i}", "pair" if i in (2, 3) else f"s{i}", "train") for i in range(6)]
    manifest = corpus(*entries, ("b0", "s9", "validation"))
    assert [fold.validate for fold in rotated_folds(manifest, 3, disjoint=False)] == [
        ("b0",),
        ("a3", "a4", "a5"),
        ("a0", "a1", "a2"),
    ]
    assert [fold.validate for fold in rotated_folds(manifest, 3)] == [("b0",), ("a4", "a5"), ("a0", "a1", "a2", "a3")]


def test_rotated_blocks_refuse_what_they_cannot_divide():
    with pytest.raises(SettingError, match="grouped folds"):
        rotated_folds(corpus(("a", "1", ""), ("b", "2", "")))
    with pytest.raises(SettingError, match="6 rotated blocks of 2 training trials; expected 2 to 3"):
        rotated_folds(aff_wild(2, 1))
    with pytest.raises(CorpusError, match="subject 'x' is in 'train' and in 'test'"):
        rotated_folds(corpus(("a", "x", "train"), ("b", "2", "validation"), ("c", "x", "test")), 2)


def labelled(means: list[float], subjects: list[str]) -> Manifest:
    clock = FrameClock(Fraction(25), 10)
    trials = []
    for index, (mean, subject) in enumerate(zip(means, subjects, strict=True)):
        labels = np.tile(np.array([mean, 0.5], np.float32), (10, 1))
        labels[3] = np.nan
        trials.append(Trial(f"t{index:02d}", subject, "train", clock, {}, labels))
    return Manifest(Path("."), tuple(trials))


def test_stratified_folds_hold_every_range_of_labels():
    rng = np.random.default_rng(0)
    means = np.concatenate([rng.uniform(low, low + 0.1, 8) for low in (-0.9, 0.0, 0.8)]).tolist()
    manifest = labelled(means, [f"s{i}" for i in range(24)])
    level = {trial.id: round(means[i] * 1.2) for i, trial in enumerate(manifest.trials)}
    for fold in stratified_folds(manifest, 4, 0):
        assert Counter(level[name] for name in fold.validate) == {-1: 2, 0: 2, 1: 2}
    assert stratified_folds(manifest, 4, 0) == stratified_folds(manifest, 4, 0)
    assert stratified_folds(manifest, 4, 0) != stratified_folds(manifest, 4, 1)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.floats(-1, 1), st.booleans()), min_size=10, max_size=40),
    st.integers(2, 4),
)
def test_stratified_folds_are_disjoint_and_complete(entries, n):
    clock = FrameClock(Fraction(25), 2)
    trials = [
        Trial(f"t{i:02d}", str(subject), "", clock, {}, np.full((2, 2), mean, np.float32) if known else None)
        for i, (subject, mean, known) in enumerate(entries)
    ]
    manifest = Manifest(Path("."), tuple(trials))
    subjects = {trial.subject for trial in trials}
    if len(subjects) < n:
        with pytest.raises(SettingError, match="number of folds|as folds keep subjects apart"):
            stratified_folds(manifest, n, 0)
        return
    try:
        folds = stratified_folds(manifest, n, 0)
    except SettingError:  # scikit-learn may leave a fold empty, which is refused
        return
    assert sorted(name for fold in folds for name in fold.validate) == [trial.id for trial in manifest.trials]
    for fold in folds:
        assert not {manifest.trial(t).subject for t in fold.train} & {manifest.trial(t).subject for t in fold.validate}


@pytest.mark.parametrize("divide", [grouped_folds, stratified_folds])
def test_every_fold_validates_on_a_subject_with_labels(divide):
    known = labelled([0.1, 0.2, 0.3], ["a", "b", "c"]).trials
    silent = tuple(replace(known[0], id=f"u{i}", subject=f"u{i}", labels=None) for i in range(9))
    manifest = Manifest(Path("."), (*silent, *known))
    folds = divide(manifest, 3, 0)
    everyone = sorted(trial.id for trial in manifest.trials)
    assert sorted(name for fold in folds for name in fold.validate) == everyone
    for fold in folds:
        assert sum(name.startswith("t") for name in fold.validate) == 1
        assert sorted((*fold.train, *fold.validate)) == everyone
    with pytest.raises(SettingError, match="4 folds of 3 subjects with labels; expected 2 to 3 folds"):
        divide(manifest, 4, 0)


@pytest.mark.parametrize("kind", ["auto", "grouped", "stratified"])
@pytest.mark.parametrize("count", [0, 2])
def test_one_subject_cannot_be_divided(kind, count):
    with pytest.raises(
        SettingError, match="has 1 subject with labels, expected at least 2, as folds keep subjects apart"
    ):
        make_folds(labelled([0.1, 0.2], ["a", "a"]), kind, count)


@pytest.mark.parametrize("kind", ["auto", "grouped", "stratified"])
def test_few_subjects_make_fewer_folds_unless_their_number_is_given(kind):
    manifest = corpus(*((f"t{i}", str(i // 2), "") for i in range(8)))
    with pytest.warns(UserWarning, match="has 4 subjects with labels, so it is divided into 4 folds instead of 6"):
        assert len(make_folds(manifest, kind)) == 4
    with pytest.raises(SettingError, match="6 folds of 4 subjects"):
        make_folds(manifest, kind, 6)
    many = corpus(*((f"t{i}", str(i), "") for i in range(7)))
    assert len(make_folds(many, kind)) == 6
    assert len(make_folds(aff_wild(12, 3), "rotated")) == 6


def test_folds_by_name():
    manifest = aff_wild(12, 3)
    assert make_folds(manifest) == make_folds(manifest, "partition") == (partition_fold(manifest),)
    assert make_folds(manifest, "rotated", 4) == rotated_folds(manifest, 4)
    assert make_folds(manifest, "grouped", 4, 1) == grouped_folds(manifest, 4, 1)
    assert make_folds(manifest, "stratified", 3, 1) == stratified_folds(manifest, 3, 1)
    without = corpus(*((f"t{i}", str(i), "") for i in range(6)))
    assert make_folds(without, "auto", 3, 2) == grouped_folds(without, 3, 2)
    with pytest.raises(UnknownNameError, match="Unknown kind of folds 'group'.*Did you mean 'grouped'"):
        make_folds(manifest, "group")


def test_parts_by_the_names_of_partitions():
    fold = Fold(0, ("a",), ("b",), ("c",))
    assert [fold.part(name) for name in ("train", "validation", "test")] == [("a",), ("b",), ("c",)]
    with pytest.raises(UnknownNameError, match="Unknown partition 'dev'"):
        fold.part("dev")


def test_a_trial_is_in_one_part_only():
    with pytest.raises(CorpusError, match="names 1 trial twice, e.g. 'b'"):
        Fold(0, ("a", "b"), ("b",))


def test_folds_in_a_file(tmp_path):
    manifest = aff_wild(12, 3)
    folds = make_folds(manifest, "rotated", 4)
    save_folds(folds, tmp_path / "deep" / "folds.json", manifest)
    assert load_folds(tmp_path / "deep" / "folds.json", manifest) == folds


def test_a_file_of_folds_is_checked(tmp_path):
    manifest = corpus(("a", "1", "train"), ("b", "1", "train"), ("c", "2", "validation"))
    path = tmp_path / "folds.json"

    def write(**changes: object) -> None:
        fold = {"index": 0, "train": ["a"], "validate": ["c"], "test": [], **changes}
        path.write_text(json.dumps({"version": 1, "disjoint": True, "folds": [fold]}), encoding="utf-8")

    write()
    assert load_folds(path, manifest) == (Fold(0, ("a",), ("c",)),)
    write(validate=["b", "c"])
    with pytest.raises(CorpusError, match="subject '1' is in 'train' and in 'validate'"):
        load_folds(path, manifest)
    split = (Fold(0, ("a",), ("b", "c")),)
    save_folds(split, path, manifest)
    assert load_folds(path, manifest) == split, "the papers' folds may split a subject, and the file says so"
    write(validate=["a", "c"])
    with pytest.raises(CorpusError, match="twice, e.g. 'a'"):
        load_folds(path, manifest)
    write(validate=["x"])
    with pytest.raises(UnknownNameError, match="Unknown trial 'x'"):
        load_folds(path, manifest)
    with pytest.raises(MissingFileError, match="leave 'folds.path' empty"):
        load_folds(tmp_path / "none.json", manifest)
    for text in ("{", "[]", "{}", '{"version": 2}', '{"version": 1, "disjoint": true, "folds": [{}]}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(CorpusError, match=r"(is damaged|has version 2).*avfusion train"):
            load_folds(path, manifest)


def test_a_number_of_folds_is_not_ignored_where_the_corpus_has_a_partition():
    subjects = ["a", "b", "c", "d"]
    manifest = labelled([0.1, 0.2, 0.3, 0.4], subjects)
    parts = ("train", "train", "validation", "test")
    manifest = replace(
        manifest, trials=tuple(replace(t, partition=p) for t, p in zip(manifest.trials, parts, strict=True))
    )
    for kind in ("auto", "partition"):
        assert len(make_folds(manifest, kind)) == 1
        with pytest.raises(
            SettingError, match=r"^3 folds .*own partition is one fold. Set fusion.folds.kind to grouped"
        ):
            make_folds(manifest, kind, 3)
    assert len(make_folds(manifest, "grouped", 3)) == 3
