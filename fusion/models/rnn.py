"""Recurrent fusion (AV-RNN): concatenation, linear reduction, LSTM [Karas2022, Section 3.3].

With modalities m in alphabetical order and x_t the concatenation of their embeddings at frame t:

    z_t = act(W x_t + b),    h = LSTM(z),    values_t = V h_t + v,    logits_t = U h_t + u

A single modality goes into the LSTM unreduced. Only the heads follow the LSTM, and with one layer no dropout is active,
both as in the authors' code.

Deviation: the authors tie `d_hidden` to `d_model`; here they are independent. A bidirectional LSTM reads only the
frames inside a window, never its padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from cache.settings import check_ranges
from fusion.layers.heads import Heads, make_activation
from fusion.model import Estimate, FusionModel, Inputs
from fusion.settings import ACTIVATIONS


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are [Karas2022, Table 4].

    Attributes:
        d_model: width of the linear reduction; unused with a single modality.
        d_hidden: width of the LSTM, per direction.
        n_layers: number of LSTM layers.
        bidirectional: also read every window backwards.
        dropout: between LSTM layers, 0 to 1.
        activation: after the reduction: gelu, relu or selu.
    """

    d_model: int = 64
    d_hidden: int = 64
    n_layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.5
    activation: str = "selu"

    def __post_init__(self) -> None:
        ranges = {"d_model": (1, 65536), "d_hidden": (1, 65536), "n_layers": (1, 64), "dropout": (0, 1)}
        check_ranges("model 'rnn'", self, ranges, {"activation": ACTIVATIONS})


class AudiovisualRNN(FusionModel):
    """LSTM over concatenated embeddings; 75,994 parameters at audio 128 + visual 512."""

    config: Config

    def __init__(self, dims: Mapping[str, int], targets: tuple[str, ...], config: Config) -> None:
        super().__init__(dims, targets, config)
        width = sum(self.dims.values())
        self.reduce: nn.Module = nn.Identity()
        if len(self.dims) > 1:
            self.reduce = nn.Sequential(nn.Linear(width, config.d_model), make_activation(config.activation))
            width = config.d_model
        self.lstm = nn.LSTM(
            width,
            config.d_hidden,
            config.n_layers,
            batch_first=True,
            bidirectional=config.bidirectional,
            dropout=config.dropout if config.n_layers > 1 else 0.0,
        )
        self.heads = Heads(config.d_hidden * (2 if config.bidirectional else 1), self.targets)

    def forward(self, inputs: Inputs) -> Estimate:
        """(B, L, D) per modality → values (B, L, C), logits (B, L, 24)."""
        return self.heads(self._recur(self._reduced(inputs), inputs.lengths))

    @property
    def obstacle(self) -> str:
        """The second direction starts at the end."""
        if not self.config.bidirectional:
            return ""
        return "model 'rnn' with 'bidirectional: true' also reads every window backwards; train it with 'bidirectional: false'"

    def step(self, inputs: Inputs, state: Any = None) -> tuple[Estimate, Any]:
        """The state is that of the LSTM: it remembers everything before."""
        hidden, state = self.lstm(self._reduced(inputs), state)
        return self.heads(hidden), state

    def _reduced(self, inputs: Inputs) -> Tensor:
        features = [inputs.embeddings[modality] for modality in self.dims]
        reduced: Tensor = self.reduce(torch.cat(features, dim=-1) if len(features) > 1 else features[0])
        return reduced

    def _recur(self, sequence: Tensor, lengths: Tensor) -> Tensor:
        """(B, L, d) → (B, L, h). A forward LSTM needs no packing: padding at the end cannot affect earlier frames."""
        num_frames = sequence.shape[1]
        if not self.config.bidirectional or int(lengths.min()) == num_frames:
            return self.lstm(sequence)[0]
        packed = pack_padded_sequence(sequence, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=num_frames)[0]
