"""Log-mel patches: 0.975 s of sound as 96 steps of 64 bands."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.clock import FrameClock
from cache.errors import ShapeError
from extract.inputs.spectrogram import HOP, LOG_OFFSET, NUM_BANDS, PATCH, WINDOW, LogMelPatches
from extract.inputs.waves import SoundInput
from extract.media.audio import RATE_HZ, Samples


@dataclass(frozen=True)
class LogMelInput(SoundInput):
    """What a network on log-mel patches reads: 0.975 s of sound around or after each frame.

    Attributes:
        start: "ahead" or "centred", see `extract.inputs.spectrogram.patch_starts`.
    """

    name = "logmel"
    version = 1

    start: str
    rate_hz: int = field(default=RATE_HZ, init=False)
    lowest: ClassVar[float] = math.log(LOG_OFFSET)  # silence
    highest: ClassVar[float] = 8.0  # no sound within [-1, 1] reaches 7.5

    def check(self, batch: Tensor) -> None:
        """Check that a batch is (B, 96, 64) float32 in [ln 0.01, 8].

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

    @property
    def reach_s(self) -> Fraction:
        """A patch, or half of it, and a hop for rounding."""
        samples = (PATCH - 1) * HOP + WINDOW
        return Fraction((samples if self.start == "ahead" else samples // 2) + HOP, RATE_HZ)

    def cut(self, samples: Samples, clock: FrameClock) -> LogMelPatches:
        """Patches of one spectrogram of the whole sound."""
        return LogMelPatches(samples, clock, self.start)

    def example(self, count: int, seed: int = 0) -> NDArray[np.float32]:
        """(B, 96, 64) spectra of different shape."""
        rng = np.random.default_rng(seed)
        noise = rng.uniform(-0.5, 0.5, (count, PATCH, NUM_BANDS))
        return (rng.uniform(-4, 1, (count, 1, NUM_BANDS)) + noise).astype(np.float32)
