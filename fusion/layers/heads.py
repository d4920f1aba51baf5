"""Layers shared by several fusion models."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from cache.names import load_named
from fusion.model import Estimate
from fusion.scores.losses import NUM_POLAR_CLASSES, has_polar_plane
from fusion.settings import ACTIVATIONS


def make_activation(name: str) -> nn.Module:
    """The activation with this name: gelu, relu or selu."""
    return cast(nn.Module, load_named("activation", ACTIVATIONS, name)())


class Heads(nn.Module):
    """Two linear heads on the same hidden state [Karas2022, Section 3.4]: targets without squashing, and polar classes.

    The second head exists only if both valence and arousal are targets; otherwise `logits` is None.
    """

    def __init__(self, dim: int, targets: tuple[str, ...]) -> None:
        super().__init__()
        self.values = nn.Linear(dim, len(targets))
        self.logits = nn.Linear(dim, NUM_POLAR_CLASSES) if has_polar_plane(targets) else None

    def forward(self, hidden: Tensor) -> Estimate:
        """(B, L, dim) → values (B, L, C), logits (B, L, 24)."""
        return Estimate(self.values(hidden), None if self.logits is None else self.logits(hidden))
