"""What one frame's input looks like to a backbone: kind, size, range, and how it becomes a tensor of numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cache.errors import ShapeError


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
