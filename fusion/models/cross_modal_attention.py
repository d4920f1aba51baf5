"""Cross-modal attention (AV-CMA) [Karas2022, Section 3.3], after the Multimodal Transformer [Tsai2019MulT].

Every modality m is reduced to half the width by a convolution of 3 frames, and position codes p are added:

    s_m = conv_m(x_m) + p                                                                                   (1)

For every ordered pair of modalities, a → b, a stack of cross layers reads the source s_a with queries from a stream
that starts as s_b, where attention is softmax(Q K^T / sqrt(d_k)) V [Karas2022, Equation 1]:

    y_{a→b} = stack(target = s_b, source = s_a)                                                             (2)
    h = encoder([y_{a→b} for all pairs]),    values = V act(h) + v,    logits = U act(h) + u                (3)

The paper has audio and visual, hence two stacks and d_model in (3). With M modalities there are M (M - 1) stacks, and
the encoder is M (M - 1) d_model / 2 wide; concatenating all streams of a target follows [Tsai2019MulT].
A single modality has nothing to attend to: it is reduced to `d_model` and goes straight into the encoder.

Variants: "mult" is the one described in the paper. "multv2" is the default of the authors' command line, may have
produced the published figures, and is flawed (see `fusion.layers.attention.PreNormCrossLayer` and `CrossStack`: the target is
not added, and only the last layer of a stack has an effect, while the others get no gradient). "gatedmultv2" has a learned
scalar more in each cross layer and the same flaw. Both are here for reproduction.

The defaults are [Karas2022, Table 4]; as the authors' search never passed its dropout on, published runs may have had
0.3 instead of 0.6. The dropout inside the cross layers' feed-forward part is 0.3 in their code, regardless of `dropout`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from cache.errors import SettingError
from cache.settings import check_ranges
from fusion.layers.attention import (
    CrossLayer,
    CrossStack,
    EncoderStack,
    FrameConv,
    GatedCrossLayer,
    Positions,
    PreNormCrossLayer,
)
from fusion.layers.heads import Heads, make_activation
from fusion.layers.padding import clear_padding, find_inside
from fusion.model import ByModality, Estimate, FusionModel, Inputs
from fusion.settings import ACTIVATIONS

VARIANTS = ("mult", "multv2", "gatedmultv2")


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are [Karas2022, Table 4].

    Attributes:
        variant: mult, multv2 or gatedmultv2.
        d_model: width of the concatenation of two stacks; each is half as wide, a multiple of `n_heads`.
        d_ff: width inside the feed-forward parts.
        n_layers: number of Transformer layers after the concatenation.
        n_heads: number of attention heads.
        n_cross: number of cross layers of a pair that `n_cross_of` does not name.
        n_cross_of: pair of modalities, as `source_to_target` → its number of cross layers; a given mapping replaces the
            whole default.
        dropout: in the layers, 0 to 1.
        dropout_cross_ff: inside the feed-forward part of cross layers, 0 to 1.
        activation: before the heads: gelu, relu or selu; inside all layers it is GELU, as in the authors' code.
    """

    variant: str = "mult"
    d_model: int = 256
    d_ff: int = 256
    n_layers: int = 4
    n_heads: int = 4
    n_cross: int = 1
    n_cross_of: dict[str, int] = field(default_factory=lambda: {"visual_to_audio": 3, "audio_to_visual": 1})
    dropout: float = 0.6
    dropout_cross_ff: float = 0.3
    activation: str = "gelu"

    def __post_init__(self) -> None:
        ranges = dict.fromkeys(("d_model", "d_ff"), (1, 65536)) | dict.fromkeys(("dropout", "dropout_cross_ff"), (0, 1))
        ranges |= dict.fromkeys(("n_layers", "n_heads", "n_cross", "n_cross_of"), (1, 64))
        choices = {"variant": VARIANTS, "activation": ACTIVATIONS}
        check_ranges("model 'cross_modal_attention'", self, ranges, choices)
        if self.d_model % (2 * self.n_heads):
            raise SettingError(
                f"Settings of model 'cross_modal_attention': 'd_model' is {self.d_model}, expected a multiple of twice "
                f"{self.n_heads} heads. Change the value."
            )


class CrossModalAttention(FusionModel):
    """Attention between modalities, then over time; 2,365,722 parameters at audio 128 + visual 512."""

    config: Config

    def __init__(self, dims: Mapping[str, int], targets: tuple[str, ...], config: Config) -> None:
        super().__init__(dims, targets, config)
        self.pairs = [(source, target) for target in self.dims for source in self.dims if source != target]
        width = config.d_model // 2 if self.pairs else config.d_model
        self.reduce = ByModality({modality: FrameConv(dim, width) for modality, dim in self.dims.items()})
        self.positions = Positions(width)
        self.stacks = nn.ModuleList(self._stack(source, target, width) for source, target in self.pairs)
        self.width = width * max(1, len(self.pairs))
        self.encoder = EncoderStack(self.width, config.d_ff, config.n_heads, config.n_layers, config.dropout, "gelu")
        self.activation = make_activation(config.activation)
        self.heads = Heads(self.width, self.targets)

    def _stack(self, source: str, target: str, width: int) -> CrossStack:
        config = self.config
        n_layers = config.n_cross_of.get(f"{source}_to_{target}", config.n_cross)
        layer = {"mult": CrossLayer, "multv2": PreNormCrossLayer, "gatedmultv2": GatedCrossLayer}[config.variant]
        layers = [
            layer(width, config.d_ff, config.n_heads, config.dropout, config.dropout_cross_ff) for _ in range(n_layers)
        ]
        return CrossStack(layers, keep_target=config.variant == "mult")

    def forward(self, inputs: Inputs) -> Estimate:
        """(B, L, D) per modality → values (B, L, C), logits (B, L, 24)."""
        inside = find_inside(inputs)
        outside = None if inside is None else ~inside
        features = clear_padding(inputs, self.dims)
        reduced = {m: self.positions(conv(features[m])) for m, conv in self.reduce.items()}
        crossed = [
            stack(reduced[target], reduced[source], outside)
            for (source, target), stack in zip(self.pairs, self.stacks, strict=True)
        ]
        joined = torch.cat(crossed or list(reduced.values()), dim=-1)
        return self.heads(self.activation(self.encoder(joined, outside)))
