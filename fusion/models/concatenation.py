"""Early fusion, a baseline: one temporal convolutional network [Bai2018TCN] over concatenated embeddings.

    values = tanh(W BN(TCN([x_m for all m])) + b)

with the modalities in alphabetical order; see `fusion.layers.tcn` for the equations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from fusion.layers.padding import find_inside
from fusion.layers.tcn import Branch
from fusion.model import Estimate, FusionModel, Inputs
from fusion.settings import check_branches


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are those of LFAN's visual branch.

    Attributes:
        channels: widths of the temporal levels.
        kernel: frames of a temporal convolution.
        dropout: in the temporal levels, 0 to 1.
    """

    channels: tuple[int, ...] = (256, 256, 128, 128)
    kernel: int = 5
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_branches("concatenation", self, {}, {})


class Concatenation(FusionModel):
    """One causal network over the concatenated embeddings."""

    config: Config

    def __init__(self, dims: Mapping[str, int], targets: tuple[str, ...], config: Config) -> None:
        super().__init__(dims, targets, config)
        self.branch = Branch(sum(self.dims.values()), config.channels, config.kernel, config.dropout)
        self.history = self.branch.history
        self.regress = nn.Linear(self.branch.dim, len(self.targets))

    def forward(self, inputs: Inputs) -> Estimate:
        """(B, L, D) per modality → values (B, L, C) in [-1, 1]."""
        features = torch.cat([inputs.embeddings[modality] for modality in self.dims], dim=-1)
        return Estimate(self.regress(self.branch(features, find_inside(inputs))).tanh())
