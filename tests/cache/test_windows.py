"""Windows cover every frame and stitch back to what was cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import SettingError, ShapeError
from cache.windows import Window, cut_windows, stitch

numbers_of_a_cut = st.tuples(st.integers(1, 80), st.integers(1, 20), st.integers(1, 20), st.integers(1, 5)).map(
    lambda t: (t[0], t[1], min(t[1], t[2]), t[3])
)


def pieces(num_frames: int, length: int, hop: int, **options: object) -> list[tuple[int, int]]:
    return [(w.start, w.stop) for w in cut_windows({"a": num_frames}, length, hop, **options)]  # type: ignore[arg-type]


def test_aligned_tail_as_published():
    assert pieces(301, 300, 200) == [(0, 300), (1, 301)]
    assert pieces(500, 300, 200) == [(0, 300), (200, 500)]
    assert pieces(501, 300, 200) == [(0, 300), (200, 500), (201, 501)]


def test_tail_rules_differ_only_at_the_end():
    assert pieces(40, 16, 16, tail="align") == [(0, 16), (16, 32), (24, 40)]
    assert pieces(40, 16, 16, tail="pad") == [(0, 16), (16, 32), (32, 40)]
    assert pieces(40, 16, 16, tail="drop") == [(0, 16), (16, 32)]
    assert pieces(5, 16, 16) == pieces(5, 16, 16, tail="pad") == [(0, 5)]
    assert pieces(5, 16, 16, tail="drop") == []


def test_dilation_interleaves():
    windows = cut_windows({"a": 8}, 2, 2, dilation=2)
    assert [list(w.frames) for w in windows] == [[0, 2], [4, 6], [1, 3], [5, 7]]


def test_trials_keep_their_order():
    assert [w.trial_id for w in cut_windows({"b": 3, "a": 5}, 3, 3)] == ["b", "a", "a"]


@settings(deadline=None)
@given(numbers_of_a_cut, st.sampled_from(["align", "pad"]))
def test_every_frame_is_covered_and_none_outside(numbers, tail):
    num_frames, length, hop, dilation = numbers
    windows = cut_windows({"a": num_frames}, length, hop, dilation, tail)
    assert {frame for w in windows for frame in w.frames} == set(range(num_frames))
    assert all(1 <= w.num_frames <= length for w in windows)
    assert len(set(windows)) == len(windows)


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 7))
def test_padded_interleaved_windows_use_every_frame_once(num_frames, length, dilation):
    windows = cut_windows({"a": num_frames}, length, length, dilation, "pad")
    assert sorted(frame for w in windows for frame in w.frames) == list(range(num_frames))


@settings(deadline=None)
@given(numbers_of_a_cut)
def test_dropped_tail_leaves_whole_windows(numbers):
    num_frames, length, hop, dilation = numbers
    assert all(w.num_frames == length for w in cut_windows({"a": num_frames}, length, hop, dilation, "drop"))


@settings(deadline=None)
@given(numbers_of_a_cut, st.sampled_from(["align", "pad"]), st.integers(0, 3))
def test_stitch_undoes_cut(numbers, tail, columns):
    num_frames, length, hop, dilation = numbers
    values = np.random.default_rng(0).standard_normal((num_frames, columns))
    windows = cut_windows({"a": num_frames}, length, hop, dilation, tail)
    cut = np.full((len(windows), length, columns), np.nan)  # padding must not be looked at
    for row, window in zip(cut, windows, strict=True):
        row[: window.num_frames] = values[list(window.frames)]
    np.testing.assert_allclose(stitch(windows, cut, num_frames), values, rtol=1e-12)


def test_stitch_averages_overlaps_in_float64():
    windows = [Window("a", 0, 2), Window("a", 1, 3)]
    values = np.array([[[1.0], [2.0]], [[4.0], [5.0]]], np.float32)
    result = stitch(windows, values, 3)
    assert result.dtype == np.float64
    assert result.tolist() == [[1.0], [3.0], [5.0]]


@pytest.mark.parametrize(
    ("windows", "shape", "num_frames", "text"),
    [
        ([Window("a", 0, 2), Window("b", 0, 2)], (2, 2, 1), 3, "2 trials"),
        ([Window("a", 0, 2)], (2, 2, 1), 3, "expected one trial and"),
        ([Window("a", 0, 2)], (1, 2), 3, "expected one trial and"),
        ([Window("a", 0, 3)], (1, 2, 1), 3, "expected at most 2 frames"),
        ([Window("a", 0, 3)], (1, 3, 1), 2, "ending by 2"),
        ([Window("a", 1, 3)], (1, 2, 1), 3, "frame 0 of 3 is in no window"),
        ([Window("a", 0, 3)], (1, 3, 1), 5, "frame 3 of 5 is in no window"),
    ],
)
def test_stitch_refuses(windows, shape, num_frames, text):
    with pytest.raises(ShapeError, match=text):
        stitch(windows, np.zeros(shape), num_frames)


@pytest.mark.parametrize("numbers", [(0, 1), (4, 0), (4, 5), (4, 4, 0)])
def test_cut_refuses_impossible_windows(numbers):
    with pytest.raises(SettingError, match="do not exist; expected"):
        cut_windows({"a": 9}, *numbers)


def test_cut_refuses_unknown_tail():
    with pytest.raises(SettingError, match="tail one of align, pad, drop"):
        cut_windows({"a": 9}, 4, 4, tail="mirror")
