"""Transcripts with word times: JSON (ours, Vosk's, Whisper's), SubRip, WebVTT and Praat's TextGrid.

Subtitles time whole cues; the words of a cue share its span in proportion to their letters, and what has no letter or
digit (a dash, a note sign) is left out. Where WebVTT tells times within a cue, as YouTube's automatic captions do, the
words between two of them share that span only. A TextGrid's words are the intervals of its tier "words" or "word";
intervals without a mark, and those that mark silence, are left out.
"""

from __future__ import annotations

import html
import io
import itertools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cache.errors import CorpusError, MissingFileError
from extract.extras import import_extra
from extract.words import Word

_SILENCE = frozenset(("", "sil", "sp", "<sil>", "<sp>", "<eps>", "#"))
_TIERS = ("word", "words")
_ASS_TAG = re.compile(r"\{\\[^}]*\}")
_TIMES = re.compile(r"-->|^\d\d:\d\d(:\d\d)?[.,]\d{3}\b")
_INLINE = re.compile(r"(?:([0-9]{2,4}):)?([0-5][0-9]):([0-5][0-9]\.[0-9]{3})")
_LIKE_INLINE = re.compile(r"[0-9]+:[0-9:.,]*")
_CUE = {
    "srt": "each cue to be a number, a line 'hh:mm:ss,mmm --> hh:mm:ss,mmm' and text",
    "vtt": "a first line 'WEBVTT' and each cue to be a line 'hh:mm:ss.mmm --> hh:mm:ss.mmm' and text",
}
_LONGEST_S = 1_000_000  # eleven days
_MOST_FAULTS = 10  # that a message lists


class _Entry(NamedTuple):
    """What a transcript says of one word, unchecked."""

    place: str
    text: Any
    start: Any
    end: Any
    fault: str = ""


class _Malformed(ValueError):
    """A transcript that cannot be read any further; says what and where."""

    remedy = "Mend the file"


class _NotUtf8(_Malformed):
    """A transcript in another encoding."""

    remedy = "Save it as UTF-8"

    def __init__(self, error: UnicodeDecodeError) -> None:
        super().__init__(f"it is not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x})")


def read_words(path: Path) -> list[Word]:
    """Read a transcript.

    Args:
        path: `.json`, `.srt`, `.vtt` or `.TextGrid`.

    Returns:
        The words by start; words that start together stay in the file's order. Words may overlap.

    Raises:
        MissingFileError: if there is no such file.
        CorpusError: if it is of no known format or a word has no text or no sensible times; lists every such word.
        SettingError: if the library that reads this format is not installed.
    """
    if not path.is_file():
        raise MissingFileError(f"There is no transcript '{path}'. Add it, or make it with a speech recogniser.")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise CorpusError(
            f"Transcript '{path}' has the suffix '{path.suffix}', expected one of .json, .srt, .vtt, .TextGrid. Convert or "
            "rename it."
        )
    try:
        entries = list(reader(path))
    except (_Malformed, RecursionError) as error:
        remedy = error.remedy if isinstance(error, _Malformed) else _Malformed.remedy
        raise CorpusError(f"Transcript '{path}' cannot be read: {error}. {remedy}.") from error
    return _checked(path, entries)


def write_words(path: Path, words: Sequence[Word]) -> None:
    """Write words as our JSON: the same words give the same bytes, and the file is there whole or not at all."""
    rows = [{"word": word.text, "start": word.start_s, "end": word.end_s} for word in words]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"words": rows}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def _checked(path: Path, entries: Iterable[_Entry]) -> list[Word]:
    words, faults = [], []
    for entry in entries:
        text = entry.text.strip() if isinstance(entry.text, str) else ""
        fault = entry.fault or ("" if text else f"the text is {entry.text!r}, expected a word")
        fault = fault or _fault_of_times(entry.start, entry.end)
        if fault:
            faults.append(f"{entry.place}: {fault}")
        else:
            words.append(Word(text, float(entry.start), float(entry.end)))
    if faults:
        rest = len(faults) - _MOST_FAULTS
        listed = "; ".join(faults[:_MOST_FAULTS]) + (f"; and {rest} more" if rest > 0 else "")
        raise CorpusError(f"Transcript '{path}' has {len(faults)} faulty word(s). {listed}. Mend the file.")
    return sorted(words, key=lambda word: word.start_s)


