"""Folds: the division of trials into training, validation and test parts.

No subject is in two parts of a fold, so a model is never evaluated on a face or voice it was trained on. Only the papers'
rotated blocks can be requested without this guarantee.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cache.corpus.manifest import PARTITIONS, Manifest, Trial
from cache.documents.documents import OwnDocument, read_document, write_document
from cache.errors import CorpusError, MissingFileError, SettingError, counted
from cache.names import require_known

DEFAULT_COUNT = 6  # as in the papers
FOLD_KINDS = ("auto", "partition", "rotated", "grouped", "stratified")
VERSION = 1
_PARTS = ("train", "validate", "test")


class _FoldsDocument(OwnDocument):
    version: Literal[1]
    disjoint: bool
    folds: list[dict[str, Any]]

    def check(self) -> None:
        """Check that every entry has a number and three lists of names."""
        for place, entry in enumerate(self.folds):
            if type(entry.get("index")) is not int:
                raise ValueError(f"folds.{place}.index: {entry.get('index')!r}, expected a number")
            for part in _PARTS:
                names = entry.get(part)
                if not isinstance(names, list) or not all(type(name) in (str, int) for name in names):
                    raise ValueError(f"folds.{place}.{part}: expected a list of trials")


@dataclass(frozen=True)
class Fold:
    """One division of a corpus.

    Attributes:
        index: number of the fold, from 0.
        train: ids of the trials on which weights and statistics are fitted.
        validate: ids of the trials on which the best epoch is chosen.
        test: ids of the trials held out for the final evaluation; may be empty.

    Raises:
        SettingError: if the training or the validation part is empty.
        CorpusError: if a trial is in two parts, or twice in one.
    """

    index: int
    train: tuple[str, ...]
    validate: tuple[str, ...]
    test: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.train or not self.validate:
            raise SettingError(
                f"Fold {self.index} has {len(self.train)} training and {counted(len(self.validate), 'validation trial')}; "
                "expected at least 1 of each. Choose another fold or number of folds."
            )
        twice = [name for name, count in Counter([*self.train, *self.validate, *self.test]).items() if count > 1]
        if twice:
            raise CorpusError(
                f"Fold {self.index} names {counted(len(twice), 'trial')} twice, e.g. '{twice[0]}'; expected each in one part. Fix the folds."
            )

    def part(self, partition: str) -> tuple[str, ...]:
        """Trials of the part that plays the role of a partition: train, validation or test.

        Raises:
            UnknownNameError: if there is no such partition.
        """
        require_known("partition", partition, PARTITIONS)
        return {"train": self.train, "validation": self.validate, "test": self.test}[partition]


def make_folds(
    manifest: Manifest, kind: str = "auto", count: int = 0, seed: int = 0, disjoint: bool = True
) -> tuple[Fold, ...]:
    """Divide a corpus by the rule of this name.

    Args:
        manifest: the corpus.
        kind: "partition" for the corpus's own partition as the only fold, "rotated" [Zhang2023], "grouped" or "stratified";
            "auto" for the partition, or grouped folds if the corpus has none.
        count: number of folds; 0 for six, or one per subject with labels if there are fewer, with a warning. The partition
            is always a single one, so that it refuses another number.
        seed: seed of grouped and stratified folds.
        disjoint: rotated: keep subjects together, as described in [Zhang2023] but not done in its code.

    Raises:
        UnknownNameError: if there is no such rule.
        SettingError: if the rule does not fit the corpus.
        CorpusError: if a subject would be in two parts of a fold.
    """
    require_known("kind of folds", kind, FOLD_KINDS)
    if kind == "auto":
        kind = "partition" if {"train", "validation"} <= {trial.partition for trial in manifest.trials} else "grouped"
    if kind == "partition" and count > 1:
        raise SettingError(
            f"{count} folds are asked for (fusion.folds.count), but the corpus's own partition is one fold. Set fusion.folds.kind to "
            "grouped, stratified or rotated for that many, or leave out the count."
        )
    if not count:
        count = DEFAULT_COUNT if kind in ("partition", "rotated") else _default_count(manifest)
    rules: dict[str, Callable[[], tuple[Fold, ...]]] = {
        "partition": lambda: (partition_fold(manifest),),
        "rotated": lambda: rotated_folds(manifest, count, disjoint),
        "grouped": lambda: grouped_folds(manifest, count, seed),
        "stratified": lambda: stratified_folds(manifest, count, seed),
    }
    return rules[kind]()


def _default_count(manifest: Manifest) -> int:
    number = len({trial.subject for trial in _pool(manifest)[0]})
    if 1 < number < DEFAULT_COUNT:
        warnings.warn(
            f"The corpus has {counted(number, 'subject')} with labels, so it is divided into {counted(number, 'fold')} instead of {DEFAULT_COUNT}. "
            "Set fusion.folds.count for another number.",
            stacklevel=3,
        )
    return min(number, DEFAULT_COUNT)


def make_fold(
    manifest: Manifest,
    index: int,
    train: Sequence[str],
    validate: Sequence[str],
    test: Sequence[str] = (),
    disjoint: bool = True,
) -> Fold:
    """A fold of these trials, sorted.

    Args:
        manifest: the corpus that the ids belong to.
        index: number of the fold.
        train: trial ids, like `validate` and `test`.
        disjoint: whether no two parts may share a subject.

    Raises:
        UnknownNameError: if a trial does not exist.
        CorpusError: if a subject is in two parts; the message names it.
        SettingError: if the training or the validation part is empty.
    """
    fold = Fold(index, tuple(sorted(train)), tuple(sorted(validate)), tuple(sorted(test)))
    faults = _split_subjects(manifest, fold)
    if faults and disjoint:
        raise CorpusError(
            f"Fold {index} splits a subject: {'; '.join(faults)}. Put all trials of a subject in one part, or use grouped folds."
        )
    return fold


def _split_subjects(manifest: Manifest, fold: Fold) -> list[str]:
    """A description of each subject that is in two parts.

    Raises:
        UnknownNameError: if a trial does not exist.
    """
    subject_of = {trial.id: trial.subject for trial in manifest.trials}
    part_of: dict[str, str] = {}
    faults = []
    for part in _PARTS:
        ids: tuple[str, ...] = getattr(fold, part)
        for trial_id in ids:
            require_known("trial", trial_id, subject_of)
        for subject in sorted({subject_of[trial_id] for trial_id in ids}):
            earlier = part_of.setdefault(subject, part)
            if earlier != part:
                faults.append(f"subject '{subject}' is in '{earlier}' and in '{part}'")
    return faults


def partition_fold(manifest: Manifest) -> Fold:
    """The corpus's own partition, as fold 0.

    Raises:
        CorpusError: if only some trials have a partition, or a subject is in two partitions.
        SettingError: if the corpus has no training or no validation trials.
    """
    parts = {name: [t.id for t in manifest.trials if t.partition == name] for name in (*PARTITIONS, "")}
    if parts[""] and len(parts[""]) < len(manifest.trials):
        raise CorpusError(
            f"{len(parts[''])} trials have no partition, e.g. '{parts[''][0]}'; expected all or none. Fix the corpus or use grouped folds."
        )
    if not parts["train"] or not parts["validation"]:
        raise SettingError("The corpus has no partitions of its own (train and validation). Use grouped folds instead.")
    return make_fold(manifest, 0, parts["train"], parts["validation"], parts["test"])


def rotated_folds(manifest: Manifest, count: int = 6, disjoint: bool = True) -> tuple[Fold, ...]:
    """The papers' blocks of the ordered trials, each the validation part of one fold [Zhang2023, Section 3.3, and its code].

    The training trials, sorted by name, form `count - 1` blocks of equal size, the last one with the remainder; the
    validation trials form one more. Fold f rotates the blocks to the right by f and validates on the last one: fold 0 is
    the corpus's own partition, fold 1 validates on the last training block.

    Args:
        manifest: a corpus with partitions; its test trials are the test part of every fold.
        count: number of blocks and folds, 6 in the papers.
        disjoint: move every trial to the block of its subject's first trial. The papers' code does not, and its blocks
            may split a subject.

    Raises:
        SettingError: if the corpus has no partitions, or fewer training trials than blocks.
        CorpusError: if `disjoint` is set and a subject of the test partition is also in another one.
    """
    parts = {name: [trial for trial in manifest.trials if trial.partition == name] for name in PARTITIONS}
    if not parts["train"] or not parts["validation"]:
        raise SettingError("Rotated blocks need partitions train and validation. Use grouped folds instead.")
    if not 2 <= count <= len(parts["train"]) + 1:
        raise SettingError(
            f"{count} rotated blocks of {len(parts['train'])} training trials; expected 2 to {len(parts['train']) + 1}. "
            "Change the number of folds."
        )
    size = len(parts["train"]) // (count - 1)
    edges = [*(size * block for block in range(count - 1)), len(parts["train"])]
    blocks = [parts["train"][start:stop] for start, stop in pairwise(edges)] + [parts["validation"]]
    blocks = _gather_subjects(blocks) if disjoint else blocks
    test = [trial.id for trial in parts["test"]]
    return tuple(_rotate(manifest, blocks, test, index, disjoint) for index in range(count))


def _gather_subjects(blocks: Sequence[Sequence[Trial]]) -> list[list[Trial]]:
    """Move every trial to the block of its subject's first trial."""
    home: dict[str, int] = {}
    gathered: list[list[Trial]] = [[] for _ in blocks]
    for index, block in enumerate(blocks):
        for trial in block:
            gathered[home.setdefault(trial.subject, index)].append(trial)
    return gathered


