"""Late fusion, a baseline: one temporal network [Bai2018TCN] per modality, whose predictions are averaged.

    values = sum_m a_m tanh(W_m BN(TCN_m(x_m)) + b_m) / sum_m a_m

a_m is 1 if a window has a valid frame of modality m, else 0, so a missing modality does not vote; if all are missing,
all vote. See `fusion.layers.tcn` for the equations of the networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fusion.layers.padding import find_inside
from fusion.layers.tcn import Branches
from fusion.model import ByModality, Estimate, FusionModel, Inputs
from fusion.settings import check_branches


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are those of LFAN's branches.

    Attributes:
        channels: widths of the temporal levels of a modality that `channels_of` does not name.
        channels_of: name of a modality → widths of its temporal levels; a given mapping replaces the whole default.
        kernel: frames of a temporal convolution.
        dropout: in the temporal levels, 0 to 1.
    """

    channels: tuple[int, ...] = (256, 256, 128, 128)
    channels_of: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"audio": (64, 64, 32, 32)})
    kernel: int = 5
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_branches("late", self, {}, {})


class LateFusion(FusionModel):
    """The mean of unimodal networks."""

    config: Config

    def __init__(self, dims: Mapping[str, int], targets: tuple[str, ...], config: Config) -> None:
        super().__init__(dims, targets, config)
        self.branches = Branches(self.dims, config)
        self.history = self.branches.history if len(self.dims) == 1 else None
        self.regress = ByModality({m: nn.Linear(dim, len(self.targets)) for m, dim in self.branches.dims.items()})

    @property
    def obstacle(self) -> str:
        """Whether a modality votes depends on the whole window."""
        if len(self.dims) == 1:
            return ""
        return "model 'late' counts a modality if it is seen anywhere in a window; train tcn or concatenation instead"

    def forward(self, inputs: Inputs) -> Estimate:
        """(B, L, D) per modality → values (B, L, C) in [-1, 1]."""
        hidden = self.branches(inputs)
        votes = torch.stack([linear(hidden[modality]).tanh() for modality, linear in self.regress.items()], dim=-1)
        return Estimate((votes * self._weights(inputs)[:, None, None]).sum(dim=-1))

    def _weights(self, inputs: Inputs) -> Tensor:
        """(B, M), rows sum to 1: equal weights for the modalities present in a window."""
        inside = find_inside(inputs)
        valid = torch.stack([inputs.valid[modality] for modality in self.dims], dim=-1)  # (B, L, M)
        present = (valid if inside is None else valid & inside[:, :, None]).any(dim=1)
        present = present | ~present.any(dim=1, keepdim=True)
        return present / present.sum(dim=1, keepdim=True)
