"""The feature store and the basic types shared by both stages: trials, clocks, recipes, windows, folds.

Imports numpy, zarr, dask.array, h5py and scikit-learn, never torch, media libraries or click.
"""

from cache.names import exports

_NAMES = {
    "Fold": "cache.corpus.folds",
    "FrameClock": "cache.clock",
    "FeatureStore": "cache.store.store",
    "Manifest": "cache.corpus.manifest",
    "Target": "cache.targets",
    "Trial": "cache.corpus.manifest",
    "open_receipt": "cache.store.receipt",
}
__all__ = list(_NAMES)
__getattr__ = exports(_NAMES)
