"""Words of the cues of SubRip and WebVTT.

The words of a cue share its span in proportion to their letters, and what has no letter or digit (a dash, a note sign)
is left out. Where WebVTT times parts of a cue, as YouTube's automatic captions do, the words between two times share
that span only.

Captions that roll up or grow word by word show again what the cue before has shown. A file counts as such captions where
at least half of its cues begin with whole lines of the cue before and follow it at once; then only what is new in a cue
counts, and what it repeats keeps its earlier times. In every other file a word that is repeated is said again.
"""

from __future__ import annotations

import html
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from extract.words.cues import Cue, scan_cues
from extract.words.entries import LONGEST_S, Entry, MalformedError, is_moment

_ASS_TAG = re.compile(r"\{\\[^{}]*\}")
_TAG = re.compile(r"</?\s*[A-Za-z][^<>]*>|<[0-9:.,]+>")  # in SubRip, where "<3" is text
_INLINE = re.compile(r"(?:([0-9]{2,4}):)?([0-5][0-9]):([0-5][0-9]\.[0-9]{3})")
_LIKE_INLINE = re.compile(r"[0-9]+:[0-9:.,]*")
_AT_ONCE_S = 0.1
_FEW_WORDS = 3  # that two cues alone may repeat by chance
_FLASH_S = 0.05  # YouTube shows a finished line alone for 10 ms


class _Shown(NamedTuple):
    """What a cue shows.

    Attributes:
        cue: the cue.
        texts: its text without tags, cut where a part of it is timed.
        inner: these times, seconds.
        lines: the words of each line that has any, signs included.
    """

    cue: Cue
    texts: list[str]
    inner: list[float]
    lines: list[list[str]]

    @property
    def words(self) -> list[str]:
        return [word for line in self.lines for word in line]


def read_cues(text: str, kind: str) -> list[Entry]:
    """The words of a file of subtitles, in its order.

    Args:
        text: of the file.
        kind: "srt" or "vtt".

    Returns:
        Every word with a start and an end, and every fault.

    Raises:
        MalformedError: if the file is not one of subtitles.
    """
    shown: list[_Shown] = []
    faults: list[Entry] = []
    for cue in scan_cues(text, kind):
        try:
            shown.append(_read_cue(cue, kind))
        except MalformedError as error:
            faults.append(Entry(cue.place, fault=str(error)))
    if faults:
        return faults
    return [
        entry for one, known in zip(shown, _count_repeated(shown), strict=True) for entry in _share_span(one, known)
    ]


def _read_cue(cue: Cue, kind: str) -> _Shown:
    if cue.fault:
        raise MalformedError(cue.fault)
    raw = "\n".join(cue.lines)
    texts, inner = _split_at_times(raw) if kind == "vtt" else ([_TAG.sub("", raw)], [])
    plain = [html.unescape(_ASS_TAG.sub("", text)) for text in texts]
    lines = [line.split() for line in "".join(plain).split("\n")]
    shown = _Shown(cue, plain, inner, [line for line in lines if line])
    if any(_is_spoken(word) for word in shown.words):
        _check_times(shown)
    return shown


def _check_times(shown: _Shown) -> None:
    start_s, end_s = shown.cue.start_s, shown.cue.end_s
    if end_s < start_s:
        raise MalformedError(f"it ends at {end_s} s before it starts at {start_s} s")
    if not is_moment(end_s):
        raise MalformedError(f"it ends at {end_s} s, expected 0 s to {LONGEST_S} s")
    for before_s, after_s in itertools.pairwise([start_s, *shown.inner, end_s]):
        if after_s < before_s:
            raise MalformedError(
                f"its times go from {before_s} s back to {after_s} s, expected those within its text in order and from "
                f"{start_s} s to {end_s} s"
            )


def _split_at_times(raw_text: str) -> tuple[list[str], list[float]]:
    """The text of a WebVTT cue without its tags, cut where a tag is a time, and these times in seconds."""
    texts, times = [""], []
    for line in raw_text.split("\n"):
        *closed, tail = line.split(">")
        for piece in closed:
            text, opened, tag = piece.partition("<")
            texts[-1] += text if opened else f"{text}>"
            if _LIKE_INLINE.fullmatch(tag):
                times.append(_read_inline(tag))
                texts.append("")
        texts[-1] += f"{tail}\n"
    return texts, times


def _read_inline(tag: str) -> float:
    found = _INLINE.fullmatch(tag)
    if found is None:
        raise MalformedError(f"a time within its text is {f'<{tag}>':.40}, expected <hh:mm:ss.mmm>")
    hours, minutes, seconds = found.groups(default="0")
    return round(int(hours) * 3600 + int(minutes) * 60 + float(seconds), 3)


def _count_repeated(shown: Sequence[_Shown]) -> list[int]:
    """How many words of each cue the cue before has shown already; 0 everywhere unless the captions roll or grow."""
    counts = [0] * len(shown)
    seen = repeated = compared = 0
    filled = [index for index, one in enumerate(shown) if one.lines]
    for earlier, later in itertools.pairwise(sorted(filled, key=lambda index: shown[index].cue.start_s)):
        before, after = shown[earlier], shown[later]
        counts[later] = _count_common(before.lines, after.words)
        is_flash = after.cue.end_s - after.cue.start_s <= _FLASH_S
        if counts[later] and (len(set(after.words)) == 1 or (after.words == before.words and not is_flash)):
            continue  # "no, no" says nothing of the file, nor does a cue that is there twice
        compared += 1
        if counts[later] and after.cue.start_s - before.cue.end_s <= _AT_ONCE_S:
            seen += 1
            repeated += counts[later]
    rolls = 2 * seen >= compared and (seen >= 2 or (len(filled) == 2 and repeated >= _FEW_WORDS))
    return counts if rolls else [0] * len(shown)


def _count_common(before: Sequence[Sequence[str]], after: Sequence[str]) -> int:
    """With how many words of the last lines of a cue the next one begins; as many lines as possible."""
    words = [word for line in before for word in line]
    for start in itertools.accumulate((len(line) for line in before[:-1]), initial=0):
        if words[start] == after[0] and words[start:] == after[: len(words) - start]:
            return len(words) - start
    return 0


def _share_span(shown: _Shown, known: int) -> Iterator[Entry]:
    """The words of a cue behind those known already, each with a part of the span of its text there.

    A word over the border of two texts, as in a song timed by syllables, stays one word.
    """
    moments = [shown.cue.start_s, *shown.inner, shown.cue.end_s]
    homes = [number for number, text in enumerate(shown.texts) for _ in text]  # of each letter its text
    words = list(re.finditer(r"\S+", "".join(shown.texts)))[known:]
    spoken = [word for word in words if _is_spoken(word[0])]
    total = Counter(home for word in spoken for home in homes[word.start() : word.end()])
    before: Counter[int] = Counter()

    def moment_s(home: int) -> float:
        return round(moments[home] + (moments[home + 1] - moments[home]) * before[home] / total[home], 6)

    for word in spoken:
        letters = homes[word.start() : word.end()]
        begin_s = moment_s(letters[0])
        before.update(letters)
        yield Entry(shown.cue.place, word[0], begin_s, moment_s(letters[-1]))


def _is_spoken(word: str) -> bool:
    return any(letter.isalnum() for letter in word)
