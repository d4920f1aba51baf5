"""Leader-follower attention (LFAN) [Zhang2023, Section 2 and Figure 1].

A branch per modality m (see `fusion.layers.tcn`) gives h_m of d_m values per frame. Separately for every frame and head, with
queries, keys and values of size k = modal_dim / n_heads:

    [q_m, k_m, v_m] = W_m h_m + b_m                                        (d_m → 3 modal_dim)
    A = softmax(Q K^T / sqrt(k)) over modalities (M x M),    O = A V + V
    f = LN(drop(W [O over heads, modalities, k] + b))                      (M modal_dim)
    values = tanh(U [h_leader, f] + u)

The paper gives no equations; these come from the authors' code. There is no residual around the block, no feed-forward
part and no position code. The authors' networks have one output each, valence or arousal: give one target for that.

Deviations: the leader is a setting, not the first modality; see `fusion.layers.tcn` for batch normalisation and padding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cache.errors import SettingError
from cache.names import require_known
from fusion.layers.tcn import Branches
from fusion.model import ByModality, Estimate, FusionModel, Inputs
from fusion.settings import check_branches


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are those of the authors' code.

    Attributes:
        leader: modality that bypasses the attention; empty for visual, or else the first one alphabetically.
        channels: widths of the temporal levels of a modality that `channels_of` does not name.
        channels_of: name of a modality → widths of its temporal levels; a given mapping replaces the whole default.
        kernel: frames of a temporal convolution.
        dropout: in the temporal levels, 0 to 1.
        modal_dim: number of channels that each modality contributes to the followers; a multiple of `n_heads`.
        n_heads: number of attention heads.
        dropout_fusion: before the layer normalisation, 0 to 1.
    """

    leader: str = ""
    channels: tuple[int, ...] = (256, 256, 128, 128)
    channels_of: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"audio": (64, 64, 32, 32)})
    kernel: int = 5
    dropout: float = 0.1
    modal_dim: int = 32
    n_heads: int = 2
    dropout_fusion: float = 0.1

    def __post_init__(self) -> None:
        ranges = {"modal_dim": (1, 65536), "n_heads": (1, 64), "dropout_fusion": (0, 1)}
        check_branches("leader_follower", self, ranges, {})
        if self.modal_dim % self.n_heads:
            raise SettingError(
                f"Settings of model 'leader_follower': 'modal_dim' is {self.modal_dim}, expected a multiple of "
                f"{self.n_heads} heads. Change the value."
            )


class ModalityAttention(nn.Module):
    """Attention over the modalities of one frame."""

    def __init__(self, dims: Mapping[str, int], modal_dim: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        linears = {modality: nn.Linear(dim, 3 * modal_dim) for modality, dim in dims.items()}
        for linear in linears.values():
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.project = ByModality(linears)
        self.dim = modal_dim * len(dims)
        self.mix = nn.Linear(self.dim, self.dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(self.dim)

    def forward(self, hidden: Mapping[str, Tensor]) -> Tensor:
        """{modality: (B, L, d)} → (B, L, M modal_dim)."""
        projected = [
            linear(hidden[modality]).unflatten(-1, (self.n_heads, -1)) for modality, linear in self.project.items()
        ]
        query, key, value = torch.stack(projected, dim=-2).chunk(3, dim=-1)  # each (B, L, heads, M, k)
        scores = query @ key.transpose(-1, -2) / math.sqrt(key.shape[-1])
        attended = scores.softmax(dim=-1) @ value + value
        return self.norm(self.dropout(self.mix(attended.flatten(-3))))


class LeaderFollower(FusionModel):
    """Temporal branches and attention over modalities; 5,001,153 parameters at 512 + 128 + 768 with one target."""

    config: Config

    def __init__(self, dims: Mapping[str, int], targets: tuple[str, ...], config: Config) -> None:
        super().__init__(dims, targets, config)
        if config.leader:
            require_known("leader", config.leader, self.dims)
        self.leader = config.leader or ("visual" if "visual" in self.dims else next(iter(self.dims)))
        self.branches = Branches(self.dims, config)
        self.history = self.branches.history
        self.followers = ModalityAttention(self.branches.dims, config.modal_dim, config.n_heads, config.dropout_fusion)
        self.regress = nn.Linear(self.branches.dims[self.leader] + self.followers.dim, len(self.targets))

    def forward(self, inputs: Inputs) -> Estimate:
        """(B, L, D) per modality → values (B, L, C) in [-1, 1]."""
        hidden = self.branches(inputs)
        joined = torch.cat((hidden[self.leader], self.followers(hidden)), dim=-1)
        return Estimate(self.regress(joined).tanh())
