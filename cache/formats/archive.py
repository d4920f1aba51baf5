"""Archives: one fingerprint in its own folder of features, with its receipt, every chunk compressed with zstd.

An archive can be read, verified and used for training like any folder of features, but more slowly, through zarr.
Importing it restores the uncompressed store.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from cache.errors import CorpusError, MissingFileError, StoreError, VersionError
from cache.formats.interchange import Bundle, Format, Item, read_item
from cache.store.feature_sets import find_set, locate_set, name_of
from cache.store.receipt import Receipt, open_receipt
from cache.store.store import FeatureStore
from cache.store.verification import list_holdings


def _write(path: Path, origin: FeatureStore, items: Iterable[Item]) -> None:
    place = locate_set(path, name_of(origin.path))
    store = FeatureStore.create(place.store, origin.recipe)
    for item in items:
        assert item.record is not None
        record = item.record
        store.write(
            item.trial_id,
            item.embeddings,
            item.valid,
            source=record.source,
            clock=record.clock,
            versions=record.versions,
            compressed=True,
        )
    Receipt.of(store, store.trial_ids()).save(place.receipt)


def _read(path: Path) -> Bundle:
    holdings = list_holdings(path)
    if len(holdings) != 1:
        found = ", ".join(holding.fingerprint[:12] for holding in holdings) or "none"
        raise CorpusError(
            f"'{path}' holds {len(holdings)} fingerprints ({found}), expected 1: the folder that 'avfusion cache export "
            "--to zstd' made. Name that one."
        )
    try:
        store, receipt = open_receipt(find_set(path, name_of(holdings[0].path)).receipt)
    except VersionError:
        raise
    except (MissingFileError, StoreError) as error:
        raise StoreError(f"Archive '{path}' was altered since it was exported: {error} Or export it again.") from error

    return Bundle(store.recipe, sorted(receipt.trials), partial(read_item, store), name_of(store.path))


ZSTD = Format(_write, _read)