def _fault_of_times(start: Any, end: Any) -> str:
    for name, moment in (("start", start), ("end", end)):
        if isinstance(moment, bool) or not isinstance(moment, int | float):
            return f"the {name} is {moment!r}, expected seconds"
        if not 0 <= moment < math.inf or moment > _LONGEST_S:
            return f"the {name} is {moment!r:.40} s, expected 0 s to {_LONGEST_S} s"
    return f"it ends at {end} s before it starts at {start} s" if end < start else ""


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _NotUtf8(error) from error


def _read_json(path: Path) -> Iterator[_Entry]:
    """Ours and OpenAI's `{"words": […]}`, Vosk's `{"result": […]}`, Whisper's `{"segments": […]}`.

    Also a list of the first two, or of words.
    """
    text = _read_text(path)
    try:
        document = json.loads(text)
    except ValueError as error:
        raise _Malformed(f"it is no JSON ({error})") from error
    if isinstance(document, dict) and "words" not in document and isinstance(document.get("segments"), list):
        blocks = [(f"segments[{i}].", block) for i, block in enumerate(document["segments"])]
    elif isinstance(document, list) and _lists_words(document):
        yield from _read_list("", document)
        return
    elif isinstance(document, list):
        blocks = [(f"[{i}].", block) for i, block in enumerate(document)]
    else:
        blocks = [("", document)]
    for place, block in blocks:
        yield from _read_block(place, block)


def _read_block(place: str, block: Any) -> Iterator[_Entry]:
    key = next((key for key in ("words", "result") if isinstance(block, dict) and key in block), None)
    if key is None and isinstance(block, dict) and block.get("text") == "":
        return  # Vosk heard nothing
    if key is None or not isinstance(block[key], list):
        raise _Malformed(
            f"{place.rstrip('.') or 'the document'} holds no list 'words' or 'result'; expected one of "
            '{"word": text, "start": seconds, "end": seconds} (in Whisper: word_timestamps=True)'
        )
    yield from _read_list(f"{place}{key}", block[key])


def _lists_words(entries: Sequence[Any]) -> bool:
    """Whether a list is one of words with times, not of blocks that hold such lists."""
    objects = [entry for entry in entries if isinstance(entry, dict)]
    return not any("words" in entry or "result" in entry for entry in objects) and any(
        "word" in entry or ("text" in entry and "start" in entry) for entry in objects
    )


def _read_list(place: str, entries: Sequence[Any]) -> Iterator[_Entry]:
    for index, entry in enumerate(entries):
        spot = f"{place}[{index}]"
        if not isinstance(entry, dict):
            raise _Malformed(f"{spot} is {entry!r:.40}, expected an object with word, start and end")
        text, fault = entry.get("word", entry.get("text")), ""
        if (
            not place and "word" not in entry and isinstance(text, str) and len(text.split()) > 1
        ):  # a segment of Whisper's
            fault = f"the text is {text!r:.40}, expected one word (in Whisper: word_timestamps=True)"
        yield _Entry(spot, text, entry.get("start"), entry.get("end"), fault)


def _read_cues(path: Path) -> Iterator[_Entry]:
    """Words of the cues of SubRip or WebVTT."""
    webvtt = import_extra("webvtt", "words", "Reading subtitles")
    kind = path.suffix.lower()[1:]
    text = _read_text(path)
    try:
        cues = list(webvtt.WebVTT.from_buffer(io.StringIO(text), format=kind, strict=kind == "vtt"))
    except (webvtt.errors.MalformedFileError, webvtt.errors.MalformedCaptionError) as error:
        raise _Malformed(f"it is no whole .{kind} file ({error}); expected {_CUE[kind]}") from error
    expected, found = _count_cues(text, kind), sum(bool(cue.raw_text.strip()) for cue in cues)
    if found != expected:
        raise _Malformed(f"of {expected} cues with text only {found} are whole; expected {_CUE[kind]}")
    for number, cue in enumerate(cues, start=1):
        start_s, end_s = (moment.in_milliseconds() / 1000 for moment in (cue.start_time, cue.end_time))
        place = f"cue {number} ({cue.start})"
        try:
            texts, inner = _split_at_times(cue.raw_text) if kind == "vtt" else ([cue.text], [])
            yield from _share_spans(place, texts, start_s, inner, end_s)
        except _Malformed as error:
            yield _Entry(place, "", start_s, end_s, str(error))


