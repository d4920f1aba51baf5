"""Channel attention (CAN) [Zhang2023, Section 2], the fusion block of End2You.

A branch per modality m (see `fusion.layers.tcn`) gives h_m. At every frame, with the modalities in alphabetical order:

    z = [P_m h_m + p_m for all m]                           (M width)
    w = softmax(W z + b) over all M width channels,    f = w * z
    values = tanh(V leaky(BN(U f + u)) + v)

The paper refers to End2You for the block; the equations come from the authors' code, which differs in the width (128,
not 256) and the number of modalities. The authors' networks have one output each, valence or arousal.

Deviations: a 1 x 1 convolution that the authors build but never call is left out (32,896 parameters); see
`fusion.layers.tcn` for batch normalisation and padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional

from fusion.layers.padding import find_inside
from fusion.layers.tcn import Branches, FrameNorm
from fusion.model import ByModality, Estimate, FusionModel, Inputs
from fusion.settings import check_branches


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are those of the authors' code.

    Attributes:
        channels: widths of the temporal levels of a modality that `channels_of` does not name.
        channels_of: name of a modality → widths of its temporal levels; a given mapping replaces the whole default.
        kernel: frames of a temporal convolution.
        dropout: in the temporal levels, 0 to 1.
        width: number of channels that each modality contributes to the fusion.
    """

    channels: tuple[int, ...] = (256, 256, 128, 128, 128)
    channels_of: dict[str, tuple[int, ...]] = field(
        default_factory=lambda: {"audio": (128, 128, 64, 64, 64), "text": (256, 256, 128, 128)}
    )
    kernel: int = 5
    dropout: float = 0.2
    width: int = 128

    def __post_init__(self) -> None:
        check_branches("channel_attention", self, {"width": (1, 65536)}, {})


class ChannelAttention(FusionModel):
    """Temporal branches and a softmax over all channels; 3,018,305 parameters at 512 + 128 with one target."""

    config: Config

    def __init__(self, dims: Mapping[str, int], targets: tuple[str, ...], config: Config) -> None:
        super().__init__(dims, targets, config)
        self.branches = Branches(self.dims, config)
        self.history = self.branches.history
        self.project = ByModality({m: nn.Linear(dim, config.width) for m, dim in self.branches.dims.items()})
        dim = config.width * len(self.dims)
        self.attend = nn.Linear(dim, dim)
        self.hidden = nn.Linear(dim, dim)
        self.norm = FrameNorm(dim)
        self.regress = nn.Linear(dim, len(self.targets))

    def forward(self, inputs: Inputs) -> Estimate:
        """(B, L, D) per modality → values (B, L, C) in [-1, 1]."""
        branches = self.branches(inputs)
        joined = torch.cat([linear(branches[modality]) for modality, linear in self.project.items()], dim=-1)
        fused = self.attend(joined).softmax(dim=-1) * joined
        hidden = self.norm(self.hidden(fused).transpose(1, 2), find_inside(inputs)).transpose(1, 2)
        return Estimate(self.regress(functional.leaky_relu(hidden)).tanh())
