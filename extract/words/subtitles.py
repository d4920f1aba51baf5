"""Words of SubRip and WebVTT cues.

The words of a cue share its time span in proportion to their letters; tokens without a letter or digit (a dash, a music
note) are dropped. If WebVTT times parts of a cue, as YouTube's automatic captions do, the words between two times share
that part of the span.

Captions that roll up or grow word by word repeat text of the previous cue. A file counts as such if at least half of its
cues begin with whole lines of the previous cue and follow it immediately; then only the new words of a cue count, and
repeated ones keep their earlier times. In any other file, a repeated word was said again.
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
_LONGEST_GAP_S = 0.1  # between a cue and one that follows it immediately
_FEW_WORDS = 3  # a file of two cues may repeat fewer by chance
_FLASH_S = 0.05  # YouTube shows a finished line alone for 10 ms


class _Caption(NamedTuple):
    """A cue with its text parsed.

    Attributes:
        cue: the cue.
        texts: its text without tags, cut at the times inside it.
        inner: these times, seconds.
        lines: the words of each line that is not blank, signs included.
    """

    cue: Cue
    texts: list[str]
    inner: list[float]
    lines: list[list[str]]

    @property
    def words(self) -> list[str]:
        return [word for line in self.lines for word in line]


def read_cues(text: str, kind: str) -> list[Entry]:
    """The words of a subtitle file, in order.

    Args:
        text: content of the file.
        kind: "srt" or "vtt".

    Returns:
        Every word with a start and an end, and every fault.

    Raises:
        MalformedError: if it is not a subtitle file.
    """
    captions: list[_Caption] = []
    faults: list[Entry] = []
    for cue in scan_cues(text, kind):
        try:
            captions.append(_parse_cue(cue, kind))
        except MalformedError as error:
            faults.append(Entry(cue.place, fault=str(error)))
    if faults:
        return faults
    counts = _count_repeated(captions)
    return [entry for caption, count in zip(captions, counts, strict=True) for entry in _share_span(caption, count)]


def _parse_cue(cue: Cue, kind: str) -> _Caption:
    if cue.fault:
        raise MalformedError(cue.fault)
    raw = "\n".join(cue.lines)
    texts, inner = _split_at_times(raw) if kind == "vtt" else ([_TAG.sub("", raw)], [])
    plain = [html.unescape(_ASS_TAG.sub("", text)) for text in texts]
    lines = [line.split() for line in "".join(plain).split("\n")]
    caption = _Caption(cue, plain, inner, [line for line in lines if line])
    if any(_is_spoken(word) for word in caption.words):
        _check_times(caption)
    return caption


def _check_times(caption: _Caption) -> None:
    start_s, end_s = caption.cue.start_s, caption.cue.end_s
    if end_s < start_s:
        raise MalformedError(f"it ends at {end_s} s before it starts at {start_s} s")
    if not is_moment(end_s):
        raise MalformedError(f"it ends at {end_s} s, expected 0 s to {LONGEST_S} s")
    for before_s, after_s in itertools.pairwise([start_s, *caption.inner, end_s]):
        if after_s < before_s:
            raise MalformedError(
                f"its times go from {before_s} s back to {after_s} s, expected those within its text in order and from "
                f"{start_s} s to {end_s} s"
            )


def _split_at_times(raw_text: str) -> tuple[list[str], list[float]]:
    """The text of a WebVTT cue without its tags, cut at tags that are times, and these times in seconds."""
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


def _count_repeated(captions: Sequence[_Caption]) -> list[int]:
    """Number of words that each cue repeats from the previous one; all 0 unless the captions roll up or grow."""
    counts = [0] * len(captions)
    seen = repeated = compared = 0
    filled = [index for index, caption in enumerate(captions) if caption.lines]
    for earlier, later in itertools.pairwise(sorted(filled, key=lambda index: captions[index].cue.start_s)):
        before, after = captions[earlier], captions[later]
        counts[later] = _count_common(before.lines, after.words)
        is_flash = after.cue.end_s - after.cue.start_s <= _FLASH_S
        if counts[later] and (len(set(after.words)) == 1 or (after.words == before.words and not is_flash)):
            continue  # "no, no" says nothing about the file, nor does a duplicated cue
        compared += 1
        if counts[later] and after.cue.start_s - before.cue.end_s <= _LONGEST_GAP_S:
            seen += 1
            repeated += counts[later]
    rolls = 2 * seen >= compared and (seen >= 2 or (len(filled) == 2 and repeated >= _FEW_WORDS))
    return counts if rolls else [0] * len(captions)


def _count_common(before: Sequence[Sequence[str]], after: Sequence[str]) -> int:
    """Number of words with which a cue repeats the last lines of the previous one, as many lines as possible."""
    words = [word for line in before for word in line]
    for start in itertools.accumulate((len(line) for line in before[:-1]), initial=0):
        if words[start] == after[0] and words[start:] == after[: len(words) - start]:
            return len(words) - start
    return 0


def _share_span(caption: _Caption, repeated: int) -> Iterator[Entry]:
    """The words of a cue after the repeated ones, each with its share of the time span of its text.

    A word across two texts, as in a song timed by syllables, stays one word.
    """
    moments = [caption.cue.start_s, *caption.inner, caption.cue.end_s]
    homes = [number for number, text in enumerate(caption.texts) for _ in text]  # the text that each letter is in
    words = list(re.finditer(r"\S+", "".join(caption.texts)))[repeated:]
    spoken = [word for word in words if _is_spoken(word[0])]
    total = Counter(home for word in spoken for home in homes[word.start() : word.end()])
    before: Counter[int] = Counter()

    def moment_s(home: int) -> float:
        return round(moments[home] + (moments[home + 1] - moments[home]) * before[home] / total[home], 6)

    for word in spoken:
        letters = homes[word.start() : word.end()]
        begin_s = moment_s(letters[0])
        before.update(letters)
        yield Entry(caption.cue.place, word[0], begin_s, moment_s(letters[-1]))


def _is_spoken(word: str) -> bool:
    return any(letter.isalnum() for letter in word)
