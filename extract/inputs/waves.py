"""Waves: raw sound, one window centred on each frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.errors import ShapeError
from cache.manifest import Manifest, Trial
from extract.audio import AudioWindows, load_audio
from extract.inputs.contract import Input, frame_rows
from extract.timeline import check_clock, first_picture_s, scan
from extract.video import sha256_file


@dataclass(frozen=True)
class WaveInput(Input):
    """What a raw-waveform backbone reads: mono in [-1, 1], one window centred on each frame."""

    media = ("audio",)
    version = 1

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

    def open(self, manifest: Manifest, trial: Trial, crops: Path | None) -> AudioSource:
        """The sound of a trial."""
        return AudioSource(manifest.path(trial, "audio"), trial, self)

    def example(self, count: int, seed: int = 0) -> NDArray[np.float32]:
        """(B, S) tones of different pitch and loudness."""
        rng = np.random.default_rng(seed)
        waves = np.sin(rng.uniform(0.05, 1.5, (count, 1)) * np.arange(self.num_samples))
        return (rng.uniform(0.2, 0.9, (count, 1)) * waves).astype(np.float32)


class AudioSource:
    """Windows of a trial's sound, one centred on each frame."""

    def __init__(self, path: Path, trial: Trial, wave: WaveInput) -> None:
        self._path, self._trial, self._wave = path, trial, wave

    def digest(self) -> str:
        """Digest of the media file."""
        return sha256_file(self._path)

    def load(self) -> NDArray[np.int64]:
        """Decode the sound; (T,) the frame itself where the sound covers it.

        Raises:
            ShapeError: if the pictures beside the sound contradict the clock; the sound would be shifted too.
        """
        samples = load_sound(self._path, self._trial, self._wave.rate_hz)
        self._windows = AudioWindows(samples, self._trial.clock, self._wave.window_s, self._wave.rate_hz)
        return frame_rows(self._windows.valid)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, S) float32 in [-1, 1]."""
        return self._windows.read(rows)


def load_sound(path: Path, trial: Trial, rate_hz: int) -> NDArray[np.float32]:
    """(S,) the sound of a trial, after a look at the pictures beside it."""
    if first_picture_s(path) is not None:
        check_clock(trial.id, scan(path), trial.clock, path)
    return load_audio(path, rate_hz)
