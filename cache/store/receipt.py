"""Receipts: what a finished extraction made, as one small deterministic file.

Same inputs, same bytes, whatever else the store holds, whoever was killed on the way. Later stages depend on the
receipt and never on the shared folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cache.documents.documents import Document, NumFrames, Part, SpecPart, read_document, write_document, write_file
from cache.errors import FingerprintError, MissingFileError, VersionError
from cache.places.folders import Where, split_place
from cache.recipe import FeatureSpec
from cache.store.feature_sets import store_of
from cache.store.records import VERSION
from cache.store.store import FeatureStore


class _EntryPart(Part):
    source: str
    embeddings: str
    num_frames: NumFrames
    runtime: str = ""


class _ReceiptDocument(Document):
    version: int
    fingerprint: str
    spec: SpecPart
    trials: dict[str, _EntryPart]

    def check(self) -> None:
        """Refuse a recipe that does not hash to the fingerprint."""
        if self.spec.spec.fingerprint != self.fingerprint:
            raise ValueError(f"its recipe does not hash to '{self.fingerprint[:12]}'")


_UNREAD = b'{"unread": true}\n'


@dataclass(frozen=True)
class ReceiptEntry:
    """One trial.

    Attributes:
        source: digest of what was read.
        embeddings: digest of what was stored.
        num_frames: T.
        runtime: what computed it, "" where that is not known; another runtime gives the same to a tolerance.
    """

    source: str
    embeddings: str
    num_frames: int
    runtime: str = field(default="", compare=False)


@dataclass(frozen=True)
class Receipt:
    """What an extraction made: the recipe and, per trial, the digests."""

    spec: FeatureSpec
    trials: dict[str, ReceiptEntry]

    @classmethod
    def of(cls, store: FeatureStore, trial_ids: Iterable[str]) -> Receipt:
        """The receipt of finished trials of a store.

        Raises:
            StoreError: if one of them is not finished.
        """
        wanted = sorted(trial_ids)
        found = store.find_records(wanted)
        records = {trial_id: found.get(trial_id) or store.record(trial_id) for trial_id in wanted}
        entries = {
            trial_id: ReceiptEntry(r.source, r.embeddings, r.num_frames, r.versions.get("runtime", ""))
            for trial_id, r in records.items()
        }
        return cls(store.spec, entries)

    def save(self, path: Where) -> None:
        """Write the receipt, replacing an older one at once; one of the same content stays as it is."""
        document = {
            "version": VERSION,
            "fingerprint": self.spec.fingerprint,
            "spec": self.spec.to_document(),
            "trials": {trial_id: vars(entry) for trial_id, entry in sorted(self.trials.items())},
        }
        write_document(path, _ReceiptDocument, document, sort_keys=True)

    @classmethod
    def load(cls, path: Where) -> Receipt:
        """Read what `save` wrote.

        Raises:
            MissingFileError: if there is none, or it says that nothing was extracted.
            StoreError: if it is damaged, edited or of a newer version.
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
            raise VersionError(f"Receipt '{path}' was written by a newer program. Update avfusion.")
        trials = {trial_id: ReceiptEntry(**vars(entry)) for trial_id, entry in document.trials.items()}
        return cls(document.spec.spec, trials)


def save_unread(path: Where) -> None:
    """Write a receipt that says that no system reads these features; one that says so stays as it is."""
    write_file(path, _UNREAD)


def is_unread(path: Where) -> bool:
    """Whether a receipt is there that says so."""
    folder, name = split_place(path)
    return folder.read(name) == _UNREAD


def open_receipt(path: Where) -> tuple[FeatureStore, Receipt]:
    """The store of a receipt, checked to hold just what the receipt names.

    Raises:
        MissingFileError: if receipt or store is absent.
        StoreError: if a trial of the receipt is unfinished.
        FingerprintError: if a trial was made from other sources or has other embeddings than the receipt says.
    """
    receipt = Receipt.load(path)
    store = FeatureStore(store_of(path), receipt.spec.fingerprint)
    found = Receipt.of(store, receipt.trials)
    stale = [trial_id for trial_id, entry in receipt.trials.items() if found.trials[trial_id] != entry]
    if stale:
        raise FingerprintError(
            f"{len(stale)} of {len(receipt.trials)} trials in '{store.path}' are not those of receipt '{path}' "
            f"(first: '{stale[0]}'). Run 'extract-features --backbone {Path(split_place(path)[1]).stem}' again."
        )
    return store, receipt
