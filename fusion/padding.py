"""Padding of windows: where it is, what models that look beyond a frame do about it, and how to make it count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cache.errors import ShapeError
from fusion.model import Inputs

if TYPE_CHECKING:
    from fusion.batches import Batch
    from fusion.moments import Moments


def find_inside(inputs: Inputs) -> Tensor | None:
    """(B, L) true where a frame lies inside its window; None where no window has padding, which costs nothing."""
    first = next(iter(inputs.embeddings.values()))
    num_frames = first.shape[1]
    if int(inputs.lengths.min()) >= num_frames:
        return None
    steps = torch.arange(num_frames, device=first.device)
    return steps < inputs.lengths.to(first.device)[:, None]


def clear_padding(inputs: Inputs, modalities: Iterable[str]) -> dict[str, Tensor]:
    """Embeddings (B, L, D) of these modalities, zero in padding whatever stood there; the inputs keep theirs."""
    inside = find_inside(inputs)
    if inside is None:
        return {modality: inputs.embeddings[modality] for modality in modalities}
    outside = ~inside[:, :, None]
    return {modality: inputs.embeddings[modality].masked_fill(outside, 0.0) for modality in modalities}


def require_length(name: str, inputs: Inputs, length: int) -> None:
    """Refuse windows that do not have the one length of a model whose weights are `length` x `length`.

    Raises:
        ShapeError: if the windows have another length.
    """
    got = next(iter(inputs.embeddings.values())).shape[1]
    if got != length:
        raise ShapeError(
            f"Model '{name}' got windows of {got} frames, expected {length}. Pad them, or change the model's 'length'."
        )


def padding_rows(moments: Mapping[str, Moments]) -> dict[str, Tensor]:
    """Modality → (D,), what zero embeddings become by normalisation: the padding of [Zhang2023]'s code."""
    rows = {}
    for modality, own in moments.items():
        zero = torch.zeros_like(own.mean)[None]
        rows[modality] = own.normalise_(zero, torch.ones(1, dtype=torch.bool, device=zero.device), zero.dtype)[0]
    return rows


def count_padding(batch: Batch, rows: Mapping[str, Tensor]) -> Batch:
    """The batch as [Zhang2023]'s code sees it: padding is input like any other, and counts with targets 0.

    Frames inside a trial that nobody annotated stay out of the mask, target by target.

    Args:
        batch: its embeddings are written to, where there is padding.
        rows: modality → (D,), what padding shall be; see `padding_rows`.
    """
    inside = find_inside(batch.inputs)
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
