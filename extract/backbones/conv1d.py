"""Audio, 128-d: the 1-D CNN over 0.5 s of raw sound around each frame.

End2You's zhao19 network as used by [Karas2022, Section 3.2], 87,360 parameters, with the mean over time as its last
step. The authors' weights, trained on RECOLA, are available only on a university page; train it here end to end, or
give the path of a state dict. Checked against the public code of End2You (BSD-3); nothing was copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from torch import Tensor, nn

from cache.settings import check_ranges
from extract.backbones.contract import Backbone
from extract.inputs.waves import WaveInput
from extract.weights.cards import WeightsCard
from extract.weights.weights import Weights, load_into


@dataclass(frozen=True)
class Config:
    """Settings of the window.

    Attributes:
        window_s: length of the window centred on the frame, seconds; 0.5 in the paper (0.66 in its code).
    """

    window_s: float = 0.5

    def __post_init__(self) -> None:
        check_ranges("backbone 'conv1d'", self, {"window_s": (0.02, 10)}, {})  # four poolings by 4 need 256 samples


RATE_HZ = 16_000
CHANNELS = (1, 64, 64, 128, 128)

CARDS: dict[str, WeightsCard] = {}


def _layers() -> nn.Sequential:
    """Four blocks of convolution, batch norm, ELU and max-pooling by 4: (B, 1, 8000) → (B, 128, 31)."""
    blocks: list[nn.Module] = []
    for fan_in, fan_out in pairwise(CHANNELS):
        convolution = nn.Conv1d(fan_in, fan_out, kernel_size=3, padding=1)
        nn.init.kaiming_uniform_(convolution.weight, nonlinearity="relu")
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
        blocks += [convolution, nn.BatchNorm1d(fan_out), nn.ELU(), nn.MaxPool1d(4)]
    return nn.Sequential(*blocks)


class Conv1d(Backbone):
    """Raw sound (B, S) → (B, 128)."""

    name = "conv1d"
    modality = "audio"
    algorithm = 2
    cards = CARDS
    dim = CHANNELS[-1]
    input: WaveInput

    def __init__(self, config: Config, weights: Weights) -> None:
        super().__init__(weights)
        self.input = WaveInput(RATE_HZ, config.window_s)
        self.body = _layers()

    @classmethod
    def build(cls, config: Config, weights: Weights) -> Self:
        """Build the network with these weights.

        Raises:
            WeightsError: if they do not fit.
        """
        with weights.seeded():
            network = cls(config, weights)
        load_into(network.body, weights, "the 1-D CNN 'conv1d'", "layers.")
        return network

    def settings(self) -> dict[str, Any]:
        """Rate, window and timing rule."""
        return {
            "rate_hz": self.input.rate_hz,
            "window_s": self.input.window_s,
            "timing": "window centred on the frame, silence outside",
        }

    def forward(self, batch: Tensor) -> Tensor:
        """(B, S) → (B, 128)."""
        return self.body(batch.unsqueeze(1)).mean(dim=2)
