"""Recursive joint cross-modal attention (RCMA) [Praveen2024, Section 1.4], and RJCMA, its variant that joins all modalities.

A branch per modality m (see `fusion.layers.tcn`) gives X_m (L x d_m). The joint J_m (L x d_J) is the concatenation of the
*other* modalities, or of all (`joint`). Each iteration updates all modalities in parallel:

    C_m = drop(tanh(X_m^T W_jm J_m / sqrt(d_J)))       (d_m x d_J), W_jm L x L      [Praveen2024, Equations 2-4]
    H_m = relu(X_m W_cm C_m)                           (L x d_J)                    [Praveen2024, Equations 5-7]
    X_m ← X_m + drop(H_m W_hm)                         (L x d_m)                    [Praveen2024, Equations 8-13]

After `n_iterations`, each with its own weights, values = tanh(W [X_m for all m] + b), where [Praveen2024] says "fully
connected layers". As W_jm is L x L, the model only accepts windows of `length` frames. Padding is set to zero at the
input, as in the paper, so its content has no influence; its frames do take part in the attention, as zeros, as they do
there.

Variants: "paper" is the above. "code", the default, produced the published numbers; it has

    J_m' = P J_m + p instead of J_m,   biases on all maps,   H_m = relu(tanh(·)),   drop(relu(H_m W_hm))

`joint: all` is the authors' later code, RJCMA: J of all modalities for every branch, never projected (they compute
the projection but do not use it: 262,656 dead parameters per iteration, left out here) and
values = tanh(V leaky(BN(U x + u)) + v) with half the width between. Its branches end in 256 (visual) and 128 values:
`channels` 512, 512, 512, 256, `channels_of` 512, 512, 512, 128 for text.

Deviations: the cross-attention is initialised with Xavier's uniform distribution and zero biases as in
[Praveen2024, Section 2.2], while the authors' code uses PyTorch's defaults. Dropouts are those of the code; the paper's
are `dropout_scores` 0, `dropout_attended` .5, `dropout_head` .8. [Praveen2024] does not give the number of iterations;
the code has two. A single modality is its own joint. The authors' networks have one output each, valence or arousal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusion.layers.padding import clear_padding, find_inside, require_length
from fusion.layers.tcn import Branches, FrameNorm
from fusion.model import ByModality, Estimate, FusionModel, Inputs
from fusion.settings import check_branches

VARIANTS = ("code", "paper")
JOINTS = ("all", "others")


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are those of the authors' code.

    Attributes:
        variant: code or paper.
        joint: the modalities that each one attends to: others or all.
        length: frames of every window.
        n_iterations: number of iterations of the attention.
        channels: widths of the temporal levels of a modality that `channels_of` does not name.
        channels_of: name of a modality → widths of its temporal levels; a given mapping replaces the whole default.
        kernel: frames of a temporal convolution.
        dropout: in the temporal levels, 0 to 1.
        dropout_scores: on the correlations C, 0 to 1.
        dropout_attended: on the attended features before they are added, 0 to 1.
        dropout_head: on the features before the last linear map, 0 to 1.
    """

    variant: str = "code"
    joint: str = "others"
    length: int = 300
    n_iterations: int = 2
    channels: tuple[int, ...] = (512, 512, 512, 512)
    channels_of: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"audio": (128, 128, 128, 128)})
    kernel: int = 5
    dropout: float = 0.1
    dropout_scores: float = 0.6
    dropout_attended: float = 0.6
    dropout_head: float = 0.0

    def __post_init__(self) -> None:
        ranges = dict.fromkeys(("dropout_scores", "dropout_attended", "dropout_head"), (0, 1))
        ranges |= {"length": (1, 65536), "n_iterations": (1, 64)}
        check_branches("recursive_cross_attention", self, ranges, {"variant": VARIANTS, "joint": JOINTS})


