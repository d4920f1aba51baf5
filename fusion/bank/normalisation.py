"""Normalisation: mean and standard deviation of every embedding dimension, measured on training trials only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cache.errors import SettingError

_CONSTANT = 1e-6  # a standard deviation below this share of the mean is rounding noise: the dimension is constant


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of one modality over the valid frames of a fold's training trials.

    Attributes:
        mean: (D,) float32.
        std: (D,) float32, population form; 0 if a dimension never varies.
    """

    mean: Tensor
    std: Tensor

    def to(self, device: torch.device) -> Moments:
        """The same on a device."""
        return Moments(self.mean.to(device), self.std.to(device))

    @cached_property
    def scale(self) -> Tensor:
        """(D,) the standard deviation; 1 for constant dimensions, which are only centred."""
        varies = self.std > _CONSTANT * self.mean.abs() + 1e-12
        return torch.where(varies, self.std, torch.ones_like(self.std))

    def simplified(self, how: str) -> Moments:
        """The moments for a coarser normalisation: "dimension" (as they are), "scalar" (of all numbers together), or "none"."""
        if how == "none":
            return Moments(torch.zeros_like(self.mean), torch.ones_like(self.std))
        if how == "dimension":
            return self
        mean = self.mean.double().mean()
        square = (self.std.double().square() + self.mean.double().square()).mean()
        std = (square - mean.square()).clamp_min(0).sqrt()
        return Moments(torch.full_like(self.mean, float(mean)), torch.full_like(self.std, float(std)))

    def normalise_(self, rows: Tensor, valid: Tensor, dtype: torch.dtype) -> Tensor:
        """Normalise in place: (x - mean) / scale, clipped to the range of a type, zero where not valid.

        Args:
            rows: (F, D) float32, on the device of the moments.
            valid: (F,).
            dtype: the type in which the rows will be stored.
        """
        largest = torch.finfo(dtype).max
        rows.sub_(self.mean).div_(self.scale)
        if largest < torch.finfo(rows.dtype).max:
            rows.clamp_(-largest, largest)
        return rows if bool(valid.all()) else rows.masked_fill_(~valid[:, None], 0)


def measure_moments(modality: str, trials: Iterable[tuple[Tensor, Tensor]]) -> Moments:
    """Stream over trials, in float64, merging pairwise [Chan1983].

    Args:
        modality: for error messages.
        trials: embeddings (T, D) and valid (T,) of each trial.

    Raises:
        SettingError: if no frame is valid.
    """
    count = 0
    mean = square = torch.zeros(())
    for embeddings, valid in trials:
        frames = embeddings[valid].double()
        if len(frames) == 0:
            continue
        centre = frames.mean(dim=0)
        spread = (frames - centre).square().sum(dim=0)
        total = count + len(frames)
        delta = centre - mean
        square = square + spread + delta.square() * (count * len(frames) / total)
        mean = mean + delta * (len(frames) / total)
        count = total
    if count == 0:
        raise SettingError(
            f"Modality '{modality}' has no valid frame in the training trials. Leave it out, or check its extraction."
        )
    return Moments(mean.float(), (square / count).sqrt().float())
