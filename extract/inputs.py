"""What one frame's input looks like to a backbone: kind, size, range, and how it becomes a tensor of numbers."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.errors import ShapeError
from extract.logmel import LOG_OFFSET, NUM_BANDS, PATCH
from extract.wordpieces import Speller

Mean = tuple[float, float, float]  # or standard deviation, per channel


@functools.lru_cache(maxsize=8)  # a copy to a GPU waits for all that runs there: once, not for every batch
def _scale_and_offset(mean: Mean, std: Mean, device: torch.device) -> tuple[Tensor, Tensor]:
    """(1, 3, 1, 1) each, that turn bytes into what a network was trained on."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(1, 3, 1, 1)
    offset = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, 3, 1, 1)
    return scale, offset


@dataclass(frozen=True)
class ImageInput:
    """What an image backbone reads.

    Attributes:
        size: height and width, pixels.
        mean: per channel in `colour` order, of values in [0, 1].
        std: likewise.
        colour: "rgb" or "bgr".
        crop_from: side to which crops are resized before the centre of `size` is cut out, 0 for `size` itself.
        resize: "bilinear" or "bicubic", as Pillow does it: with a filter as wide as the pixels that become one where
            pictures shrink, so that nothing aliases.
    """

    size: int
    mean: Mean
    std: Mean
    colour: str = "rgb"
    crop_from: int = 0
    resize: str = "bilinear"

    @property
    def read_size(self) -> int:
        """Side to which crops are resized, pixels."""
        return self.crop_from or self.size

    def cut(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The centre (N, size, size, 3) of images (N, read_size, read_size, 3)."""
        margin = (self.read_size - self.size) // 2
        if margin == 0:
            return images
        inner = slice(margin, margin + self.size)
        return np.ascontiguousarray(images[:, inner, inner])

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
        scale, offset = _scale_and_offset(self.mean, self.std, batch.device)
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


@dataclass(frozen=True)
class LogMelInput:
    """What a network on log-mel patches reads: 0.975 s of sound around or after each frame.

    Attributes:
        start: "ahead" or "centred", see `extract.logmel.patch_starts`.
    """

    start: str
    lowest: ClassVar[float] = math.log(LOG_OFFSET)  # silence
    highest: ClassVar[float] = 8.0  # no sound within [-1, 1] reaches 7.5

    def check(self, batch: Tensor) -> None:
        """Refuse anything but (B, 96, 64) float32 in [ln 0.01, 8].

        Raises:
            ShapeError: if shape or dtype differ, or a value lies outside the range.
        """
        if batch.dtype != torch.float32 or tuple(batch.shape[1:]) != (PATCH, NUM_BANDS):
            raise ShapeError(
                f"Log-mel patches are {batch.dtype} of shape {tuple(batch.shape)}, expected torch.float32 of shape (B, {PATCH}, {NUM_BANDS})."
            )
        if not batch.numel():
            return
        low, high = (float(end) for end in batch.aminmax())
        if not (low >= self.lowest - 1e-4 and high <= self.highest):
            raise ShapeError(
                f"Log-mel values lie in [{low:.3g}, {high:.3g}], expected [{self.lowest:.3g}, {self.highest:.3g}]. Use the natural "
                "logarithm of sound in [-1, 1]."
            )


@dataclass(frozen=True)
class WordsInput:
    """What a language model reads: one word within its sentence, as rows of word pieces.

    Attributes:
        speller: the model's vocabulary.
        max_tokens: longest sentence, [CLS] and [SEP] included.
        pause_s: silence that ends a sentence where a transcript has no punctuation, seconds.
    """

    speller: Speller
    max_tokens: int
    pause_s: float

    def check(self, batch: Tensor) -> None:
        """Refuse anything but (B, 2, max_tokens) int64: the pieces of each word's sentence, and 1 at the word's own.

        Raises:
            ShapeError: if shape or dtype differ, a piece is not in the vocabulary, or a word has no piece of its own.
        """
        if batch.dtype != torch.int64 or tuple(batch.shape[1:]) != (2, self.max_tokens):
            raise ShapeError(
                f"Words are {batch.dtype} of shape {tuple(batch.shape)}, expected torch.int64 of shape (B, 2, {self.max_tokens})."
            )
        pieces, own = batch[:, 0], batch[:, 1]
        if ((pieces < 0) | (pieces >= self.speller.size)).any():
            raise ShapeError(
                f"Word pieces lie in [{int(pieces.min())}, {int(pieces.max())}], expected [0, {self.speller.size - 1}]. Use the "
                "backbone's own vocabulary."
            )
        strange = (own != 0) & ((own != 1) | (pieces == self.speller.pad))
        if strange.any() or not own.any(dim=1).all():
            raise ShapeError(
                "A word's own pieces are not marked; expected 1 at one piece or more of its sentence, else 0."
            )