class CrossAttention(nn.Module):
    """One modality's part of one iteration."""

    def __init__(self, dim: int, dim_joint: int, config: Config) -> None:
        super().__init__()
        self.as_code = config.variant == "code"
        projected = self.as_code and config.joint == "others"
        self.joint = nn.Linear(dim_joint, dim_joint) if projected else nn.Identity()
        self.time = nn.Linear(config.length, config.length, bias=self.as_code)
        self.feature = nn.Linear(dim, dim, bias=self.as_code)
        self.attended = nn.Linear(dim_joint, dim, bias=self.as_code)
        self.dropout_scores = nn.Dropout(config.dropout_scores)
        self.dropout_attended = nn.Dropout(config.dropout_attended)
        for linear in (module for module in self.modules() if isinstance(module, nn.Linear)):
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, joint: Tensor) -> Tensor:
        """x (B, L, d), joint (B, L, d_J) → (B, L, d)."""
        joint = self.joint(joint)
        correlation = (self.time(x.transpose(1, 2)) @ joint / math.sqrt(joint.shape[-1])).tanh()
        attention = self.feature(x) @ self.dropout_scores(correlation)
        if self.as_code:
            return x + self.dropout_attended(self.attended(attention.tanh().relu()).relu())
        return x + self.dropout_attended(self.attended(attention.relu()))


class Iteration(ByModality):
    """One iteration over all modalities in parallel: each reads the output of the previous iteration."""

    def __init__(self, dims: Mapping[str, int], config: Config) -> None:
        self.sources = {
            m: [source for source in dims if config.joint == "all" or source != m or len(dims) == 1] for m in dims
        }
        super().__init__(
            {m: CrossAttention(dim, sum(dims[s] for s in self.sources[m]), config) for m, dim in dims.items()}
        )

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{modality: (B, L, d)} → the same."""
        return {
            m: attention(features[m], torch.cat([features[source] for source in self.sources[m]], dim=-1))
            for m, attention in self.items()
        }


class JointHead(nn.Module):
    """The head of RJCMA: linear, batch normalisation, LeakyReLU, linear."""

    def __init__(self, dim: int, num_targets: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, max(1, dim // 2))
        self.norm = FrameNorm(self.hidden.out_features)
        self.regress = nn.Linear(self.hidden.out_features, num_targets)

    def forward(self, x: Tensor, inside: Tensor | None) -> Tensor:
        """(B, L, dim), inside (B, L) or None → (B, L, C)."""
        hidden = self.norm(self.hidden(x).transpose(1, 2), inside).transpose(1, 2)
        return self.regress(functional.leaky_relu(hidden))


class RecursiveCrossAttention(FusionModel):
    """Temporal branches and repeated cross-attention; 29,638,633 parameters at 512 + 128 + 768 with one target."""

    config: Config

    def __init__(self, dims: Mapping[str, int], targets: tuple[str, ...], config: Config) -> None:
        super().__init__(dims, targets, config)
        self.fixed_length = config.length
        self.branches = Branches(self.dims, config)
        self.iterations = nn.ModuleList(Iteration(self.branches.dims, config) for _ in range(config.n_iterations))
        self.dropout = nn.Dropout(config.dropout_head)
        dim = sum(self.branches.dims.values())
        self.regress = JointHead(dim, len(targets)) if config.joint == "all" else nn.Linear(dim, len(targets))

    def forward(self, inputs: Inputs) -> Estimate:
        """(B, `length`, D) per modality → values (B, `length`, C) in [-1, 1].

        Raises:
            ShapeError: if the windows have another length.
        """
        require_length("recursive_cross_attention", inputs, self.config.length)
        features = self.branches(inputs._replace(embeddings=clear_padding(inputs, self.dims)))
        for iteration in self.iterations:
            features = iteration(features)
        joined = self.dropout(torch.cat(list(features.values()), dim=-1))
        if isinstance(self.regress, JointHead):
            return Estimate(self.regress(joined, find_inside(inputs)).tanh())
        return Estimate(self.regress(joined).tanh())