def _rotate(
    manifest: Manifest, blocks: Sequence[Sequence[Trial]], test: Sequence[str], index: int, disjoint: bool
) -> Fold:
    chosen = len(blocks) - 1 - index
    validate = [trial.id for trial in blocks[chosen]]
    train = [trial.id for number, block in enumerate(blocks) if number != chosen for trial in block]
    return make_fold(manifest, index, train, validate, test, disjoint)


def grouped_folds(manifest: Manifest, n: int, seed: int) -> tuple[Fold, ...]:
    """Subject-disjoint folds with about equal numbers of validation trials.

    Trials of partition "test" are the test part of every fold; every other trial is in the validation part of one fold.
    Subjects with labels are divided first, so that every fold has some to validate on.

    Args:
        manifest: the corpus.
        n: number of folds, from 2 to the number of subjects with labels.
        seed: seed of the division of subjects.

    Raises:
        SettingError: if there are fewer subjects with labels than folds.
        CorpusError: if a subject of the test partition is also in another one.
    """
    return _divide(manifest, n, seed, stratified=False)


def stratified_folds(manifest: Manifest, n: int, seed: int) -> tuple[Fold, ...]:
    """Grouped folds with the same distribution of labels as the corpus, as far as subjects allow.

    A trial's stratum is the third of the corpus in which its mean label lies, per target; strata with fewer than n
    trials are merged into one. Divided by scikit-learn's `StratifiedGroupKFold`. Arguments and errors as for
    `grouped_folds`; a fold that would be empty is a SettingError too.
    """
    return _divide(manifest, n, seed, stratified=True)


