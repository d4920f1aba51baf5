"""The contract of a backbone: a frozen network that turns one frame's input into one embedding.

A backbone file holds, in this order: what it is and where it comes from, its `Config`, its input, its weights
cards, the layers, and the class. Preprocessing constants and weights are never in different files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from cache.errors import SettingError, ShapeError
from cache.names import load_named, require_known
from cache.spec import FeatureSpec
from extract.backbones import BACKBONES
from extract.weights import Weights, WeightsCard, load_weights


@dataclass(frozen=True)
class ImageInput:
    """What an image backbone reads.

    Attributes:
        size: height and width, pixels.
        mean: per channel in `colour` order, of values in [0, 1].
        std: likewise.
        colour: "rgb" or "bgr".
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    colour: str = "rgb"

    def check(self, batch: Tensor) -> None:
        """Refuse anything but (B, size, size, 3) uint8, RGB in [0, 255].

        Raises:
            ShapeError: if shape or dtype differ.
        """
        expected = (self.size, self.size, 3)
        if batch.dtype != torch.uint8 or tuple(batch.shape[1:]) != expected:
            raise ShapeError(
                f"Images are {batch.dtype} of shape {tuple(batch.shape)}, expected torch.uint8 of shape (B, {self.size}, {self.size}, 3)."
            )

    def normalise(self, batch: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 RGB → (B, 3, H, W) float32, channels-last in memory."""
        images = batch.permute(0, 3, 1, 2)
        if self.colour == "bgr":
            images = images.flip(1)
        shape = (1, 3, 1, 1)
        scale = torch.tensor([1 / (255 * s) for s in self.std], device=batch.device).view(shape)
        offset = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)], device=batch.device).view(
            shape
        )
        return torch.addcmul(offset, images.to(torch.float32, memory_format=torch.channels_last), scale)


@dataclass(frozen=True)
class WaveInput:
    """What a raw-waveform backbone reads: mono in [-1, 1], one window centred on each frame."""

    rate_hz: int
    window_s: float

    @property
    def num_samples(self) -> int:
        """S, samples of one window."""
        return round(self.rate_hz * self.window_s)

    def check(self, batch: Tensor) -> None:
        """Refuse anything but (B, S) float32 in [-1, 1].

        Raises:
            ShapeError: if shape or dtype differ, or a sample lies outside the range.
        """
        if batch.dtype != torch.float32 or batch.ndim != 2 or batch.shape[1] != self.num_samples:
            raise ShapeError(
                f"Sound is {batch.dtype} of shape {tuple(batch.shape)}, expected torch.float32 of shape (B, {self.num_samples})."
            )
        if batch.numel() and not batch.abs().max() <= 1:
            raise ShapeError(
                f"Sound reaches {float(batch.abs().max()):.3g}, expected values in [-1, 1]. Scale it to full range."
            )


class Backbone(nn.Module, ABC):
    """A frozen network with everything that tells what its embeddings mean.

    Attributes:
        name: in the table of backbones.
        modality: audio, text or visual.
        source: which medium it reads: crops, audio or words.
        algorithm: raise it when a change of code changes what is computed.
        Config: frozen dataclass of settings.
        cards: registered weights by name.
        dim: D.
        input: what one frame's input looks like.
    """

    name: ClassVar[str]
    modality: ClassVar[str]
    source: ClassVar[str]
    algorithm: ClassVar[int]
    Config: ClassVar[type]
    cards: ClassVar[dict[str, WeightsCard]]
    dim: int
    input: ImageInput | WaveInput

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = weights

    @classmethod
    @abstractmethod
    def build(cls, config: Any, weights: Weights) -> Self:
        """The network with these weights, in evaluation mode."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything but the weights that changes what is computed, as JSON values."""

    @abstractmethod
    def forward(self, batch: Tensor) -> Tensor:
        """Embeddings (B, D) float32 of a checked batch."""

    @torch.inference_mode()
    def embed(self, batch: Tensor) -> Tensor:
        """Embeddings (B, D) float32 of a batch of frames' inputs.

        Args:
            batch: (B, H, W, 3) uint8 RGB for images, (B, S) float32 in [-1, 1] for sound.

        Raises:
            ShapeError: if the batch is not what `input` declares.
        """
        self.input.check(batch)
        return self(batch)

    def spec(self, dtype: str = "float16") -> FeatureSpec:
        """The recipe of this backbone's embeddings."""
        return FeatureSpec(
            self.name, self.modality, self.dim, self.settings(), self.weights.sha256, self.algorithm, dtype
        )  # fmt: skip


def load_backbone(name: str, weights: str, settings: dict[str, Any] | None = None) -> Backbone:
    """Build a backbone by name.

    Args:
        name: from the table of backbones.
        weights: a registered name, a path, or "random".
        settings: of the backbone's `Config`.

    Raises:
        UnknownNameError: if the backbone or the weights are not known.
        SettingError: if a setting is not one of the `Config`.
        WeightsError: if the weights do not fit.
    """
    kind = load_named("backbone", BACKBONES, name)
    settings = settings or {}
    for setting in settings:
        require_known(f"setting of backbone '{name}'", setting, [field.name for field in fields(kind.Config)])
    try:
        config = kind.Config(**settings)
    except TypeError as error:
        raise SettingError(f"Settings {settings} do not fit backbone '{name}': {error}.") from error
    return kind.build(config, load_weights(weights, kind.cards)).eval().requires_grad_(False)
