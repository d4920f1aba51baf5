"""Waves: raw sound, one window centred on each frame."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.errors import MissingFileError, ShapeError
from cache.foreign import sha256_file
from extract.faces.following import FaceFollower
from extract.inputs.alignment import Alignment, align_frames
from extract.inputs.contract import Input
from extract.media.audio import AudioWindows, Samples, open_sound
from extract.media.live import LiveMedium
from extract.media.timeline import check_clock, first_picture_s, scan


class Pieces(Protocol):
    """Sound cut into one piece per frame.

    Attributes:
        valid: (T,) true where the sound covers the frame.
    """

    valid: NDArray[np.bool_]

    def read(self, frames: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, …) the pieces of these frames."""


class SoundInput(Input):
    """An input that reads one piece of sound for each frame.

    Attributes:
        rate_hz: samples per second.
    """

    media = ("audio",)
    rate_hz: int

    @property
    @abstractmethod
    def reach_s(self) -> Fraction:
        """How far a piece reaches from the centre of its frame at most, seconds."""

    @abstractmethod
    def cut(self, samples: Samples, clock: FrameClock) -> Pieces:
        """Cut samples (S,), S > 0, into the pieces of the frames of a clock."""

    def open(self, manifest: Manifest, trial: Trial, crops: Path | None) -> SoundSource:
        """Open the sound of a trial."""
        path = manifest.path(trial, "audio")
        return SoundSource(path, trial, self.rate_hz, lambda samples: self.cut(samples, trial.clock))

    def follow(self, medium: LiveMedium, face: FaceFollower | None) -> SoundFollower:
        """Follow the sound; a frame is ready when all of its piece has come.

        Raises:
            MissingFileError: if there is none.
        """
        if not medium.has_sound:
            raise MissingFileError(
                f"'{medium.path}' has no sound, which the model reads. Add a sound stream, or take a model of faces alone."
            )
        return SoundFollower(self, medium)


@dataclass(frozen=True)
class WaveInput(SoundInput):
    """What a raw-waveform backbone reads: mono in [-1, 1], one window centred on each frame."""

    name = "waves"
    version = 1

    rate_hz: int
    window_s: float

    @property
    def reach_s(self) -> Fraction:
        """Half a window, and a sample for rounding."""
        return Fraction(self.num_samples // 2 + 2, self.rate_hz)

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

    def cut(self, samples: Samples, clock: FrameClock) -> AudioWindows:
        """Windows centred on the frames."""
        return AudioWindows(samples, clock, self.window_s, self.rate_hz)

    def example(self, count: int, seed: int = 0) -> NDArray[np.float32]:
        """(B, S) tones that differ in pitch and loudness."""
        rng = np.random.default_rng(seed)
        waves = np.sin(rng.uniform(0.05, 1.5, (count, 1)) * np.arange(self.num_samples))
        return (rng.uniform(0.2, 0.9, (count, 1)) * waves).astype(np.float32)


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


class SoundFollower:
    """Pieces of sound that still comes.

    Args:
        kind: cuts the pieces.
        medium: not read yet.
    """

    def __init__(self, kind: SoundInput, medium: LiveMedium) -> None:
        self._kind, self._medium = kind, medium
        self._sound = medium.sound(kind.rate_hz)
        self._ready = 0

    def ready(self) -> int:
        """Frames whose piece has come or is not awaited any more; at the end, the rest of silence."""
        clock = self._medium.clock
        if self._medium.finished:
            return clock.known
        come_s = max(Fraction(self._sound.total, self._sound.rate_hz), self._medium.awaited_s) - self._kind.reach_s
        while self._ready < clock.known and clock.edge_s(self._ready) + clock.edge_s(self._ready + 1) <= 2 * come_s:
            self._ready += 1
        return self._ready

    def take(self, first: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(N, …) float32, and where the sound covers the frame."""
        clock = self._medium.clock
        second = max(0, int(clock.edge_s(first) - self._kind.reach_s) - 1)  # whole ones keep the place of every sample
        samples = self._sound.since(second)
        if not len(samples):
            return self._kind.example(1)[:0], np.zeros(stop - first, bool)
        pieces = self._kind.cut(samples, clock.part(first, stop, -second))
        frames = np.arange(1, stop - first + 1)
        valid = pieces.valid[frames]
        return pieces.read(frames[valid]), valid