def _divide(manifest: Manifest, n: int, seed: int, stratified: bool) -> tuple[Fold, ...]:
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    pool, others = _pool(manifest)
    subjects = [trial.subject for trial in pool]
    number = len(set(subjects))
    if number < 2:
        raise SettingError(
            f"The corpus has {counted(number, 'subject')} with labels, expected at least 2, as folds keep subjects apart. "
            "Label more of them; if its trials show several people, say so where the corpus names subjects."
        )
    if not 2 <= n <= number:
        raise SettingError(
            f"{counted(n, 'fold')} of {number} subjects with labels; expected {'2' if number == 2 else f'2 to {number}'} folds. "
            "Change the number of folds (fusion.folds.count)."
        )
    rule = StratifiedGroupKFold if stratified else GroupKFold
    strata = _stratify(pool, n, len(manifest.targets))
    divisions = rule(n_splits=n, shuffle=True, random_state=seed).split(pool, strata, subjects)
    test = [trial.id for trial in manifest.trials if trial.partition == "test"]
    fold_of = {subject: place % n for place, subject in enumerate(sorted({trial.subject for trial in others}))}
    folds = []
    for index, division in enumerate(divisions):
        train, validate = ([pool[i].id for i in part] for part in division)
        for trial in others:
            (validate if fold_of[trial.subject] == index else train).append(trial.id)
        folds.append(make_fold(manifest, index, train, validate, test))
    return tuple(folds)


