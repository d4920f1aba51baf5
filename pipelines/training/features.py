"""The features that a system reads: its stores, and the bank of each fold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cache.corpus.folds import Fold
from cache.corpus.manifest import Manifest
from cache.errors import MissingFileError, with_full_stop
from cache.places.folders import Where, is_file
from cache.settings import expected_one_of
from cache.store.feature_sets import find_set, list_sets
from cache.store.receipt import open_receipt
from cache.store.store import FeatureStore
from pipelines.project.jobs import available_cores
from pipelines.project.params import FusionParams, SystemParams

if TYPE_CHECKING:
    from fusion.bank.bank import Bank


def open_stores(
    features: Where, modalities: Mapping[str, str], manifest: Manifest, fold: Fold
) -> dict[str, FeatureStore]:
    """The stores of a system's modalities, checked against their receipts and the manifest.

    Args:
        features: folder or URL of all features.
        modalities: the system's name for a modality → feature set.
        manifest: of the corpus.
        fold: whose features are wanted, where the weights behind them belong to folds.

    Raises:
        MissingFileError: if there is no such feature set, or a trial of the manifest is missing.
        FingerprintError: if a store differs from its receipt.
    """
    stores = {}
    for modality, name in modalities.items():
        path = find_set(features, name).receipt
        if not is_file(path):
            expected = expected_one_of(name, sorted({found.name for found in list_sets(features)}))
            raise MissingFileError(
                f"Modality '{modality}' of a system reads feature set '{name}', which does not exist (no '{path}'); "
                f"{with_full_stop(expected)} Run 'extract-features --backbone {name}', or import it with "
                "this name."
            )
        store, receipt = open_receipt(path, fold.index)
        absent = [trial.id for trial in manifest.trials if trial.id not in receipt.trials]
        if absent:
            raise MissingFileError(
                f"{len(absent)} of {len(manifest.trials)} trials are not in receipt '{path}' (first: '{absent[0]}'). "
                f"Run 'extract-features --backbone {name}'."
            )
        stores[modality] = store
    return stores


class Banks:
    """The bank of a system's features in each fold, with all trials; folds of the same features share one."""

    def __init__(self, system: SystemParams, manifest: Manifest, params: FusionParams, features: Where) -> None:
        self._system, self._manifest, self._params, self._features = system, manifest, params, features
        self._made: tuple[list[str], Bank] | None = None

    def of_fold(self, fold: Fold) -> Bank:
        """The bank of a fold; the last one is kept."""
        stores = open_stores(self._features, self._system.modalities, self._manifest, fold)
        found = [store.recipe.fingerprint for store in stores.values()]
        if self._made is None or self._made[0] != found:
            self._made = found, self._load(stores)
        return self._made[1]

    def _load(self, stores: Mapping[str, FeatureStore]) -> Bank:
        from extract.engine.devices import choose_device
        from fusion.bank.bank import Bank

        trial_ids = [trial.id for trial in self._manifest.trials]
        device, memory_gb = str(choose_device(self._params.device)), self._params.bank.memory_gb
        ahead = self._params.workers * self._params.threads < available_cores()
        return Bank.from_stores(stores, self._manifest, trial_ids, device, memory_gb, ahead=ahead)


def reduce(bank: Bank, system: SystemParams, manifest: Manifest, fold: Fold, features: Where) -> Bank:
    """The bank reduced to principal components of the fold's training trials, if the system asks for them."""
    if not system.pca:
        return bank
    from fusion.bank.projection import fit_projections

    stores = open_stores(features, system.modalities, manifest, fold)
    return bank.projected(fit_projections(stores, fold.train, system.pca))
