"""Words on the label clock, and sentences."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.clock import FrameClock
from extract.words.words import Word, split_sentences, spread_words

NTSC = Fraction(30000, 1001)
MILLISECONDS = st.integers(0, 4000)


def first_match(words: list[tuple[int, int]], clock: FrameClock, start: Fraction) -> list[int]:
    """The definition, frame by frame in exact fractions; times of words in milliseconds."""
    rows = []
    for frame in range(clock.num_frames):
        moment = start + Fraction(frame) / clock.rate
        hits = (i for i, (a, b) in enumerate(words) if Fraction(a, 1000) <= moment < Fraction(b, 1000))
        rows.append(next(hits, -1))
    return rows


@settings(max_examples=150, deadline=None)
@given(
    words=st.lists(st.tuples(MILLISECONDS, MILLISECONDS).map(sorted).map(tuple), max_size=12),
    rate=st.sampled_from([NTSC, Fraction(24000, 1001), Fraction(25), Fraction(30), Fraction(50, 3), Fraction(10)]),
    num_frames=st.integers(1, 90),
    start_ms=st.sampled_from([0, 40, 1001]),
)
def test_frames_get_the_first_word_that_they_start_in(
    words: list[tuple[int, int]], rate: Fraction, num_frames: int, start_ms: int
) -> None:
    clock = FrameClock(rate, num_frames, start_ms / 1000)
    spread = spread_words([Word("x", a / 1000, b / 1000) for a, b in words], clock)
    expected = first_match(words, clock, Fraction(start_ms, 1000))
    assert spread.rows.tolist() == expected
    assert list(spread.unreached) == [i for i in range(len(words)) if i not in expected]


def test_a_word_begins_with_the_frame_that_it_begins_with_for_an_hour() -> None:
    clock = FrameClock(NTSC, 30000 * 4)
    frames = np.arange(0, 120_000, 30)  # 1.001 s apart
    words = [Word("x", round(1.001 * i, 3), round(1.001 * (i + 1), 3)) for i in range(len(frames))]
    rows = spread_words(words, clock).rows
    assert np.array_equal(np.flatnonzero(np.diff(rows)) + 1, frames[1:])


def test_words_that_no_frame_reaches_are_counted() -> None:
    clock = FrameClock(Fraction(10), 5)
    words = [Word("early", -9, -8), Word("short", 0.11, 0.19), Word("zero", 0.2, 0.2), Word("far", 1e300, 1e301)]
    spread = spread_words(words, clock)
    assert spread.rows.tolist() == [-1] * 5
    assert spread.unreached == (0, 1, 2, 3)
    assert spread_words([], clock).rows.tolist() == [-1] * 5


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("we left. why? so be it", ["we left.", "why?", "so be it"]),
        ('he said "no!" then Mr. A. Bo. left', ['he said "no!"', "then Mr. A. Bo.", "left"]),
        ("3.5 and U.S. stay … there", ["3.5 and U.S. stay …", "there"]),
        ("done.", ["done."]),
        ("", []),
    ],
)
def test_punctuation_ends_sentences(text: str, sentences: list[str]) -> None:
    words = [Word(word, 10 * i, 10 * i + 1) for i, word in enumerate(text.split())]
    found = [" ".join(words[i].text for i in sentence) for sentence in split_sentences(words, 1.0)]
    assert found == sentences


def test_pauses_end_sentences_without_punctuation() -> None:
    times = [(0, 5), (0.5, 1), (5.9, 6), (7.1, 8), (8.9, 9.5)]  # the first word outlasts the second
    words = [Word("x", start, end) for start, end in times]
    assert split_sentences(words, 1.0) == [range(3), range(3, 5)]
    assert split_sentences(words, 0.5) == [range(2), range(2, 3), range(3, 4), range(4, 5)]
