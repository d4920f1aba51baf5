"""Pieces of sound that still comes are those of the whole sound."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from cache.clock import FrameClock
from cache.errors import MissingFileError, SettingError
from extract.inputs.images import ImageInput
from extract.inputs.logmel import LogMelInput
from extract.inputs.sentences import SentenceInput
from extract.inputs.waves import SoundInput, WaveInput
from extract.media.live import LiveClock, open_live


@pytest.fixture
def recording(tmp_path: Path, media) -> tuple[Path, np.ndarray]:
    """Four seconds of noise."""
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 63_777).astype(np.float32)
    sound = np.round(sound * 32768).astype(np.float32) / 32768
    return media.write_audio(tmp_path / "sound.wav", sound, "pcm_s16le", 16_000), sound


@pytest.mark.parametrize("kind", [WaveInput(16_000, 0.5), LogMelInput("ahead"), LogMelInput("centred")])
@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30_000, 1001), Fraction(7)])
def test_sound_piece_by_piece(recording, kind: SoundInput, rate: Fraction):
    path, sound = recording
    found, marks = [], []
    with open_live(path, rate, 0) as medium:
        follower = kind.follow(medium, None)
        done = 0
        for _ in medium.read():
            if (ready := follower.ready()) > done:
                items, valid = follower.take(done, ready)
                found.append(items)
                marks.append(valid)
                medium.forget(ready)
                done = ready
    clock = FrameClock(rate, done)
    whole = kind.cut(sound, clock)
    assert done == round(len(sound) * rate / 16_000)
    np.testing.assert_array_equal(np.concatenate(marks), whole.valid)
    np.testing.assert_allclose(np.concatenate(found), whole.read(np.flatnonzero(whole.valid)), rtol=0, atol=1e-5)
    assert len(found) > 5


def test_what_cannot_be_followed(recording):
    with open_live(recording[0], Fraction(25), 0) as medium:
        with pytest.raises(SettingError, match="cannot read words.*Train a model without them"):
            SentenceInput.follow(SentenceInput.__new__(SentenceInput), medium, None)
        with pytest.raises(MissingFileError, match="'.*sound.wav' has no pictures"):
            ImageInput(8, (0, 0, 0), (1, 1, 1)).follow(medium, None)


def test_the_clock_follows_a_usual_rate_until_pictures_contradict_it():
    """Times in milliseconds, as in Matroska, at 29.97 pictures a second; then pictures that follow no rate."""
    clock = LiveClock(Fraction(1, 1000), Fraction(30))
    for frame in range(200):
        clock.add(round(frame * 1001 / 30))
    assert (clock.known, clock.edge_s(150)) == (200, Fraction(150 * 1001, 30_000))
    clock.add(round(200 * 1001 / 30) + 500)
    assert (clock.known, clock.edge_s(150)) == (200, Fraction(5005, 1000))
    clock.finish()
    assert clock.known == 201
    assert clock.edge_s(201) == clock.edge_s(200) + Fraction(33, 1000)
    assert clock.part(150, 152, -2.0).edges_s()[1:4].tolist() == pytest.approx([3.005, 3.038, 3.072])
