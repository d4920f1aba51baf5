"""Principal components of stores that are larger than memory, trial by trial.

They must be fitted on the training trials of a fold only; the caller names these trials. Frames that the backbone never
saw are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.errors import SettingError
from cache.store.store import FeatureStore

if TYPE_CHECKING:
    import dask.array as da

_BATCH = 8192  # frames per step of the incremental fit; at least ten times the number of components


class Components(NamedTuple):
    """Principal components: `components` (n, D) and `mean` (D,), both float32; x becomes `(x - mean) @ components.T`."""

    components: NDArray[np.float32]
    mean: NDArray[np.float32]


def to_dask(store: FeatureStore, trial_ids: Sequence[str] | None = None, valid_only: bool = False) -> da.Array:
    """Trials of a store as one lazy array (F, D), trial after trial, one block each.

    Args:
        store: the features; each block opens it in the process that reads it.
        trial_ids: trials in this order; by default all, sorted.
        valid_only: leave out frames that the backbone never saw.

    Raises:
        StoreError: if a trial is unfinished.
        SettingError: if there is no trial.
    """
    import dask.array as da
    from dask import delayed

    ids = store.trial_ids() if trial_ids is None else list(trial_ids)
    found = store.find_records(ids)
    records = {trial_id: found.get(trial_id) or store.record(trial_id) for trial_id in ids}
    lengths = [
        int(records[trial_id].valid.sum()) if valid_only else records[trial_id].clock.num_frames for trial_id in ids
    ]
    if not sum(lengths):
        raise SettingError(
            f"{len(ids)} trials of '{store.group}' have no frames to use; expected at least one. Name other trials."
        )
    read = delayed(_read, pure=True)
    blocks = [
        da.from_delayed(
            read(store, trial_id, valid_only, dask_key_name=f"{trial_id}-{records[trial_id].embeddings}-{valid_only}"),
            (length, store.recipe.dim),
            np.dtype(store.recipe.dtype),
        )
        for trial_id, length in zip(ids, lengths, strict=True)
        if length
    ]
    return da.concatenate(blocks)


def fit_pca(store: FeatureStore, trial_ids: Sequence[str], n: int) -> Components:
    """Principal components of the valid frames of some trials, by incremental PCA [Ross2008], block by block.

    Args:
        store: the features.
        trial_ids: the fold's training trials; their order affects the last digits.
        n: number of components, 1 to D.

    Raises:
        StoreError: if a trial is unfinished.
        SettingError: if the number of components exceeds that of dimensions or valid frames.
    """
    from sklearn.decomposition import IncrementalPCA

    rows = to_dask(store, trial_ids, valid_only=True)
    if not 1 <= n <= min(rows.shape):
        raise SettingError(
            f"{n} principal components of {rows.shape[0]} frames with {rows.shape[1]} numbers; expected 1 to "
            f"{min(rows.shape)}. Reduce the number of components."
        )
    fit = IncrementalPCA(n)
    for batch in _batches(rows, max(_BATCH, 10 * n)):
        fit.partial_fit(batch)
    return Components(fit.components_.astype(np.float32), fit.mean_.astype(np.float32))


def _batches(rows: da.Array, size: int) -> Iterator[NDArray[np.float64]]:
    """Blocks of about `size` rows, never fewer unless there are fewer in all; one is in memory at a time."""
    number = max(1, len(rows) // size)
    edges = np.linspace(0, len(rows), number + 1).astype(int)
    for start, stop in pairwise(edges):
        yield rows[start:stop].astype(np.float64).compute(scheduler="synchronous")


def _read(store: FeatureStore, trial_id: str, valid_only: bool) -> NDArray[Any]:
    features = store.read(trial_id)
    return features.embeddings[features.valid] if valid_only else features.embeddings
