"""The log-mel spectrogram of VGGish, computed once per file, and its patches on the label clock.

Equal to the front end of torchvggish (Apache-2.0) up to 1e-5: 16 kHz, windows of 25 ms every 10 ms without centring or padding,
periodic Hann, FFT of 512, magnitudes, 64 HTK mel bands from 125 to 7500 Hz, ln(mel + 0.01). A patch is 96 windows,
0.975 s; neighbouring frames' patches overlap and are cut from the one spectrogram (25.6 kB per second of sound; that of long sound
is kept in a temporary file).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from cache.clock import ALLOWED_DIFFERENCE, FrameClock
from cache.errors import SettingError
from extract.media.audio import Samples
from extract.media.spool import Spool

RATE_HZ = 16_000
WINDOW = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms
FFT_SIZE = 512
NUM_BANDS = 64
LOWEST_HZ, HIGHEST_HZ = 125.0, 7500.0
LOG_OFFSET = 0.01
PATCH = 96  # windows
STARTS = ("ahead", "centred")

_PATCH_SAMPLES = (PATCH - 1) * HOP + WINDOW
_BEFORE = -(-_PATCH_SAMPLES // 2 // HOP) * HOP  # length of the silence that a patch centred on sample 0 covers
_BLOCK = 128  # windows transformed together, 1 MB, which fits the processor's cache


def hertz_to_mel(hertz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """HTK's mel scale, 1127 ln(1 + f / 700)."""
    return 1127.0 * np.log(1.0 + np.asarray(hertz) / 700.0)


