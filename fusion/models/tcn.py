"""Temporal convolutional network [Bai2018TCN] per modality and a linear map: the branches of LFAN without its attention.

    values = tanh(W [h_m for all m] + b),    h_m = BN(TCN_m(x_m))

With one modality it is the unimodal network of [Zhang2023]; see `fusion.layers.tcn` for the equations. With several, it simply
concatenates their hidden states (`concatenation` joins embeddings instead, and `late` joins predictions).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from fusion.layers.tcn import Branches
from fusion.model import Estimate, FusionModel, Inputs
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
        check_branches("tcn", self, {}, {})


class TemporalConvolution(FusionModel):
    """One causal network per modality; 2,215,681 parameters at visual 512 with one target."""

    config: Config

    def __init__(self, dims: Mapping[str, int], targets: tuple[str, ...], config: Config) -> None:
        super().__init__(dims, targets, config)
        self.branches = Branches(self.dims, config)
        self.history = self.branches.history
        self.regress = nn.Linear(sum(self.branches.dims.values()), len(self.targets))

    def forward(self, inputs: Inputs) -> Estimate:
        """(B, L, D) per modality → values (B, L, C) in [-1, 1]."""
        return Estimate(self.regress(torch.cat(list(self.branches(inputs).values()), dim=-1)).tanh())
