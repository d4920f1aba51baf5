"""The partition to evaluate, and what its folds have of it: trials, and labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cache.corpus.folds import Fold
from cache.corpus.manifest import PARTITIONS, Manifest
from cache.errors import CorpusError
from pipelines.project.params import AUTO


def find_lacking(folds: Sequence[Fold], manifest: Manifest) -> dict[str, list[int]]:
    """Partition → numbers of the folds without a labelled trial in it."""
    labelled = {trial.id for trial in manifest.trials if trial.labels is not None and np.isfinite(trial.labels).any()}
    return {name: [fold.index for fold in folds if labelled.isdisjoint(fold.part(name))] for name in PARTITIONS}


def choose_partition(asked: str, folds: Sequence[Fold], manifest: Manifest) -> str:
    """The partition to predict.

    Args:
        asked: train, validation, test, or auto: test if every fold has labelled trials in it, else validation.
        folds: the trained folds.
        manifest: the corpus.

    Raises:
        CorpusError: if a fold has no trial in the partition.
    """
    chosen = asked if asked != AUTO else "validation" if find_lacking(folds, manifest)["test"] else "test"
    empty = {name: [fold.index for fold in folds if not fold.part(name)] for name in PARTITIONS}
    if empty[chosen]:
        present = [name for name in PARTITIONS if not empty[name]]
        raise CorpusError(
            f"evaluate.partition is '{chosen}', but {_have(empty[chosen])} no trial in it; all have some in "
            f"{' and '.join(present)}. Set it to {' or '.join([AUTO, *present])}."
        )
    return chosen


def say_unscored(partition: str, folds: Sequence[Fold], manifest: Manifest) -> str:
    """Which folds have a partition without labels, and what to set for scores; "" if none has."""
    lacking = find_lacking(folds, manifest)
    if not lacking[partition]:
        return ""
    present = [name for name, without in lacking.items() if not without]
    return (
        f"Partition '{partition}' can only be predicted, not scored, where it has no labels: {_have(lacking[partition])} no "
        f"labelled trial in it; all have some in {' and '.join(present) or 'no partition'}. For scores, set evaluate.partition "
        f"to {' or '.join([AUTO, *present])}."
    )


def say_untrainable(manifest: Manifest) -> str:
    """Why nothing can be trained on a corpus, and what to do, before hours are spent on its features; "" if it can."""
    subjects = {t.subject for t in manifest.trials if t.labels is not None and np.isfinite(t.labels).any()}
    if not subjects:
        return (
            "No trial has labels, so models can predict these trials but not be trained on them. Add the labels, and build "
            "the corpus again."
        )
    if len(subjects) == 1:
        return (
            f"Only subject '{next(iter(subjects))}' has labels, but training and validation need different subjects. Label "
            "another one; if the trials show several people, say so where the corpus names subjects."
        )
    return ""


def _have(folds: Sequence[int]) -> str:
    return f"fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))} {'have' if len(folds) > 1 else 'has'}"