def _count_cues(text: str, kind: str) -> int:
    """Lines of times that are followed by a line of text; in WebVTT lines of blanks may come before it."""
    lines = [line.strip() for line in text.splitlines() if kind != "vtt" or line.strip() or not line]
    return sum(
        _TIMES.search(line) is not None and following != ""
        for line, following in zip(lines, [*lines[1:], ""], strict=True)
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
        raise _Malformed(f"a time within its text is {f'<{tag}>':.40}, expected <hh:mm:ss.mmm>")
    hours, minutes, seconds = found.groups(default="0")
    return round(int(hours) * 3600 + int(minutes) * 60 + float(seconds), 3)


def _share_spans(
    place: str, texts: Sequence[str], start_s: float, inner: Sequence[float], end_s: float
) -> Iterator[_Entry]:
    """The words of a cue, each with a part of the span of its text in proportion to its letters there.

    A word over the border of two texts, as in a song timed by syllables, stays one word.
    """
    moments = [start_s, *inner, end_s]
    back = next((pair for pair in itertools.pairwise(moments) if pair[1] < pair[0]), None)
    if inner and back:
        raise _Malformed(
            f"its times go from {back[0]} s back to {back[1]} s, expected those within its text in order and from "
            f"{start_s} s to {end_s} s"
        )
    plain = [html.unescape(_ASS_TAG.sub("", text)) for text in texts]
    homes = [number for number, text in enumerate(plain) for _ in text]  # of each letter its text
    spoken = [word for word in re.finditer(r"\S+", "".join(plain)) if any(letter.isalnum() for letter in word[0])]
    total = Counter(home for word in spoken for home in homes[word.start() : word.end()])
    before: Counter[int] = Counter()

    def moment_s(home: int) -> float:
        return round(moments[home] + (moments[home + 1] - moments[home]) * before[home] / total[home], 6)

    for word in spoken:
        letters = homes[word.start() : word.end()]
        begin_s = moment_s(letters[0])
        before.update(letters)
        yield _Entry(place, word[0], begin_s, moment_s(letters[-1]))


def _read_textgrid(path: Path) -> Iterator[_Entry]:
    """Intervals of the tier "words" or "word", whatever the case of its name."""
    praatio = import_extra("praatio.textgrid", "words", "Reading TextGrids")
    errors = import_extra("praatio.utilities.errors", "words", "Reading TextGrids")
    try:
        grid = praatio.openTextgrid(str(path), False, reportingMode="silence", duplicateNamesMode="rename")
    except UnicodeDecodeError as error:
        raise _NotUtf8(error) from error
    except (errors.PraatioException, LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise _Malformed(f"it is no whole TextGrid ({type(error).__name__}: {error})") from error
    tiers = [tier for tier in grid.tiers if tier.name.strip().lower() in _TIERS]
    if len(tiers) != 1 or not isinstance(tiers[0], praatio.IntervalTier):
        names = ", ".join(f"'{tier.name}'" for tier in grid.tiers) or "none"
        raise _Malformed(f"its tiers are {names}; expected one interval tier named 'words' or 'word'")
    for number, interval in enumerate(tiers[0].entries, start=1):
        if interval.label.strip().lower() not in _SILENCE:
            place = f"interval {number} of tier '{tiers[0].name}'"
            yield _Entry(place, interval.label, interval.start, interval.end)


_READERS = {".json": _read_json, ".srt": _read_cues, ".vtt": _read_cues, ".textgrid": _read_textgrid}
