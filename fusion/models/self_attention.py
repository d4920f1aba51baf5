"""Self-attention over concatenated embeddings (AV-SA) [Karas2022, Section 3.3].

With x_t the concatenation of the modalities (alphabetical) at frame t and p the position codes:

    z_t = drop(act(W x_t + b) + p_t),    h = encoder(z),    values_t = V act(h_t) + v,    logits_t = U act(h_t) + u

where encoder is a stack of post-norm Transformer layers [Vaswani2017], with softmax(Q K^T / sqrt(d_k)) V as in
[Karas2022, Equation 1]. A single modality has a convolution of 3 frames instead of W and, with SELU, alpha dropout
instead of dropout, as in the authors' unimodal networks.

The defaults are [Karas2022, Table 4]. The authors' search never passed its dropout on, so the published runs may have
had 0.3: set `dropout` to 0.3 to reproduce them. Attention covers the whole window except padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from cache.errors import SettingError
from cache.settings import check_ranges
from fusion.layers.attention import EncoderStack, FrameConv, Positions
from fusion.layers.heads import Heads, make_activation
from fusion.layers.padding import clear_padding, find_inside
from fusion.model import Estimate, FusionModel, Inputs
from fusion.settings import ACTIVATIONS


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are [Karas2022, Table 4].

    Attributes:
        d_model: width; a multiple of `n_heads`.
        d_ff: width inside the feed-forward parts.
        n_layers: number of Transformer layers.
        n_heads: number of attention heads.
        dropout: in and before the layers, 0 to 1.
        activation: after the reduction, in the layers and before the heads: gelu, relu or selu.
    """

    d_model: int = 64
    d_ff: int = 256
    n_layers: int = 3
    n_heads: int = 8
    dropout: float = 0.5
    activation: str = "gelu"

    def __post_init__(self) -> None:
        ranges = dict.fromkeys(("d_model", "d_ff"), (1, 65536)) | dict.fromkeys(("n_layers", "n_heads"), (1, 64))
        check_ranges("model 'self_attention'", self, {**ranges, "dropout": (0, 1)}, {"activation": ACTIVATIONS})
        if self.d_model % self.n_heads:
            raise SettingError(
                f"Settings of model 'self_attention': 'd_model' is {self.d_model}, expected a multiple of {self.n_heads} heads."
                " Change the value."
            )


class AudiovisualSelfAttention(FusionModel):
    """Transformer encoder over concatenated embeddings; 192,666 parameters at audio 128 + visual 512."""

    config: Config

    def __init__(self, dims: Mapping[str, int], targets: tuple[str, ...], config: Config) -> None:
        super().__init__(dims, targets, config)
        width = sum(self.dims.values())
        alone = len(self.dims) == 1
        alpha = alone and config.activation == "selu"
        self.reduce = FrameConv(width, config.d_model) if alone else nn.Linear(width, config.d_model)
        self.activation = make_activation(config.activation)
        self.positions = Positions(config.d_model)
        self.dropout = (nn.AlphaDropout if alpha else nn.Dropout)(config.dropout)
        self.encoder = EncoderStack(
            config.d_model, config.d_ff, config.n_heads, config.n_layers, config.dropout, config.activation, alpha
        )
        self.heads = Heads(config.d_model, self.targets)

    def forward(self, inputs: Inputs) -> Estimate:
        """(B, L, D) per modality → values (B, L, C), logits (B, L, 24)."""
        inside = find_inside(inputs)
        features = torch.cat(list(clear_padding(inputs, self.dims).values()), dim=-1)
        reduced = self.dropout(self.positions(self.activation(self.reduce(features))))
        encoded = self.encoder(reduced, None if inside is None else ~inside)
        return self.heads(self.activation(encoded))
