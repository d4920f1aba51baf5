"""Joint cross-attention (JCA) [Praveen2023JCA], directly on the embeddings.

With X_m (L x d_m) the embeddings of modality m and J (L x d) their concatenation, to which every modality attends:

    C_m = tanh(X_m^T W_jm J / sqrt(d))            (d_m x d), W_jm L x L         joint correlation
    H_m = relu(W_cm C_m^T + W_m X_m)              (k x d_m), W_cm k x d, W_m k x L   attention maps
    Y_m = W_hm^T H_m + X_m                        (L x d_m), W_hm k x L         attended features
    values = V drop(relu(U [Y_m for all m] + u)) + v

None of the four W has a bias. As some have a dimension of L, the model only accepts windows of `length` frames, by
default the 16 of the paper. Padding is set to zero at the input, so its content has no influence. The output is not
squashed.

Deviations: [Praveen2023JCA] has audio and visual; here any set works. In the authors' code of these equations the
regressor mistakenly gets the visual features and the attended visual ones, and has no relu; here it gets all attended
features as in the paper, with the relu of their larger model. That model (spatial attention on a two-stream backbone,
bidirectional LSTM after the fusion) is not implemented. A frame in [Praveen2023JCA] is a clip of 8 images, and the
backbone is trained jointly; here frames are frames.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cache.settings import check_ranges
from fusion.layers.padding import clear_padding, require_length
from fusion.model import ByModality, Estimate, FusionModel, Inputs


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are those of the authors' code.

    Attributes:
        length: frames of every window, L.
        d_attention: rows of the attention maps, k.
        d_hidden: width of the regressor.
        dropout: in the regressor, 0 to 1.
    """

    length: int = 16
    d_attention: int = 32
    d_hidden: int = 128
    dropout: float = 0.6

    def __post_init__(self) -> None:
        ranges = dict.fromkeys(("length", "d_attention", "d_hidden"), (1, 65536))
        check_ranges("model 'joint_cross_attention'", self, {**ranges, "dropout": (0, 1)}, {})


class JointAttention(nn.Module):
    """One modality's attention to the joint features."""

    def __init__(self, dim_joint: int, length: int, d_attention: int) -> None:
        super().__init__()
        self.time = nn.Linear(length, length, bias=False)
        self.correlation = nn.Linear(dim_joint, d_attention, bias=False)
        self.feature = nn.Linear(length, d_attention, bias=False)
        self.attended = nn.Linear(d_attention, length, bias=False)

    def forward(self, x: Tensor, joint: Tensor) -> Tensor:
        """x (B, L, d_m), joint (B, L, d) → (B, L, d_m)."""
        columns = x.transpose(1, 2)
        correlation = (self.time(columns) @ joint / math.sqrt(joint.shape[-1])).tanh()
        maps = (self.correlation(correlation) + self.feature(columns)).relu()
        return x + self.attended(maps).transpose(1, 2)


class JointCrossAttention(FusionModel):
    """Attention of every modality to all of them; 199,425 parameters at audio 512 + visual 512 with one target."""

    config: Config

    def __init__(self, dims: Mapping[str, int], targets: tuple[str, ...], config: Config) -> None:
        super().__init__(dims, targets, config)
        self.fixed_length = config.length
        width = sum(self.dims.values())
        self.attention = ByModality(
            {modality: JointAttention(width, config.length, config.d_attention) for modality in self.dims}
        )
        self.regress = nn.Sequential(
            nn.Linear(width, config.d_hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.d_hidden, len(self.targets)),
        )
        for linear in (module for module in self.modules() if isinstance(module, nn.Linear)):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, inputs: Inputs) -> Estimate:
        """(B, `length`, D) per modality → values (B, `length`, C).

        Raises:
            ShapeError: if the windows have another length.
        """
        require_length("joint_cross_attention", inputs, self.config.length)
        features = clear_padding(inputs, self.dims)
        joint = torch.cat(list(features.values()), dim=-1)
        attended = [attention(features[modality], joint) for modality, attention in self.attention.items()]
        return Estimate(self.regress(torch.cat(attended, dim=-1)))