def _pool(manifest: Manifest) -> tuple[list[Trial], list[Trial]]:
    """The trials outside the test partition, of subjects with labels and of other subjects; without labels, all alike."""
    trials = [trial for trial in manifest.trials if trial.partition != "test"]
    labelled = {trial.subject for trial in trials if trial.labels is not None and np.isfinite(trial.labels).any()}
    pool = [trial for trial in trials if trial.subject in labelled]
    return (pool, [trial for trial in trials if trial.subject not in labelled]) if pool else (trials, [])


def _stratify(pool: Sequence[Trial], n: int, num_targets: int) -> NDArray[np.int64]:
    """Number of each trial's stratum; every stratum has at least n trials."""
    means = np.stack([_mean_label(trial, num_targets) for trial in pool])
    known = np.isfinite(means).all(axis=1)
    strata = np.zeros(len(pool), np.int64)  # trials without labels share stratum 0
    for column in means.T if known.any() else ():
        thirds = np.searchsorted(np.quantile(column[known], [1 / 3, 2 / 3]), column[known], side="right")
        strata[known] = strata[known] * 3 + thirds + 1
    frequent = {stratum for stratum, count in Counter(strata.tolist()).items() if count >= n}
    strata[[stratum not in frequent for stratum in strata.tolist()]] = -1
    if 0 < np.count_nonzero(strata == -1) < n:
        strata[strata == -1] = max(frequent, default=-1)
    return strata


def _mean_label(trial: Trial, num_targets: int) -> NDArray[np.float64]:
    """(C,) mean over the annotated frames of each target; nan if there are none."""
    labels = np.zeros((0, num_targets)) if trial.labels is None else trial.labels.astype(np.float64)
    annotated = labels[np.isfinite(labels).any(axis=1)]
    present = np.isfinite(annotated)
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = np.where(present, annotated, 0).sum(axis=0) / present.sum(axis=0)
    return means


def save_folds(folds: Sequence[Fold], path: Path, manifest: Manifest) -> None:
    """Write folds as JSON: the ids in each part, and whether all folds keep subjects apart.

    Raises:
        UnknownNameError: if a trial is not in the manifest.
    """
    disjoint = not any(_split_subjects(manifest, fold) for fold in folds)
    document = {"version": VERSION, "disjoint": disjoint, "folds": [asdict(fold) for fold in folds]}
    write_document(path, _FoldsDocument, document)


def load_folds(path: Path, manifest: Manifest) -> tuple[Fold, ...]:
    """Read folds from `save_folds`, or written in that form by another program or a person.

    Raises:
        MissingFileError: if there is no such file.
        UnknownNameError: if a trial is not in the manifest.
        CorpusError: if the file is damaged, a trial is in two parts of a fold, or the file says `disjoint` and a subject
            is in two parts.
        SettingError: if a training or validation part is empty.
    """
    remedy = "Fix a file of your own; run 'avfusion train' again for 'work/models' ('avfusion matrix' for its own)."
    document = read_document(path, _FoldsDocument, remedy, CorpusError)
    if document is None:
        raise MissingFileError(f"No folds in '{path}'. Check the path, or leave 'folds.path' empty.")
    parts = [(entry["index"], {part: list(map(str, entry[part])) for part in _PARTS}) for entry in document.folds]
    return tuple(make_fold(manifest, index, disjoint=document.disjoint, **ids) for index, ids in parts)
