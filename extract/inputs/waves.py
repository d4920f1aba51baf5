"""Waves: raw sound, one window centred on each frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.corpus.manifest import Manifest, Trial
from cache.errors import ShapeError
from cache.foreign import sha256_file
from extract.inputs.alignment import Alignment, align_frames
from extract.inputs.contract import Input
from extract.media.audio import AudioWindows, Samples, open_sound
from extract.media.timeline import check_clock, first_picture_s, scan


@dataclass(frozen=True)
class WaveInput(Input):
    """What a raw-waveform backbone reads: mono in [-1, 1], one window centred on each frame."""

    name = "waves"
    media = ("audio",)
    version = 1

    rate_hz: int
    window_s: float

    @property
    def num_samples(self) -> int:
        """S, samples of one window."""
        return round(self.rate_hz * self.window_s)

    def check(self, batch: Tensor) -> None:
        """Check that a batch is (B, S) float32 in [-1, 1].

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

    def open(self, manifest: Manifest, trial: Trial, crops: Path | None) -> SoundSource:
        """Open the sound of a trial."""

        def cut(samples: Samples) -> AudioWindows:
            return AudioWindows(samples, trial.clock, self.window_s, self.rate_hz)

        return SoundSource(manifest.path(trial, "audio"), trial, self.rate_hz, cut)

    def example(self, count: int, seed: int = 0) -> NDArray[np.float32]:
        """(B, S) tones that differ in pitch and loudness."""
        rng = np.random.default_rng(seed)
        waves = np.sin(rng.uniform(0.05, 1.5, (count, 1)) * np.arange(self.num_samples))
        return (rng.uniform(0.2, 0.9, (count, 1)) * waves).astype(np.float32)


class Pieces(Protocol):
    """Sound cut into one piece per frame.

    Attributes:
        valid: (T,) true where the sound covers the frame.
    """

    valid: NDArray[np.bool_]

    def read(self, frames: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, …) the pieces of these frames."""


class SoundSource:
    """A trial's sound, one piece per frame.

    Args:
        path: the medium.
        trial: the trial.
        rate_hz: samples per second of the pieces.
        cut: cuts samples (S,) into pieces.
    """

    def __init__(self, path: Path, trial: Trial, rate_hz: int, cut: Callable[[Samples], Pieces]) -> None:
        self._path, self._trial, self._rate_hz, self._cut = path, trial, rate_hz, cut

    def digest(self) -> str:
        """Digest of the media file."""
        return sha256_file(self._path)

    def load(self) -> Alignment:
        """Decode and cut the sound; one piece per frame where the sound covers it.

        Raises:
            ShapeError: if the pictures of the file contradict the clock, because the sound would be shifted too.
        """
        if first_picture_s(self._path) is not None:
            check_clock(self._trial.id, scan(self._path), self._trial.clock, self._path)
        self._pieces = self._cut(open_sound(self._path, self._rate_hz))
        return align_frames(self._pieces.valid)

    def read(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, …) float32."""
        return self._pieces.read(items)
