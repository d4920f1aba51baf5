"""Words of a trial with their times: mapped to the label clock, and split into sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock, nanoseconds

_SENTENCE_END = re.compile(r"[.?!…。？！][\"'”’»)\]]*$")
_INITIALS = re.compile(r"^\W*(?:\w\.)+$")  # J. or U.S.
_ABBREVIATIONS = frozenset(("mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "vs.", "etc."))


@dataclass(frozen=True)
class Word:
    """One word: the text between two spaces of a transcript.

    Attributes:
        text: as written, with punctuation.
        start_s: when it begins, seconds after the first picture.
        end_s: when it ends, not before `start_s`.
    """

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class WordFrames:
    """Words on the label clock.

    Attributes:
        rows: (T,) index of the word that each frame falls into, -1 for none.
        unreached: indices of the words that no frame falls into, because they are shorter than a frame, outside the trial,
            or covered by an earlier word.
    """

    rows: NDArray[np.int64]
    unreached: tuple[int, ...]


def spread_words(words: Sequence[Word], clock: FrameClock) -> WordFrames:
    """Give every frame the first word whose [start, end) contains the frame's start.

    Times are compared in whole nanoseconds, so that a word that starts at 1.001 s starts with frame 30 at
    30000/1001 Hz. (The paper's code takes start < t ≤ end; here a word includes the frame that starts with it.)

    Args:
        words: of one trial, by start.
        clock: the label clock.

    >>> from fractions import Fraction
    >>> words = [Word("so", 0.1, 0.2), Word("a", 0.21, 0.22), Word("be", 0.2, 0.4)]
    >>> spread_words(words, FrameClock(Fraction(10), 5))
    WordFrames(rows=array([-1,  0,  2,  2, -1]), unreached=(1,))
    """
    ticks = nanoseconds(clock.times_s())
    first = np.searchsorted(ticks, nanoseconds([word.start_s for word in words]), side="left")
    stop = np.searchsorted(ticks, nanoseconds([word.end_s for word in words]), side="left")
    rows = np.full(clock.num_frames, -1, np.int64)
    for index in reversed(range(len(words))):
        rows[first[index] : stop[index]] = index
    unreached = np.setdiff1d(np.arange(len(words)), rows)
    return WordFrames(rows, tuple(unreached.tolist()))


def split_sentences(words: Sequence[Word], pause_s: float) -> list[range]:
    """Cut words into sentences: after full stops, question and exclamation marks; if there are none, at pauses.

    Args:
        words: of one trial, by start.
        pause_s: silence that ends a sentence if there is no punctuation, seconds.

    Returns:
        Indices of the words of each sentence, in order, every word in one of them.

    >>> words = [Word("Mr.", 0, 1), Word("Bo", 1, 2), Word("left.", 2, 3), Word("Why?", 9, 10)]
    >>> split_sentences(words, pause_s=1)
    [range(0, 3), range(3, 4)]
    >>> split_sentences([Word("so", 0, 1), Word("we", 1.5, 2), Word("go", 3.2, 4)], pause_s=1)
    [range(0, 2), range(2, 3)]
    """
    ends = [index + 1 for index, word in enumerate(words) if _ends_sentence(word.text)]
    if not ends:
        silent_since = list(accumulate((word.end_s for word in words), max))
        ends = [i for i in range(1, len(words)) if words[i].start_s - silent_since[i - 1] > pause_s]
    borders = sorted({0, *ends, len(words)})
    return [range(start, stop) for start, stop in pairwise(borders)]


def _ends_sentence(text: str) -> bool:
    if text.lower() in _ABBREVIATIONS or _INITIALS.match(text):
        return False
    return _SENTENCE_END.search(text) is not None
