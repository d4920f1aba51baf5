"""Principal components of embeddings, fitted on the training trials of a fold only [Ross2008].

    z = (x - mean) V^T,    V (n, D) the first n components of the valid frames

Rows of invalid frames stay zero. Moments are measured afterwards, on z.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cache.errors import ShapeError
from cache.names import require_known
from cache.store.store import FeatureStore


@dataclass(frozen=True, eq=False)
class Projection:
    """Principal components of one modality.

    Attributes:
        mean: (D,) float32.
        components: (n, D) float32, orthonormal rows.
    """

    mean: Tensor
    components: Tensor

    def apply(self, rows: Tensor, valid: Tensor) -> Tensor:
        """Project rows (T, D) of any float type to (T, n) float32, zero where not valid (T,).

        Raises:
            ShapeError: if D differs from that of the components.
        """
        if rows.shape[1:] != self.mean.shape:
            raise ShapeError(
                f"Embeddings have shape {tuple(rows.shape)}, expected (T, {len(self.mean)}), on which the components were "
                "fitted. Train again."
            )
        centred = rows.float() - self.mean.to(rows.device)
        return (centred @ self.components.to(rows.device).T).masked_fill_(~valid[:, None], 0)


def fit_projections(
    stores: Mapping[str, FeatureStore], trial_ids: Sequence[str], numbers: Mapping[str, int]
) -> dict[str, Projection]:
    """Fit principal components over the memory maps, without loading all features into memory.

    Args:
        stores: modality → its features.
        trial_ids: the fold's training trials.
        numbers: modality → number of components; modalities without one keep their embeddings.

    Raises:
        UnknownNameError: if there is no such modality.
        SettingError: if the number of components exceeds that of dimensions or valid frames.
    """
    from cache.store.moments import fit_pca

    projections = {}
    for modality, number in sorted(numbers.items()):
        require_known("modality of 'pca'", modality, stores)
        fitted = fit_pca(stores[modality], trial_ids, number)
        projections[modality] = Projection(torch.from_numpy(fitted.mean), torch.from_numpy(fitted.components))
    return projections
