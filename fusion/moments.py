"""Normalisation: mean and standard deviation of every embedding dimension, learned from training trials only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from cache.errors import SettingError

_CONSTANT = 1e-6  # a dimension whose spread is below this share of its mean is constant up to rounding


@dataclass(frozen=True, eq=False)
class Moments:
    """Of one modality, over the valid frames of a fold's training trials.

    Attributes:
        mean: (D,) float32.
        std: (D,) float32, population form; 0 where a dimension never varies.
    """

    mean: Tensor
    std: Tensor

    def normalise(self, embeddings: Tensor) -> Tensor:
        """(..., D), any float type → (x - mean) / std in float32; a constant dimension is only centred."""
        mean, std = self.mean.to(embeddings.device), self.std.to(embeddings.device)
        varies = std > _CONSTANT * mean.abs() + 1e-12
        return (embeddings.float() - mean) / torch.where(varies, std, torch.ones_like(std))


def measure_moments(modality: str, trials: Iterable[tuple[Tensor, Tensor]]) -> Moments:
    """Stream over trials, in float64, merging pairwise [Chan1983].

    Args:
        modality: for the message.
        trials: embeddings (T, D) and valid (T,) of each trial.

    Raises:
        SettingError: if no frame is valid.
    """
    count, mean, square = 0, torch.zeros(()), torch.zeros(())
    for embeddings, valid in trials:
        frames = embeddings[valid].double()
        if len(frames) == 0:
            continue
        centre = frames.mean(dim=0)
        spread = (frames - centre).square().sum(dim=0)
        total = count + len(frames)
        delta = centre - mean if count else torch.zeros_like(centre)
        square = (
            (square if count else torch.zeros_like(centre)) + spread + delta.square() * (count * len(frames) / total)
        )
        mean = mean + delta * (len(frames) / total) if count else centre
        count = total
    if count == 0:
        raise SettingError(
            f"Modality '{modality}' has no valid frame in the training trials. Leave it out, or check its extraction."
        )
    return Moments(mean.float(), (square / count).sqrt().float())
