"""The features of a network among the feature sets of the project, found by what they were made of."""

from __future__ import annotations

from functools import cached_property

from cache.corpus.manifest import Manifest
from cache.errors import AvFusionError, FingerprintError
from cache.places.folders import Where
from cache.store.feature_sets import list_sets
from cache.store.receipt import Receipt, is_unread
from cache.store.store import FeatureStore
from fusion.training.checkpoint import Checkpoint
from pipelines.training.features import open_stores


class ProjectStores:
    """Finds features.

    Args:
        features: folder or URL of all features.
        manifest: the corpus, all of whose trials they must have.
    """

    def __init__(self, features: Where, manifest: Manifest) -> None:
        self._features, self._manifest = features, manifest
        self._unreadable: list[AvFusionError] = []

    def __call__(self, network: Checkpoint) -> dict[str, FeatureStore]:
        """Modality → the features that a network reads.

        Raises:
            FingerprintError: if no feature set has them.
            AvFusionError: as `open_stores`.
        """
        names = {}
        for modality, recipe in network.recipes.items():
            if recipe.fingerprint not in self._names:
                unread = f" ({' '.join(map(str, self._unreadable))})" if self._unreadable else ""
                raise FingerprintError(
                    f"No feature set in '{self._features}' has the features '{modality}' ({recipe.name}) that a network was trained on: "
                    f"backbone, weights, settings or crops are others{unread}. Run 'avfusion train' again, or extract these."
                )
            names[modality] = self._names[recipe.fingerprint]
        return open_stores(self._features, names, self._manifest, network.fold)

    @cached_property
    def _names(self) -> dict[str, str]:
        """Fingerprint → feature set, also of features that belong to a fold."""
        names: dict[str, str] = {}
        for found in list_sets(self._features):
            try:
                receipts = [] if is_unread(found.receipt) else Receipt.load(found.receipt).every()
            except AvFusionError as error:  # it concerns nobody who reads other sets
                self._unreadable.append(error)
                continue
            names |= {receipt.recipe.fingerprint: found.name for receipt in receipts}
        return names
