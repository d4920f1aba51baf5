"""Layers of the attention models of [Karas2022]: positions, self-attention, attention from one modality to another."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fusion.layers.heads import make_activation

_READY = 512  # positions kept from the start; more are computed when a longer window comes


def sinusoids(num_frames: int, dim: int) -> Tensor:
    """Fixed position codes (num_frames, dim) [Vaswani2017], sine and cosine interleaved.

    p[t, 2i] = sin(t / 10000^(2i/dim)),    p[t, 2i + 1] = cos(t / 10000^(2i/dim))
    """
    steps = torch.arange(num_frames, dtype=torch.float64)[:, None]
    angles = steps * torch.exp(torch.arange(0, dim, 2, dtype=torch.float64) * (-math.log(10000) / dim))
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :dim].float()


class Positions(nn.Module):
    """Adds position codes; without the factor sqrt(dim) of [Vaswani2017], as in the authors' code."""

    table: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("table", sinusoids(_READY, dim), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, dim) → (B, L, dim)."""
        num_frames = x.shape[1]
        table = self.table[:num_frames] if num_frames <= _READY else sinusoids(num_frames, self.dim).to(x.device)
        return x + table


class FrameConv(nn.Conv1d):
    """Convolution over 3 frames that keeps their number.

    It sees zeros beyond the ends of a window, so padding inside the window must be zero too.
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__(dim_in, dim_out, 3, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, dim_in) → (B, L, dim_out)."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class EncoderStack(nn.ModuleList):
    """Post-norm Transformer encoder layers [Vaswani2017], no final norm; PyTorch's own layer.

    y = LN(x + drop(MHA(x, x, x))),    z = LN(y + drop(W2 drop(act(W1 y))))
    """

    def __init__(
        self, dim: int, d_ff: int, n_heads: int, n_layers: int, dropout: float, activation: str, alpha: bool = False
    ) -> None:
        """Build `n_layers` layers.

        Args:
            dim: width.
            d_ff: width inside the feed-forward part.
            n_heads: number of heads; a divisor of `dim`.
            n_layers: number of layers; they do not share weights.
            dropout: after both parts, inside the feed-forward part, and on the attention weights.
            activation: of the feed-forward part: gelu, relu or selu.
            alpha: use alpha dropout, which keeps the moments that SELU needs, except on the attention weights.
        """
        kind = nn.AlphaDropout if alpha else nn.Dropout
        super().__init__()
        for _ in range(n_layers):
            layer = nn.TransformerEncoderLayer(
                dim, n_heads, d_ff, dropout, activation=make_activation(activation), batch_first=True
            )
            for place in ("dropout", "dropout1", "dropout2"):
                setattr(layer, place, kind(dropout))
            self.append(layer)

    def forward(self, x: Tensor, outside: Tensor | None = None) -> Tensor:
        """(B, L, dim), outside (B, L) true in padding, which is ignored → (B, L, dim)."""
        for layer in self:
            x = layer(x, src_key_padding_mask=outside)
        return x


class CrossLayer(nn.Module):
    """Attention from a target stream to a source, post-norm: the layer of "mult".

        x = LN(t + drop(MHA(t, s, s))),    y = LN(x + drop(GELU(W2 drop(GELU(W1 x)))))

    The second GELU is in the authors' code.
    """

    def __init__(self, dim: int, d_ff: int, n_heads: int, dropout: float, dropout_ff: float) -> None:
        """Build the layer: `dropout` after both parts and on the attention weights, `dropout_ff` between W1 and W2."""
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, n_heads, dropout, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, d_ff),
            nn.GELU(),
            nn.Dropout(dropout_ff),
            nn.Linear(d_ff, dim),
            nn.GELU(),
            nn.Dropout(dropout),
        )
        self.norm_attention = nn.LayerNorm(dim)
        self.norm_ff = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def attend(self, target: Tensor, source: Tensor, outside: Tensor | None) -> Tensor:
        """Multi-head attention, queries from the target, keys and values from the source."""
        return self.attention(target, source, source, key_padding_mask=outside, need_weights=False)[0]

    def forward(self, target: Tensor, source: Tensor, outside: Tensor | None = None) -> Tensor:
        """target and source (B, L, dim), outside (B, L) true in padding → (B, L, dim)."""
        x = self.norm_attention(target + self.dropout(self.attend(target, source, outside)))
        return self.norm_ff(x + self.feed_forward(x))


class PreNormCrossLayer(CrossLayer):
    """The layer of "multv2": norms come first, and the target is *not* added to the attention's output.

    a = MHA(LN(t), LN(s), LN(s)),    x = a + drop(a),    y = x + drop(GELU(W2 drop(GELU(W1 LN(x)))))
    """

    def __init__(self, dim: int, d_ff: int, n_heads: int, dropout: float, dropout_ff: float) -> None:
        super().__init__(dim, d_ff, n_heads, dropout, dropout_ff)
        self.norm_source = nn.LayerNorm(dim)

    def forward(self, target: Tensor, source: Tensor, outside: Tensor | None = None) -> Tensor:
        """target and source (B, L, dim), outside (B, L) true in padding → (B, L, dim)."""
        attended = self.attend(self.norm_attention(target), self.norm_source(source), outside)
        x = attended + self.dropout(attended)
        return x + self.feed_forward(self.norm_ff(x))


class GatedCrossLayer(PreNormCrossLayer):
    """The layer of "gatedmultv2": as that of "multv2", with a learned scalar g that mixes target and attention.

        x = g t + (1 - g) drop(a)

    The authors' variant has one parameter more per cross layer; how it mixes is an inference from its name and count.
    """

    def __init__(self, dim: int, d_ff: int, n_heads: int, dropout: float, dropout_ff: float) -> None:
        super().__init__(dim, d_ff, n_heads, dropout, dropout_ff)
        self.gate = nn.Parameter(torch.tensor(0.5))

    def forward(self, target: Tensor, source: Tensor, outside: Tensor | None = None) -> Tensor:
        """target and source (B, L, dim), outside (B, L) true in padding → (B, L, dim)."""
        attended = self.attend(self.norm_attention(target), self.norm_source(source), outside)
        x = self.gate * target + (1 - self.gate) * self.dropout(attended)
        return x + self.feed_forward(self.norm_ff(x))


class CrossStack(nn.ModuleList):
    """Cross layers that all read the same, unchanged source [Tsai2019MulT].

    `keep_target=False` reproduces the flaw of "multv2": every layer reads the original target instead of the previous
    layer's output, so only the last layer has an effect and the others get no gradient.
    """

    def __init__(self, layers: list[CrossLayer], keep_target: bool) -> None:
        super().__init__(layers)
        self.keep_target = keep_target

    def forward(self, target: Tensor, source: Tensor, outside: Tensor | None = None) -> Tensor:
        """target and source (B, L, dim), outside (B, L) true in padding → (B, L, dim)."""
        x = target
        layers = list(self)
        for layer in layers if self.keep_target else layers[-1:]:
            x = layer(x, source, outside)
        return x
