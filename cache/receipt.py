"""Receipts: what a finished extraction made, as one small deterministic file.

Same inputs, same bytes, whatever else the store holds, whoever was killed on the way. Later stages depend on the
receipt and never on the shared folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cache.errors import FingerprintError, MissingFileError, StoreError
from cache.spec import FeatureSpec
from cache.store import VERSION, FeatureStore


@dataclass(frozen=True)
class ReceiptEntry:
    """One trial: digests of what was read and of what was stored, and T."""

    source: str
    embeddings: str
    num_frames: int


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
        records = {trial_id: store.record(trial_id) for trial_id in sorted(trial_ids)}
        return cls(store.spec, {i: ReceiptEntry(r.source, r.embeddings, r.num_frames) for i, r in records.items()})

    def save(self, path: Path) -> None:
        """Write the receipt, replacing an older one at once."""
        document = {
            "version": VERSION,
            "fingerprint": self.spec.fingerprint,
            "spec": self.spec.to_document(),
            "trials": {trial_id: vars(entry) for trial_id, entry in sorted(self.trials.items())},
        }
        write_text(path, json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n")

    @classmethod
    def load(cls, path: Path) -> Receipt:
        """Read what `save` wrote.

        Raises:
            MissingFileError: if there is none.
            StoreError: if it is damaged, edited or of a newer version.
        """
        if not path.is_file():
            raise MissingFileError(
                f"No receipt '{path}'. Run the extraction first: 'extract-features --backbone {path.stem}'."
            )
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            spec = FeatureSpec.from_document(document["spec"])
            trials = {trial_id: ReceiptEntry(**entry) for trial_id, entry in document["trials"].items()}
            version, named = document["version"], document["fingerprint"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"Receipt '{path}' is damaged ({error}). Run the extraction again; it reuses what is finished."
            ) from error
        if version > VERSION or named != spec.fingerprint:
            raise StoreError(f"Receipt '{path}' was edited or written by a newer program. Run the extraction again.")
        return cls(spec, trials)


def open_receipt(path: Path) -> tuple[FeatureStore, Receipt]:
    """The store beside a receipt, checked to hold just what the receipt names.

    Raises:
        MissingFileError: if receipt or store is absent.
        StoreError: if a trial of the receipt is unfinished.
        FingerprintError: if a trial was made from other sources or has other embeddings than the receipt says.
    """
    receipt = Receipt.load(path)
    store = FeatureStore(path.with_suffix(".zarr"), receipt.spec.fingerprint)
    found = Receipt.of(store, receipt.trials)
    stale = [trial_id for trial_id, entry in receipt.trials.items() if found.trials[trial_id] != entry]
    if stale:
        raise FingerprintError(
            f"{len(stale)} of {len(receipt.trials)} trials in '{store.path}' are not those of receipt '{path}' "
            f"(first: '{stale[0]}'). Run 'extract-features --backbone {receipt.spec.name}' again."
        )
    return store, receipt


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
