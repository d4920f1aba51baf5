"""The log-mel front end against torchvggish, and the places of its patches."""

from __future__ import annotations

import importlib.util
import math
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.errors import SettingError
from extract.inputs import spectrogram as logmel
from extract.inputs.spectrogram import LogMelPatches, log_mel, mel_bands, patch_starts

SILENCE = math.log(0.01)


@pytest.fixture(scope="module")
def mel_features() -> ModuleType:
    """The one file: the package imports numba."""
    package = importlib.util.find_spec("torchvggish")
    assert package is not None
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "mel_features.py"
    spec = importlib.util.spec_from_file_location("mel_features", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reference(module: ModuleType, samples: NDArray[np.float32]) -> NDArray[np.float64]:
    return module.log_mel_spectrogram(
        samples.astype(np.float64),
        16_000,
        log_offset=0.01,
        num_mel_bins=64,
        lower_edge_hertz=125,
        upper_edge_hertz=7500,
    )


def sound(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Loud and quiet noise and a tone, so that a loud band stands beside quiet ones."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(16_000 * seconds)) / 16_000
    noise = rng.normal(0, 0.2, len(time)) * (np.sin(2 * np.pi * time / 3) > 0.4)
    return (noise + 0.5 * np.sin(2 * np.pi * 440 * time)).clip(-1, 1).astype(np.float32)


@pytest.mark.parametrize("num_samples", [400, 559, 560, 16_000, 160 * 1024 + 399, 160 * 2048 + 400])
def test_equal_to_torchvggish(mel_features: ModuleType, num_samples: int) -> None:
    samples = sound(num_samples / 16_000)
    expected = reference(mel_features, samples)
    found = log_mel(samples)[:]
    assert found.shape == expected.shape == (1 + (num_samples - 400) // 160, 64)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_too_little_sound_has_no_rows() -> None:
    assert log_mel(np.zeros(399, np.float32))[:].shape == (0, 64)


def test_values_stay_in_the_declared_range() -> None:
    assert np.log(200 * mel_bands().sum(axis=0).max() + 0.01) < 8
    np.testing.assert_allclose(log_mel(np.zeros(400, np.float32))[:], SILENCE, rtol=1e-6)


def test_a_patch_equals_what_the_same_samples_give_alone(mel_features: ModuleType) -> None:
    samples = sound(4)
    clock = FrameClock(Fraction(30000, 1001), 110)
    padded = np.concatenate([samples, np.full(16_000, samples[-1])])
    patches = LogMelPatches(samples, clock, "ahead").read(np.arange(110))
    for frame in (0, 1, 17, 90, 109):
        first = 160 * round(Fraction(1001 * 100 * frame, 30000))
        np.testing.assert_allclose(patches[frame], reference(mel_features, padded[first : first + 15_600]), atol=1e-5)


def test_a_centred_patch_has_silence_outside(mel_features: ModuleType) -> None:
    samples = sound(2)
    clock = FrameClock(Fraction(25), 50)
    padded = np.concatenate([np.zeros(16_000, np.float32), samples, np.zeros(16_000, np.float32)])
    patches = LogMelPatches(samples, clock, "centred").read(np.arange(50))
    for frame in (0, 3, 25, 49):
        first = 16_000 + 160 * round(Fraction(2 * frame + 1, 50) * 100 - Fraction(195, 4))
        np.testing.assert_allclose(patches[frame], reference(mel_features, padded[first : first + 15_600]), atol=1e-5)
        centre = 16_000 + (2 * frame + 1) * 16_000 // 50
        assert abs(first + 7_800 - centre) <= 80
    np.testing.assert_allclose(patches[0, 0], SILENCE, rtol=1e-6)


def test_starts_are_those_of_the_published_code() -> None:
    assert patch_starts(FrameClock(Fraction(30), 6), "ahead").tolist() == [0, 3, 7, 10, 13, 17]
    assert patch_starts(FrameClock(Fraction(8), 4), "ahead").tolist() == [0, 12, 25, 38]  # 12.5 and 37.5 to even
    assert patch_starts(FrameClock(Fraction(25), 2, 1.0), "ahead").tolist() == [100, 104]
    with pytest.raises(SettingError, match="Patch start 'behind'; expected one of ahead, centred"):
        patch_starts(FrameClock(Fraction(25), 2), "behind")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([Fraction(25), Fraction(30), Fraction(30000, 1001), Fraction(8), Fraction(120), Fraction(7, 3)]),
    st.integers(1, 300),
    st.floats(-2, 5),
    st.sampled_from(["ahead", "centred"]),
)
def test_starts_are_exact(rate: Fraction, num_frames: int, start_s: float, start: str) -> None:
    found = patch_starts(FrameClock(rate, num_frames, start_s), start)
    for frame in (0, num_frames // 2, num_frames - 1):
        moment = Fraction(start_s) + frame / rate
        if start == "centred":
            moment += 1 / (2 * rate) - Fraction(15_600, 32_000)
        assert found[frame] == round(moment * 100)


def test_the_last_patch_is_repeated_and_missing_sound_is_no_input() -> None:
    clock = FrameClock(Fraction(10), 30)
    patches = LogMelPatches(sound(2), clock, "ahead")
    assert patches.valid.tolist() == [True] * 22 + [False] * 8
    late = patches.read(np.array([20, 21, 29]))
    assert (late[1] == late[2]).all()
    assert LogMelPatches(sound(2), clock, "centred").valid.tolist() == [True] * 20 + [False] * 10


def test_frames_before_the_sound_are_no_input() -> None:
    clock = FrameClock(Fraction(10), 10, -0.5)
    for start in ("ahead", "centred"):
        patches = LogMelPatches(sound(2), clock, start)
        assert patches.valid.tolist() == [False] * 5 + [True] * 5
        assert patches.read(np.arange(10)).shape == (10, 96, 64)


def test_a_very_short_sound_still_has_patches() -> None:
    for start in ("ahead", "centred"):
        patches = LogMelPatches(sound(0.01), FrameClock(Fraction(100), 1), start)
        assert patches.read(np.array([0])).shape == (1, 96, 64)
        assert patches.valid.all()


def test_one_transform_serves_all_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 0
    original = torch.fft.rfft

    def count(windows: torch.Tensor) -> torch.Tensor:
        nonlocal rows
        rows += len(windows)
        assert len(windows) <= logmel._BLOCK  # bounded memory
        return original(windows)

    monkeypatch.setattr(torch.fft, "rfft", count)
    patches = LogMelPatches(sound(20), FrameClock(Fraction(30), 600), "ahead")
    patches.read(np.arange(600))
    assert rows == 1 + (21 * 16_000 - 400) // 160  # not 600 · 96
