"""Padding that counts as input, as in the code of [Zhang2023]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fusion.bank.batches import Batch
from fusion.bank.normalisation import Moments
from fusion.layers.padding import inside_of


def padding_rows(moments: Mapping[str, Moments]) -> dict[str, Tensor]:
    """Modality → (D,), zero embeddings after normalisation: the padding of [Zhang2023]'s code."""
    rows = {}
    for modality, own in moments.items():
        zero = torch.zeros_like(own.mean)[None]
        rows[modality] = own.normalise_(zero, torch.ones(1, dtype=torch.bool, device=zero.device), zero.dtype)[0]
    return rows


def count_padding(batch: Batch, rows: Mapping[str, Tensor]) -> Batch:
    """The batch as [Zhang2023]'s code sees it: padding is ordinary input and counts with targets 0.

    Frames inside a trial stay out of the mask of each target for which they are not annotated.

    Args:
        batch: its embeddings are overwritten in padding.
        rows: modality → (D,), the value of padding; see `padding_rows`.
    """
    inside = inside_of(batch.lengths, batch.mask.shape[1], batch.mask.device)
    if inside is None:
        return batch
    outside = ~inside
    for modality, embeddings in batch.embeddings.items():
        embeddings[outside] = rows[modality].to(embeddings)
    return replace(
        batch,
        valid={modality: valid | outside for modality, valid in batch.valid.items()},
        mask=batch.mask | outside[:, :, None],
        lengths=torch.full_like(batch.lengths, batch.mask.shape[1]),
    )
