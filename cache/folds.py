"""Folds: which trials teach, which choose the model, which are kept for the end.

No subject is ever in two of them, so that no face or voice is learned before it is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cache.errors import CorpusError, SettingError
from cache.manifest import Manifest, Trial


@dataclass(frozen=True)
class Fold:
    """One division of a corpus.

    Attributes:
        index: number of the fold, from 0.
        train: ids of the trials that weights and statistics are learned from.
        validate: ids of the trials that the best epoch is chosen on.
        test: ids of the trials kept for the end; may be empty.
    """

    index: int
    train: tuple[str, ...]
    validate: tuple[str, ...]
    test: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.train or not self.validate:
            raise SettingError(
                f"Fold {self.index} has {len(self.train)} training and {len(self.validate)} validation trials; "
                "expected at least 1 of each. Choose another fold or number of folds."
            )


def make_fold(
    manifest: Manifest, index: int, train: Sequence[str], validate: Sequence[str], test: Sequence[str] = ()
) -> Fold:
    """A fold of these trials, refused if two parts share a subject.

    Args:
        manifest: the corpus that the ids belong to.
        index: number of the fold.
        train: trial ids, as `validate` and `test`.

    Raises:
        UnknownNameError: if a trial does not exist.
        CorpusError: if a subject is in two parts; the message names it.
        SettingError: if the training or the validation part is empty.
    """
    part_of: dict[str, str] = {}
    faults = []
    for part, ids in (("train", train), ("validate", validate), ("test", test)):
        for subject in sorted({manifest.trial(trial_id).subject for trial_id in ids}):
            earlier = part_of.setdefault(subject, part)
            if earlier != part:
                faults.append(f"subject '{subject}' is in '{earlier}' and in '{part}'")
    if faults:
        raise CorpusError(
            f"Fold {index} splits a subject: {'; '.join(faults)}. Put all trials of a subject in one part, or use grouped folds."
        )
    return Fold(index, tuple(sorted(train)), tuple(sorted(validate)), tuple(sorted(test)))


def partition_fold(manifest: Manifest) -> Fold:
    """The corpus's own partition, as fold 0.

    Raises:
        CorpusError: if some trials have a partition and others none, or a subject is in two partitions.
        SettingError: if the corpus has no training or no validation trials.
    """
    parts = {
        name: [trial.id for trial in manifest.trials if trial.partition == name]
        for name in ("train", "validation", "test", "")
    }
    if parts[""] and len(parts[""]) < len(manifest.trials):
        raise CorpusError(
            f"{len(parts[''])} trials have no partition, e.g. '{parts[''][0]}'; expected all or none. Mend the corpus or use grouped folds."
        )
    if not parts["train"] or not parts["validation"]:
        raise SettingError(
            "The corpus has no partitions of its own (train and validation). Ask for grouped folds instead."
        )
    return make_fold(manifest, 0, parts["train"], parts["validation"], parts["test"])


def grouped_folds(manifest: Manifest, n: int, seed: int) -> tuple[Fold, ...]:
    """Subject-disjoint folds of about equal numbers of trials; each is the validation part of one fold.

    Trials of partition "test" are the test part of every fold; all others take part in the rotation.

    Args:
        manifest: the corpus.
        n: number of folds, from 2 to the number of subjects.
        seed: of the division of subjects.

    Raises:
        SettingError: if there are fewer subjects than folds.
        CorpusError: if a subject of the test partition is also in the rest.
    """
    from sklearn.model_selection import GroupKFold

    pool: list[Trial] = [trial for trial in manifest.trials if trial.partition != "test"]
    test = [trial.id for trial in manifest.trials if trial.partition == "test"]
    subjects = [trial.subject for trial in pool]
    if not 2 <= n <= len(set(subjects)):
        raise SettingError(
            f"{n} folds of {len(set(subjects))} subjects; expected 2 to {len(set(subjects))} folds. Lower the number of folds."
        )
    divisions = GroupKFold(n_splits=n, shuffle=True, random_state=seed).split(pool, groups=subjects)
    return tuple(
        make_fold(manifest, index, [pool[i].id for i in train], [pool[i].id for i in validate], test)
        for index, (train, validate) in enumerate(divisions)
    )
