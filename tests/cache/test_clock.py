"""Clocks: moments of frames are exact, whether they follow a rate or are the pictures' own."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.clock import FrameClock, PictureTimes
from cache.documents.documents import ClockPart, check_document
from cache.errors import ShapeError

steps = st.lists(st.integers(0, 9000), min_size=0, max_size=40)
units = st.sampled_from([Fraction(1, 90000), Fraction(1, 1000), Fraction(1, 15), Fraction(1001, 30000)])


def varying(unit: Fraction, intervals: list[int]) -> FrameClock:
    ticks = tuple(np.cumsum([0, *intervals]).tolist())
    return FrameClock(Fraction(25), len(ticks), times=PictureTimes(unit, ticks))


@given(st.fractions(5, 120, max_denominator=1001), st.integers(1, 500), st.sampled_from([0.0, 0.5, -0.25, 1 / 3]))
def test_moments_of_a_rate_are_exact(rate: Fraction, number: int, start_s: float) -> None:
    clock = FrameClock(rate, number, start_s)
    for centred in (False, True):
        places, scale = clock.moments(16000, centred=centred)
        exact = [(Fraction(start_s) + (2 * i + centred) / (2 * rate)) * 16000 for i in range(number)]
        assert [Fraction(place, scale) for place in places] == exact
    assert clock.times_s().tolist() == pytest.approx([start_s + float(i / rate) for i in range(number)], abs=1e-9)


@given(units, steps)
def test_moments_of_varying_pictures_are_their_own(unit: Fraction, intervals: list[int]) -> None:
    clock = varying(unit, intervals)
    starts = [sum(intervals[:i]) * unit for i in range(clock.num_frames)]
    last = max(1, sorted(intervals)[(len(intervals) - 1) // 2]) if intervals else 1
    ends = [*starts[1:], starts[-1] + last * unit]
    places, scale = clock.moments(1)
    assert [Fraction(place, scale) for place in places] == starts
    places, scale = clock.moments(1, centred=True)
    assert [Fraction(place, scale) for place in places] == [(a + b) / 2 for a, b in zip(starts, ends, strict=True)]
    assert clock.duration_s == pytest.approx(float(ends[-1]))
    assert [clock.time_s(i) for i in range(clock.num_frames)] == pytest.approx(clock.times_s().tolist())


@given(units, steps)
def test_documents_come_back(unit: Fraction, intervals: list[int]) -> None:
    clock = varying(unit, intervals)
    assert check_document(json.loads(json.dumps(clock.to_document())), ClockPart).clock == clock
    assert clock.short_document()["times"].startswith("sha256:")


def test_a_clock_of_a_rate_has_the_document_that_it_always_had() -> None:
    document = {"rate": "30000/1001", "num_frames": 7, "start_s": 0.5}
    assert FrameClock(Fraction(30000, 1001), 7, 0.5).to_document() == document
    assert FrameClock(Fraction(30000, 1001), 7, 0.5).short_document() == document


@given(units, st.lists(st.integers(1, 9000), min_size=1, max_size=40), st.integers(1, 60))
def test_resized(unit: Fraction, intervals: list[int], number: int) -> None:
    clock = varying(unit, intervals)
    other = clock.resized(number)
    common = min(number, clock.num_frames)
    assert other.num_frames == number
    assert other.times_s()[:common].tolist() == clock.times_s()[:common].tolist()
    beyond = np.diff(other.times_s())[common - 1 :] if number > common else np.zeros(0)
    assert beyond.tolist() == pytest.approx([float(sorted(intervals)[(len(intervals) - 1) // 2] * unit)] * len(beyond))
    assert FrameClock(Fraction(25), 3).resized(5) == FrameClock(Fraction(25), 5)


@given(units, st.lists(st.integers(1, 9000), min_size=1, max_size=40))
def test_the_nearest_frame_of_its_own_time_is_the_frame(unit: Fraction, intervals: list[int]) -> None:
    clock = varying(unit, intervals)
    assert clock.nearest(clock.times_s()).tolist() == list(range(clock.num_frames))
    assert clock.nearest(np.array([-1e4]))[0] < 0
    assert clock.nearest(np.array([1e4]))[0] >= clock.num_frames


def test_clocks_that_contradict_themselves() -> None:
    with pytest.raises(ShapeError, match=r"5 frames has 2 picture times"):
        FrameClock(Fraction(25), 5, times=PictureTimes(Fraction(1, 25), (0, 1)))
    for ticks in ((1, 2), (0, 3, 2), ()):
        with pytest.raises(ShapeError, match="never decrease"):
            PictureTimes(Fraction(1, 25), ticks)
