"""Temporal convolutional networks [Bai2018TCN], one branch per modality, as in [Zhang2023] and [Praveen2024].

Level i of a network has dilation d = 2^i and kernel k. With x of level i - 1, W the weight-normalised convolution
(W = g v / |v|, one g per output channel) and S a 1 x 1 convolution where the channels change, else the identity:

    conv(x)_t = b + sum_{j<k} W_j x_{t - j d}
    block(x) = drop(leaky(conv(x))),    level(x) = leaky(block(block(x)) + S x)

Strictly causal: a frame sees itself and the 2 (k - 1) (2^levels - 1) frames before it: 121 frames in all with four
levels of kernel 5, 249 with five. [Zhang2023] does not say this; layout and widths come from the authors' code.

Deviations: [Bai2018TCN] has ReLU and channel dropout, the authors have LeakyReLU(.01) and plain dropout, as here.
Their Xavier initialisation of the weight-normalised convolutions has no effect (g and v overwrite it), so convolutions
start from PyTorch's default; the shortcuts do start from Xavier with gain sqrt(2), as theirs do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from fusion.layers.padding import find_inside
from fusion.model import ByModality, Inputs


class CausalBlock(nn.Module):
    """One dilated causal convolution with its activation and dropout."""

    def __init__(self, dim_in: int, dim_out: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.history = (kernel - 1) * dilation
        self.conv = weight_norm(nn.Conv1d(dim_in, dim_out, kernel, dilation=dilation))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim_in, L) → (B, dim_out, L)."""
        return self.dropout(functional.leaky_relu(self.conv(functional.pad(x, (self.history, 0)))))


class Level(nn.Module):
    """Two blocks of one dilation with a shortcut around them."""

    def __init__(self, dim_in: int, dim_out: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            CausalBlock(dim_in, dim_out, kernel, dilation, dropout),
            CausalBlock(dim_out, dim_out, kernel, dilation, dropout),
        )
        self.shortcut: nn.Module = nn.Identity()
        if dim_in != dim_out:
            self.shortcut = nn.Conv1d(dim_in, dim_out, 1)
            nn.init.xavier_uniform_(self.shortcut.weight, gain=math.sqrt(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim_in, L) → (B, dim_out, L)."""
        return functional.leaky_relu(self.blocks(x) + self.shortcut(x))


class TCN(nn.Sequential):
    """Levels of growing dilation: (B, dim, L) → (B, channels[-1], L)."""

    def __init__(self, dim: int, channels: tuple[int, ...], kernel: int, dropout: float) -> None:
        widths = (dim, *channels)
        super().__init__(
            *(
                Level(before, after, kernel, 2**level, dropout)
                for level, (before, after) in enumerate(zip(widths, channels, strict=False))
            )
        )
        self.dim = channels[-1]
        self.receptive_field = 1 + 2 * (kernel - 1) * (2 ** len(channels) - 1)


class FrameNorm(nn.BatchNorm1d):
    """Batch normalisation over the frames of all windows; padding does not enter the statistics in training.

    Deviation: in the authors' code padded frames do enter both the batch and the running statistics.
    """

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        """(B, dim, L), inside (B, L) or None for everywhere → (B, dim, L)."""
        count = x.shape[0] * x.shape[2] if inside is None else int(inside.sum())
        if count < 2:  # one frame has no variance, so nothing is learned from it
            return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if inside is None or not self.training:
            return super().forward(x)
        frames = x.transpose(1, 2)[inside]
        result = x.new_zeros(x.shape[0], x.shape[2], x.shape[1])
        result[inside] = super().forward(frames)
        return result.transpose(1, 2)


class Branch(nn.Module):
    """A temporal convolutional network and batch normalisation, for one sequence.

    Attributes:
        dim: channels of the result.
        history: how many earlier frames a frame of it depends on.
    """

    def __init__(self, dim: int, channels: tuple[int, ...], kernel: int, dropout: float) -> None:
        super().__init__()
        self.tcn = TCN(dim, channels, kernel, dropout)
        self.norm = FrameNorm(self.tcn.dim)
        self.dim = self.tcn.dim
        self.history = self.tcn.receptive_field - 1

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        """(B, L, dim), inside (B, L) or None → (B, L, channels[-1])."""
        return self.norm(self.tcn(x.transpose(1, 2)), inside).transpose(1, 2)


class Branches(ByModality):
    """One `Branch` per modality, with widths chosen by the modality's name: see `widths_of`.

    Attributes:
        dims: modality → channels of its result.
        history: how many earlier frames a frame depends on.
    """

    history: int

    def __init__(self, dims: Mapping[str, int], config: Any) -> None:
        branches = {
            modality: Branch(dim, widths_of(config, modality), config.kernel, config.dropout)
            for modality, dim in dims.items()
        }
        super().__init__(branches)
        self.dims = {modality: widths_of(config, modality)[-1] for modality in dims}
        self.history = max(branch.history for branch in branches.values())

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """{modality: (B, L, D)} → {modality: (B, L, channels[-1])}."""
        inside = find_inside(inputs)
        return {modality: branch(inputs.embeddings[modality], inside) for modality, branch in self.items()}


def widths_of(config: Any, modality: str) -> tuple[int, ...]:
    """Widths of a modality's levels: from `channels_of` if it is named there, else `channels`."""
    widths: tuple[int, ...] = config.channels_of.get(modality, config.channels)
    return widths
