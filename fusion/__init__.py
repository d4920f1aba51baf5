"""Stage two: cached embeddings → windows → predictions. Imports `cache` and torch, never `extract`."""

from cache.names import exports

_NAMES = {
    "Bank": "fusion.bank.bank",
    "Fold": "cache.corpus.folds",
    "Target": "cache.targets",
    "TrainConfig": "fusion.settings",
    "load": "fusion.training.checkpoint",
    "predict": "fusion.training.inference",
    "train": "fusion.training.trainer",
}
__all__ = list(_NAMES)
__getattr__ = exports(_NAMES)
