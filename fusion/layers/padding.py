"""Padding of windows: find it, and clear it for models that look beyond a single frame."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from cache.errors import ShapeError
from fusion.model import Inputs


def find_inside(inputs: Inputs) -> Tensor | None:
    """(B, L) true where a frame lies inside its window; None, at no cost, if no window has padding."""
    first = next(iter(inputs.embeddings.values()))
    return inside_of(inputs.lengths, first.shape[1], first.device)


def inside_of(lengths: Tensor, num_frames: int, device: torch.device) -> Tensor | None:
    """The same of windows of `lengths` (B,) frames, padded to `num_frames`."""
    if int(lengths.min()) >= num_frames:
        return None
    return torch.arange(num_frames, device=device) < lengths.to(device)[:, None]


def clear_padding(inputs: Inputs, modalities: Iterable[str]) -> dict[str, Tensor]:
    """Embeddings (B, L, D) of these modalities with padding set to zero; the inputs are not modified."""
    inside = find_inside(inputs)
    if inside is None:
        return {modality: inputs.embeddings[modality] for modality in modalities}
    outside = ~inside[:, :, None]
    return {modality: inputs.embeddings[modality].masked_fill(outside, 0.0) for modality in modalities}


def require_length(name: str, inputs: Inputs, length: int) -> None:
    """Check the window length for a model with weights of `length` x `length`.

    Raises:
        ShapeError: if the windows have another length.
    """
    got = next(iter(inputs.embeddings.values())).shape[1]
    if got != length:
        raise ShapeError(
            f"Model '{name}' got windows of {got} frames, expected {length}. Pad them, or change the model's 'length'."
        )
