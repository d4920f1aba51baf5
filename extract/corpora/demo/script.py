"""Scripts of the demo corpus: what each person feels, shows and says at each tick, and when the face is out of sight.

Valence and arousal are smooth random tracks. Face, voice and words each follow them with their own smooth noise, so
that no modality reveals everything and two reveal more than one.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from extract.corpora.demo.voice import mouth_opening
from extract.corpora.demo.words import CONTROL_HZ, SpokenWord, lay_out_words

Track = NDArray[np.float64]  # one value in [-1, 1] per tick of CONTROL_HZ

# Noise of each modality, as a share of the latent's deviation: chosen so that ridge regression on simple
# features reaches a CCC of about 0.6 from the better modality and fusing gains on it.
FACE_VALENCE, FACE_AROUSAL = 0.7, 1.7
VOICE_VALENCE, VOICE_AROUSAL = 1.8, 0.7
WORDS_VALENCE = 0.7

_SMOOTHING_S = 0.8  # of the tracks; they turn about every two to three seconds
_SHORTEST_S = 10.0  # tracks are generated at least this long and then cut, to have the deviation of a long one


@dataclass(frozen=True)
class Script:
    """One person's trial.

    Attributes:
        valence, arousal: (N,) the truth, in [-1, 1] at CONTROL_HZ, as are the tracks below.
        face_valence, face_arousal: what the face shows.
        voice_valence, voice_arousal: what the voice conveys.
        opening: (N,) how far speech opens the mouth, in [0, 1].
        blink: (N,) factor of the eye opening, in [0, 1].
        sway: (N, 6) smooth noise for the head's x, y, scale, roll and yaw, and for the light, deviation 1.
        words: what is said.
        hidden: (start, stop) in frames, half-open, of each stretch without a visible face.
    """

    valence: Track
    arousal: Track
    face_valence: Track
    face_arousal: Track
    voice_valence: Track
    voice_arousal: Track
    opening: Track
    blink: Track
    sway: NDArray[np.float64]
    words: list[SpokenWord]
    hidden: list[tuple[int, int]]


def at_frames(track: Track, num_frames: int, rate: Fraction) -> Track:
    """(num_frames, …) values of a track at the centres of video frames."""
    ticks = (np.arange(num_frames) + 0.5) / float(rate) * CONTROL_HZ
    return track[np.minimum(ticks.astype(int), len(track) - 1)]


def write_script(
    rng: np.random.Generator, num_frames: int, rate: Fraction, turns: list[tuple[float, float]], hides: bool
) -> Script:
    """Draw one person's script.

    Args:
        rng: source of everything random.
        num_frames: video frames of the trial.
        rate: video frames per second.
        turns: (start, stop) of each stretch in which the person may speak, seconds.
        hides: whether the face is out of sight for a while.
    """
    num_ticks = math.ceil(num_frames / rate * CONTROL_HZ) + 1
    valence, arousal = (_smooth(rng, num_ticks) + rng.normal(0, 0.2) for _ in range(2))

    def follow(latent: Track, noise: float) -> Track:
        return np.tanh(0.9 * (latent + noise * _smooth(rng, num_ticks)) / np.hypot(1.0, noise))

    face_valence = follow(valence, FACE_VALENCE)
    face_arousal = follow(arousal, FACE_AROUSAL)
    voice_valence = follow(valence, VOICE_VALENCE)
    voice_arousal = follow(arousal, VOICE_AROUSAL)
    words = lay_out_words(turns, follow(valence, WORDS_VALENCE), voice_arousal, rng)
    return Script(
        valence=np.tanh(0.85 * valence),
        arousal=np.tanh(0.85 * arousal),
        face_valence=face_valence,
        face_arousal=face_arousal,
        voice_valence=voice_valence,
        voice_arousal=voice_arousal,
        opening=mouth_opening(words, num_ticks),
        blink=_blink(rng, num_ticks),
        sway=np.stack([_smooth(rng, num_ticks) for _ in range(6)], axis=1),
        words=words,
        hidden=[draw_run(rng, num_frames, 1.2 * float(rate))] if hides else [],
    )


def draw_turns(rng: np.random.Generator, duration_s: float, num_speakers: int) -> list[list[tuple[float, float]]]:
    """When each speaker may speak: a single one pauses once, for up to 1.5 s; two take turns of about 2 s."""
    if num_speakers == 1:
        silence = min(1.5, 0.25 * duration_s)
        start = rng.uniform(0.2 * duration_s, 0.9 * duration_s - silence)
        return [[(0.1, start), (start + silence, duration_s - 0.05)]]
    count = max(num_speakers, round(duration_s / 2))
    edges = np.linspace(0.1, duration_s, count + 1)
    pairs = [(float(start), float(stop) - 0.2) for start, stop in itertools.pairwise(edges)]
    return [pairs[speaker::num_speakers] for speaker in range(num_speakers)]


def draw_run(rng: np.random.Generator, num_frames: int, longest: float) -> tuple[int, int]:
    """Draw (start, stop) of a stretch of frames inside a trial, half-open, at most a fifth of it."""
    length = max(1, int(min(longest, 0.2 * num_frames)))
    start = int(rng.integers(num_frames // 10, num_frames - length - num_frames // 10))
    return start, start + length


def _smooth(rng: np.random.Generator, num_ticks: int) -> Track:
    """Gaussian noise of mean 0 and deviation 1 that changes direction every few seconds."""
    length = max(num_ticks, int(_SHORTEST_S * CONTROL_HZ))
    margin = int(3 * _SMOOTHING_S * CONTROL_HZ)
    noise = gaussian_filter1d(rng.standard_normal(length + 2 * margin), _SMOOTHING_S * CONTROL_HZ)[margin:-margin]
    return ((noise - noise.mean()) / noise.std())[:num_ticks]


def _blink(rng: np.random.Generator, num_ticks: int) -> Track:
    opening = np.ones(num_ticks)
    tick = int(rng.uniform(0.5, 3) * CONTROL_HZ)
    while tick < num_ticks:
        opening[tick : tick + int(0.12 * CONTROL_HZ)] = 0.1
        tick += int(rng.uniform(2, 5) * CONTROL_HZ)
    return opening
