"""The log-mel spectrogram of VGGish, computed once per file, and its patches on the label clock.

Equal to the front end of torchvggish (Apache-2.0) up to 1e-5: 16 kHz, windows of 25 ms every 10 ms without centring or padding,
periodic Hann, FFT of 512, magnitudes, 64 HTK mel bands from 125 to 7500 Hz, ln(mel + 0.01). A patch is 96 windows,
0.975 s; neighbouring frames' patches overlap and are views of the one spectrogram (25.6 kB per second of sound).
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from cache.clock import ALLOWED_DIFFERENCE, FrameClock
from cache.errors import SettingError

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


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the log-mel spectrogram of a sound; memory beyond the result does not grow with its length.

    Args:
        samples: (S,) mono at 16 kHz in [-1, 1].

    Returns:
        (F, 64), F = 1 + (S - 400) // 160, no rows if S is below 400; natural logarithm, at least ln 0.01.
    """
    if len(samples) < WINDOW:
        return np.empty((0, NUM_BANDS), np.float32)
    taper = torch.hann_window(WINDOW, periodic=True, dtype=torch.float64)
    bands = torch.from_numpy(mel_bands()).float()
    result = torch.empty((1 + (len(samples) - WINDOW) // HOP, NUM_BANDS))
    padded = torch.zeros((_BLOCK, FFT_SIZE), dtype=torch.float64)  # float32 would be off by 1e-3 next to a loud band
    for index, rows in enumerate(result.split(_BLOCK)):
        sound = torch.from_numpy(samples[index * _BLOCK * HOP :][: (len(rows) - 1) * HOP + WINDOW])
        torch.mul(sound.double().unfold(0, WINDOW, HOP), taper, out=padded[: len(rows), :WINDOW])
        spectrum = torch.fft.rfft(padded[: len(rows)]).to(torch.complex64)
        magnitudes = torch.from_numpy(np.abs(spectrum.numpy()))  # ten times faster than torch.abs
        torch.log(torch.mm(magnitudes, bands) + LOG_OFFSET, out=rows)
    return result.numpy()


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

    def __init__(self, samples: NDArray[np.float32], clock: FrameClock, start: str) -> None:
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
            spectrogram = log_mel(np.pad(samples, (0, RATE_HZ), mode="edge"))
        else:
            spectrogram = log_mel(np.pad(samples, (_BEFORE, _BEFORE + HOP)))
            starts += _BEFORE // HOP
        self._starts = np.clip(starts, 0, len(spectrogram) - PATCH)
        self._patches = sliding_window_view(spectrogram.reshape(-1), PATCH * NUM_BANDS)[::NUM_BANDS]
        self.valid = _inside(clock, len(samples), late=ALLOWED_DIFFERENCE if start == "ahead" else 0)

    def read(self, frames: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, 96, 64) float32 patches of these 0-based frames (N,)."""
        return self._patches[self._starts[frames]].reshape(len(frames), PATCH, NUM_BANDS)


def _inside(clock: FrameClock, num_samples: int, late: int) -> NDArray[np.bool_]:
    """(T,) whether the centre of a frame lies inside the sound, or at most `late` frames after its end."""
    places, scale = clock.moments(RATE_HZ, centred=True)
    inside = np.array([0 <= place < num_samples * scale for place in places])
    after = np.array([place >= num_samples * scale for place in places])
    return inside | (after & (np.cumsum(after) <= late))
