"""Receipts: a small deterministic file that lists the results of a finished extraction.

The same inputs give the same bytes, regardless of other content of the store and of killed processes. Later stages depend
on the receipt, never on the shared folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cache.documents.documents import (
    Document,
    NumberText,
    NumFrames,
    Part,
    RecipePart,
    read_document,
    write_document,
    write_file,
)
from cache.errors import FingerprintError, MissingFileError, VersionError
from cache.places.folders import Where, split_place
from cache.recipe import Recipe
from cache.store.feature_sets import store_of
from cache.store.records import VERSION, CommitRecord
from cache.store.store import FeatureStore


class _EntryPart(Part):
    source: str
    embeddings: str
    num_frames: NumFrames
    runtime: str = ""


class _FoldPart(Part):
    fingerprint: str
    spec: RecipePart
    trials: dict[str, _EntryPart]

    @property
    def receipt(self) -> Receipt:
        """The receipt itself."""
        return Receipt(
            self.spec.recipe, {trial_id: ReceiptEntry(**vars(entry)) for trial_id, entry in self.trials.items()}
        )

    def check(self) -> None:
        """Check that the recipe hashes to the fingerprint."""
        if self.spec.recipe.fingerprint != self.fingerprint:
            raise ValueError(f"its recipe does not hash to '{self.fingerprint[:12]}'")


class _ReceiptDocument(_FoldPart, Document):
    version: int
    folds: dict[NumberText, _FoldPart] | None = None


_UNREAD = b'{"unread": true}\n'


@dataclass(frozen=True)
class ReceiptEntry:
    """One trial.

    Attributes:
        source: digest of the input.
        embeddings: digest of the stored embeddings.
        num_frames: T.
        runtime: runtime that computed it, "" if unknown; results of different runtimes agree within a tolerance.
    """

    source: str
    embeddings: str
    num_frames: int
    runtime: str = field(default="", compare=False)

    @classmethod
    def of(cls, record: CommitRecord) -> ReceiptEntry:
        """The entry of a finished trial."""
        return cls(record.source, record.embeddings, record.clock.num_frames, record.versions.get("runtime", ""))


@dataclass(frozen=True)
class Receipt:
    """The result of an extraction: the recipe, and the digests of each trial.

    Attributes:
        recipe: of the features.
        trials: trial id → digests.
        folds: number of a fold → its own receipt, where weights belong to folds; all other folds have this one.
    """

    recipe: Recipe
    trials: dict[str, ReceiptEntry]
    folds: dict[int, Receipt] = field(default_factory=dict)

    def of_fold(self, fold: int) -> Receipt:
        """The receipt of a fold's features."""
        return self.folds.get(fold, self)

    def every(self) -> list[Receipt]:
        """This one and those of all folds."""
        return [self, *self.folds.values()]

    @classmethod
    def of(cls, store: FeatureStore, trial_ids: Iterable[str]) -> Receipt:
        """The receipt of finished trials of a store.

        Raises:
            StoreError: if one of them is not finished.
        """
        wanted = sorted(trial_ids)
        found = store.find_records(wanted)
        entries = {name: ReceiptEntry.of(found.get(name) or store.record(name)) for name in wanted}
        return cls(store.recipe, entries)

    def save(self, path: Where) -> None:
        """Write the receipt, replacing an older one atomically; equal content is left untouched."""
        document = {"version": VERSION, **self._document()}
        if self.folds:
            document["folds"] = {str(fold): receipt._document() for fold, receipt in sorted(self.folds.items())}
        write_document(path, _ReceiptDocument, document, sort_keys=True)

    def _document(self) -> dict[str, Any]:
        return {
            "fingerprint": self.recipe.fingerprint,
            "spec": self.recipe.to_document(),
            "trials": {trial_id: vars(entry) for trial_id, entry in sorted(self.trials.items())},
        }

    @classmethod
    def load(cls, path: Where) -> Receipt:
        """Read a saved receipt.

        Raises:
            MissingFileError: if there is none, or it says that nothing was extracted.
            StoreError: if it is damaged, edited, or has a newer version.
        """
        name = split_place(path)[1]
        if is_unread(path):
            raise MissingFileError(
                f"Receipt '{path}' says that no system reads these features, so they were not extracted. Run 'extract-features "
                f"--backbone {Path(name).stem}'."
            )
        remedy = "Run the extraction (or import) again; it reuses what is finished."
        document = read_document(path, _ReceiptDocument, remedy)
        if document is None:
            raise MissingFileError(
                f"No receipt '{path}'. Run the extraction first: 'extract-features --backbone {Path(name).stem}'."
            )
        if document.version > VERSION:
            raise VersionError(f"Receipt '{path}' was written by a newer version of avfusion. Update avfusion.")
        return replace(
            document.receipt, folds={int(fold): part.receipt for fold, part in (document.folds or {}).items()}
        )


def save_unread(path: Where) -> None:
    """Write a receipt that says that no system reads these features; an equal one is left untouched."""
    write_file(path, _UNREAD)


def is_unread(path: Where) -> bool:
    """Whether the receipt says that no system reads these features."""
    folder, name = split_place(path)
    return folder.read(name) == _UNREAD


def open_receipt(path: Where, fold: int | None = None) -> tuple[FeatureStore, Receipt]:
    """The store of a receipt, after checking that its trials match the receipt.

    Args:
        path: of the receipt.
        fold: number of the fold whose features are wanted, if that matters.

    Raises:
        MissingFileError: if receipt or store is absent.
        StoreError: if a trial of the receipt is unfinished.
        FingerprintError: if the sources or embeddings of a trial differ from the receipt.
    """
    receipt = Receipt.load(path)
    receipt = receipt if fold is None else receipt.of_fold(fold)
    store = FeatureStore(store_of(path), receipt.recipe.fingerprint)
    found = Receipt.of(store, receipt.trials)
    stale = [trial_id for trial_id, entry in receipt.trials.items() if found.trials[trial_id] != entry]
    if stale:
        raise FingerprintError(
            f"{len(stale)} of {len(receipt.trials)} trials in '{store.path}' differ from receipt '{path}' "
            f"(first: '{stale[0]}'). Run 'extract-features --backbone {Path(split_place(path)[1]).stem}' again."
        )
    return store, receipt