def mel_bands() -> NDArray[np.float64]:
    """(257, 64) weights of triangular bands, linear in mel; the 0 Hz bin is not used."""
    bins = hertz_to_mel(np.linspace(0.0, RATE_HZ / 2, FFT_SIZE // 2 + 1))[:, None]
    edges = np.linspace(hertz_to_mel(LOWEST_HZ), hertz_to_mel(HIGHEST_HZ), NUM_BANDS + 2)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    weights = np.maximum(0.0, np.minimum(rising, falling))
    weights[0] = 0.0
    return weights


def log_mel(samples: Samples) -> Spool:
    """Compute the log-mel spectrogram of a sound.

    Args:
        samples: (S,) mono at 16 kHz in [-1, 1].

    Returns:
        (F, 64), F = 1 + (S - 400) // 160, no rows if S is below 400, read by slices; natural logarithm, at least ln 0.01.
    """
    spectrogram = Spool(NUM_BANDS)
    for rows in _log_mel_blocks(samples):
        spectrogram.append(rows)
    return spectrogram


def _log_mel_blocks(samples: Samples) -> Iterator[NDArray[np.float32]]:
    taper = torch.hann_window(WINDOW, periodic=True, dtype=torch.float64)
    bands = torch.from_numpy(mel_bands()).float()
    padded = torch.zeros((_BLOCK, FFT_SIZE), dtype=torch.float64)  # float32 would be off by 1e-3 next to a loud band
    num_rows = max(0, 1 + (len(samples) - WINDOW) // HOP)
    for first in range(0, num_rows, _BLOCK):
        rows = torch.empty((min(_BLOCK, num_rows - first), NUM_BANDS))
        sound = np.array(samples[first * HOP : (first + len(rows) - 1) * HOP + WINDOW], np.float64)
        torch.mul(torch.from_numpy(sound).unfold(0, WINDOW, HOP), taper, out=padded[: len(rows), :WINDOW])
        spectrum = torch.fft.rfft(padded[: len(rows)]).to(torch.complex64)
        magnitudes = torch.from_numpy(np.abs(spectrum.numpy()))  # ten times faster than torch.abs
        torch.log(torch.mm(magnitudes, bands) + LOG_OFFSET, out=rows)
        yield rows.numpy()


@dataclass(frozen=True)
class _Padded:
    """Sound (S,) with something at both ends, which is only added to what is read.

    Attributes:
        samples: the sound, S > 0.
        before: samples of silence at the start.
        after: samples at the end.
        fill: their value.
    """

    samples: Samples
    before: int
    after: int
    fill: float

    def __len__(self) -> int:
        return self.before + len(self.samples) + self.after

    def __getitem__(self, wanted: slice) -> NDArray[np.float32]:
        start, stop, _ = wanted.indices(len(self))
        inside = self.samples[max(0, start - self.before) : max(0, stop - self.before)]
        early = max(0, min(stop, self.before) - start)
        late = max(0, stop - start) - early - len(inside)
        return np.concatenate([np.zeros(early, np.float32), inside, np.full(late, self.fill, np.float32)])


def patch_starts(clock: FrameClock, start: str) -> NDArray[np.int64]:
    """(T,) index of the spectrogram row at which each frame's patch starts; negative before the sound.

    Exact fractions, rounded half to even. `ahead`: round(100 t), where t is the start of the frame in seconds, as in the
    code of [Zhang2023]. `centred`: the middle of the patch's 0.975 s is as near as possible to the centre of the frame.

    >>> patch_starts(FrameClock(Fraction(30), 6), "ahead")
    array([ 0,  3,  7, 10, 13, 17])

    Raises:
        SettingError: if `start` is neither.
    """
    if start not in STARTS:
        raise SettingError(f"Patch start '{start}'; expected one of {', '.join(STARTS)}.")
    places, scale = clock.moments(Fraction(RATE_HZ, HOP), centred=start == "centred")
    divisor = 2 * HOP * scale
    half_patch = _PATCH_SAMPLES * scale if start == "centred" else 0
    return np.array([round(Fraction(2 * HOP * place - half_patch, divisor)) for place in places], np.int64)


class LogMelPatches:
    """Patches of one spectrogram, one per frame.

    `ahead`: frame i sees the 0.975 s after its start. The last sample is repeated for 1 s; frames that start even later
    repeat the last patch [Zhang2023, code]. `centred`: silence before and after the sound.

    Attributes:
        valid: (T,) bool, true where the centre of the frame lies inside the sound; with `ahead` the sound may end two
            frames early, the difference that is allowed everywhere.
    """

    def __init__(self, samples: Samples, clock: FrameClock, start: str) -> None:
        """Compute the spectrogram.

        Args:
            samples: (S,) float32 mono at 16 kHz, S > 0, sample 0 at the first picture.
            clock: the label clock.
            start: "ahead" or "centred".

        Raises:
            SettingError: if `start` is neither.
        """
        starts = patch_starts(clock, start)
        if start == "ahead":
            self._spectrogram = log_mel(_Padded(samples, 0, RATE_HZ, float(samples[len(samples) - 1 :][0])))
        else:
            self._spectrogram = log_mel(_Padded(samples, _BEFORE, _BEFORE + HOP, 0.0))
            starts += _BEFORE // HOP
        self._starts = np.clip(starts, 0, len(self._spectrogram) - PATCH)
        self.valid = _inside(clock, len(samples), late=ALLOWED_DIFFERENCE if start == "ahead" else 0)

    def read(self, frames: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, 96, 64) float32 patches of these 0-based frames (N,)."""
        patches = np.empty((len(frames), PATCH, NUM_BANDS), np.float32)
        for patch, start in zip(patches, self._starts[frames].tolist(), strict=True):
            patch[:] = self._spectrogram[start : start + PATCH]
        return patches


def _inside(clock: FrameClock, num_samples: int, late: int) -> NDArray[np.bool_]:
    """(T,) whether the centre of a frame lies inside the sound, or at most `late` frames after its end."""
    places, scale = clock.moments(RATE_HZ, centred=True)
    inside = np.array([0 <= place < num_samples * scale for place in places])
    after = np.array([place >= num_samples * scale for place in places])
    return inside | (after & (np.cumsum(after) <= late))
