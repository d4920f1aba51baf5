"""The folds that a project trains, and the checks that nothing has learned from trials that they keep apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from cache.corpus.folds import Fold, load_folds, make_folds
from cache.corpus.manifest import PARTITIONS, Manifest
from cache.errors import LeakError, SettingError
from cache.places.folders import Where, is_file
from cache.store.feature_sets import find_set
from cache.store.receipt import Receipt
from pipelines.project.finetuned import refuse_leak
from pipelines.project.params import FoldParams, SystemParams


def choose_folds(params: FoldParams, manifest: Manifest) -> tuple[Fold, ...]:
    """The folds to train.

    Raises:
        SettingError: if there is no fold with this number.
        AvFusionError: whatever dividing the corpus or reading a file of folds raises.
    """
    if params.path:
        folds = load_folds(Path(params.path), manifest)
    else:
        folds = make_folds(manifest, params.kind, params.count, params.seed, params.disjoint)
    if not -1 <= params.number < len(folds):
        raise SettingError(
            f"fusion.folds.number is {params.number}, expected 0 to {len(folds) - 1}, or -1 for all. Change params.yaml."
        )
    return folds if params.number == -1 else (folds[params.number],)


def refuse_copies(folds: Sequence[Fold], manifest: Manifest) -> None:
    """Check that no trial is learned from whose copy a fold keeps apart. Trials with the same labels are copies of one another.

    Raises:
        LeakError: names the fold and the first two of these trials.
    """
    for fold in folds:
        seen: dict[str, tuple[str, str]] = {}
        for part in PARTITIONS:
            for trial_id in fold.part(part):
                if not (digest := manifest.trial(trial_id).labels_digest):
                    continue
                copied, place = seen.setdefault(digest, (trial_id, part))
                if place != part:
                    raise LeakError(
                        f"Trials '{copied}' and '{trial_id}' have the same labels, so they are copies of one recording, but fold "
                        f"{fold.index} has one in its part '{place}' and the other one in '{part}': figures would be too good. "
                        "Put both in one partition, or leave one out."
                    )


def refuse_leaks(
    systems: Mapping[str, SystemParams], folds: Sequence[Fold], manifest: Manifest, features: Where
) -> None:
    """Check that no fold keeps trials apart that the backbones behind a system's features have seen.

    Raises:
        LeakError: names the feature set, the fold and the first of these trials.
        StoreError: if a receipt is damaged.
    """
    for name in dict.fromkeys(name for system in systems.values() for name in system.modalities.values()):
        path = find_set(features, name).receipt
        if not is_file(path):  # reported where it is opened
            continue
        receipt = Receipt.load(path)
        for fold in folds:
            own = receipt.of_fold(fold.index)
            what = f"the backbone of feature set '{name}'"
            refuse_leak(own.recipe.provenance, fold, manifest, partial(_source_of, own), what)


def _source_of(receipt: Receipt, trial_id: str) -> str:
    """Digest of what the backbone read of a trial; "" if it is not in the receipt."""
    return receipt.trials[trial_id].source if trial_id in receipt.trials else ""
