"""Voices of the demo corpus: a pulsing glottis and formant filters; pitch, loudness and timbre follow arousal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, sosfilt

from extract.corpora.demo.words import CONTROL_HZ, SpokenWord

SAMPLE_RATE = 16_000
LOWEST_HZ, HIGHEST_HZ = 90.0, 260.0

_LOUDNESS_DB = 10.0  # above and below the middle, at arousal 1 and -1
_ROOM = 0.0008  # amplitude of the room's noise
_CHUNK = SAMPLE_RATE // CONTROL_HZ  # samples between two settings of the formant filters
_VOWELS = {  # first three formants, Hz, after Peterson and Barney's men
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (290, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
_BANDWIDTHS = (80.0, 110.0, 160.0, 250.0)

Track = NDArray[np.float64]  # one value per tick of CONTROL_HZ


@dataclass(frozen=True)
class Voice:
    """A speaker's fixed features: pitch and length of the vocal tract, both factors of about 1."""

    pitch: float
    tract: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> Voice:
        """A speaker drawn from the generator."""
        return cls(rng.uniform(0.92, 1.08), rng.uniform(0.93, 1.07))


def mouth_opening(words: list[SpokenWord], num_ticks: int) -> Track:
    """(num_ticks,) how far speech opens the mouth, 0 … 1, at CONTROL_HZ."""
    opening = np.zeros(num_ticks)
    for start, stop, vowel in _syllables(words, num_ticks):
        opening[start:stop] = np.sin(np.linspace(0, np.pi, stop - start)) * (0.35 + _VOWELS[vowel][0] / 1100)
    return np.clip(gaussian_filter1d(opening, 0.02 * CONTROL_HZ), 0.0, 1.0)


def speak(
    words: list[SpokenWord], voice: Voice, arousal: Track, valence: Track, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Synthesise spoken words.

    Args:
        words: the words and their times.
        voice: the speaker.
        arousal: (N,) in [-1, 1] at CONTROL_HZ: pitch, loudness, sharpness of the glottal pulse, first formant.
        valence: (N,) in [-1, 1] at CONTROL_HZ: swing of the pitch, second formant.
        rng: source of breath, consonants and the room's noise.

    Returns:
        (N * SAMPLE_RATE / CONTROL_HZ,) samples in [-1, 1] at SAMPLE_RATE; only room noise between words.
    """
    num_ticks = len(arousal)
    formants = np.tile(np.array([500.0, 1500.0, 2500.0]), (num_ticks, 1))
    voiced = np.zeros(num_ticks)
    hiss = np.zeros(num_ticks)
    swing = np.zeros(num_ticks)
    for start, stop, vowel in _syllables(words, num_ticks):
        shape = np.sin(np.linspace(0.05, np.pi - 0.05, stop - start))
        formants[start:stop] = _VOWELS[vowel]
        voiced[start:stop] = np.sqrt(shape)
        swing[start:stop] = shape - 0.5
        hiss[start : min(stop, start + CONTROL_HZ // 40)] = rng.uniform(0.2, 0.6)
    energy = 10.0 ** (_LOUDNESS_DB * arousal / 20.0)
    pitch = voice.pitch * LOWEST_HZ * (HIGHEST_HZ / LOWEST_HZ) ** ((arousal + 1) / 2)
    pitch = np.clip(pitch * (1 + (0.06 + 0.05 * valence) * swing), LOWEST_HZ, HIGHEST_HZ)
    formants = gaussian_filter1d(formants, 0.015 * CONTROL_HZ, axis=0) / voice.tract
    formants *= np.stack([1 + 0.16 * arousal, 1 + 0.05 * arousal + 0.05 * valence, np.ones(num_ticks)], axis=1)
    source = _glottis(_to_samples(pitch), _to_samples((arousal + 1) / 2), rng)
    vowels = _filter_formants(source * _to_samples(gaussian_filter1d(voiced * energy, 1.0)), formants)
    noise = rng.standard_normal(num_ticks * _CHUNK)
    consonants = sosfilt(butter(2, 2500, "highpass", fs=SAMPLE_RATE, output="sos"), noise) * 0.02
    sound = 0.055 * vowels + consonants * _to_samples(hiss * energy) + _ROOM * rng.standard_normal(len(noise))
    return np.clip(sound, -1.0, 1.0).astype(np.float32)


def _syllables(words: list[SpokenWord], num_ticks: int) -> list[tuple[int, int, str]]:
    """(start, stop, vowel) of every syllable, in ticks."""
    syllables = []
    for word in words:
        edges = np.linspace(word.start_s, word.end_s, len(word.vowels) + 1) * CONTROL_HZ
        ticks = np.minimum(edges.astype(int), num_ticks)
        syllables += [(int(a), int(b), vowel) for a, b, vowel in zip(ticks, ticks[1:], word.vowels, strict=False)]
    return [syllable for syllable in syllables if syllable[1] - syllable[0] > 1]


def _to_samples(track: Track) -> Track:
    return np.interp(np.arange(len(track) * _CHUNK) / _CHUNK, np.arange(len(track)), track)


def _glottis(pitch: Track, sharpness: Track, rng: np.random.Generator) -> Track:
    """Rosenberg's pulse and its derivative, mixed by sharpness, with a little breath."""
    phase = np.cumsum(pitch / SAMPLE_RATE) % 1.0
    rising = 0.5 * (1 - np.cos(np.pi * phase / 0.4))
    falling = np.cos(np.pi / 2 * np.clip((phase - 0.4) / 0.16, 0, 1))
    flow = np.where(phase < 0.4, rising, falling)
    slope = np.gradient(flow) * SAMPLE_RATE / (8 * pitch)
    breath = 0.02 * rng.standard_normal(len(pitch))
    return (1 - sharpness) * (flow - 0.3) + (0.25 + 0.75 * sharpness) * slope + breath


def _filter_formants(source: Track, formants: NDArray[np.float64]) -> Track:
    """Cascade of four resonators with unit gain at 0 Hz, updated every tick."""
    centres = np.concatenate([formants, np.full((len(formants), 1), 3500.0)], axis=1)
    radius = np.exp(-np.pi * np.array(_BANDWIDTHS) / SAMPLE_RATE)
    feedback = -2 * radius * np.cos(2 * np.pi * centres / SAMPLE_RATE)
    sections = np.zeros((len(formants), len(_BANDWIDTHS), 6))
    sections[..., 3] = 1.0
    sections[..., 4] = feedback
    sections[..., 5] = radius**2
    sections[..., 0] = sections[..., 3:].sum(axis=-1)
    state = np.zeros((len(_BANDWIDTHS), 2))
    output = np.empty_like(source)
    for tick, section in enumerate(sections):
        span = slice(tick * _CHUNK, (tick + 1) * _CHUNK)
        output[span], state = sosfilt(section, source[span], zi=state)
    return output
