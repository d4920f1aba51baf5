"""Word lists in JSON: ours, Vosk's, gentle's, OpenAI's, and those of Whisper and its derivatives.

A file may hold several documents, one after the other. Of Vosk's alternatives, the one with the highest confidence counts.
Aligners give no times to words that they cannot find in the sound (a number, a sign). Such words share the span between
their neighbours in proportion to their letters; before the first and after the last word of a segment, the span to the
segment's own start or end. If there is no room, they have zero length. Words with times never move.
"""

from __future__ import annotations

import itertools
import json
import re
import reprlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from extract.words.entries import Entry, MalformedError, as_number, fault_of, is_moment

_LISTS = ("words", "result", "alternatives", "segments", "word_segments")
_GAP = re.compile(r"\s*")  # between documents; includes the record separator of RFC 7464
_EXPECTED = (
    'expected one of {"word": text, "start": seconds, "end": seconds} (in Whisper: word_timestamps=True; in Vosk: '
    "SetWords(True))"
)


class _Block(NamedTuple):
    """Consecutive words, and the time span that the transcript gives for them."""

    entries: list[Entry]
    start_s: float | None = None
    end_s: float | None = None


def read_word_lists(text: str) -> list[Entry]:
    """The words of one JSON file, in order.

    Args:
        text: content of the file.

    Returns:
        Every word with a start and an end, or with a fault.

    Raises:
        MalformedError: if the file is not JSON, has no list of words, or none of its words has times.
    """
    try:
        documents = list(_documents(text))
        blocks = list(_blocks("", documents[0] if len(documents) == 1 else documents))
    except RecursionError as error:
        raise MalformedError("it is nested too deeply; expected a list of words") from error
    entries = [entry for block in blocks for entry in block.entries]
    if any(entry.fault for entry in entries):
        return entries
    first = next((entry for entry in entries if _is_timed(entry)), None)
    if first is None:
        if entries:
            raise MalformedError(f"none of its {len(entries)} word(s) has a start and an end; {_EXPECTED}")
        return []
    return list(_with_times(blocks, first.start))


def _documents(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    at = _skip_gap(text, 0)
    while True:
        try:
            document, at = decoder.raw_decode(text, at)
        except ValueError as error:  # also a number of thousands of digits
            raise MalformedError(f"it is not JSON ({error})") from error
        yield document
        at = _skip_gap(text, at)
        if at == len(text):
            return


def _skip_gap(text: str, at: int) -> int:
    gap = _GAP.match(text, at)
    return gap.end() if gap else at


def _blocks(place: str, node: Any) -> Iterator[_Block]:
    if isinstance(node, list) and _is_word_list(node):
        yield _Block([_entry(f"{place}[{index}]", item, bare=True) for index, item in enumerate(node)])
    elif isinstance(node, list):
        for index, item in enumerate(node):
            yield from _blocks(f"{place}[{index}]", item)
    elif isinstance(node, dict):
        yield from _blocks_of_document(place, node)
    else:
        raise _no_words(place)


def _blocks_of_document(place: str, node: dict[str, Any]) -> Iterator[_Block]:
    """Blocks of a document or a segment: of its first list that is not empty, or of its text."""
    dot = f"{place}." if place else ""
    key = next((key for key in _LISTS if node.get(key)), None)
    inner = node[key] if key else None
    if inner is not None and not isinstance(inner, list):
        raise _no_words(place)
    if inner is not None and key == "alternatives":
        best = _best(inner)
        yield from _blocks(f"{dot}{key}[{best}]", inner[best])
    elif inner is not None and key == "segments":
        for index, segment in enumerate(inner):
            yield from _blocks(f"{dot}{key}[{index}]", segment)
    elif inner is not None:
        yield _Block([_entry(f"{dot}{key}[{index}]", item) for index, item in enumerate(inner)], *_span(node))
    elif isinstance(node.get("text"), str):  # a segment without speech, or one that could not be aligned
        yield _Block([_entry(f"{dot}text", {"word": word}) for word in node["text"].split()], *_span(node))
    elif "partial" not in node and all(node.get(key) is None for key in _LISTS):  # partial: an interim result of Vosk
        raise _no_words(place)


def _no_words(place: str) -> MalformedError:
    return MalformedError(f"{place or 'the document'} has no list 'words' or 'result'; {_EXPECTED}")


def _is_word_list(items: Sequence[Any]) -> bool:
    """Whether a list contains words, not documents or segments with such lists."""
    objects = [item for item in items if isinstance(item, dict)]
    return not any(key in item for item in objects for key in _LISTS) and any(
        "word" in item or ("text" in item and "start" in item) for item in objects
    )


def _best(alternatives: Sequence[Any]) -> int:
    """Index of the alternative with the highest confidence; 0 if any has none."""
    given = [as_number(item.get("confidence")) if isinstance(item, dict) else None for item in alternatives]
    confidences = [confidence for confidence in given if isinstance(confidence, int | float)]
    return confidences.index(max(confidences)) if len(confidences) == len(given) else 0


def _span(node: dict[str, Any]) -> tuple[float | None, float | None]:
    start_s, end_s = (as_number(node.get(key)) for key in ("start", "end"))
    return (start_s if is_moment(start_s) else None, end_s if is_moment(end_s) else None)


def _entry(place: str, item: Any, *, bare: bool = False) -> Entry:
    """A word, checked; in a bare list, an entry with several words is one of Whisper's segments."""
    if not isinstance(item, dict):
        raise MalformedError(f"{place} is {reprlib.repr(item)}, expected an object with word, start and end")
    text = item.get("word", item.get("text"))
    entry = Entry(place, text, as_number(item.get("start")), as_number(item.get("end")))
    if bare and "word" not in item and isinstance(text, str) and len(text.split()) > 1:
        entry = entry._replace(
            fault=f"the text is {reprlib.repr(text)}, expected one word (in Whisper: word_timestamps=True)"
        )
    return entry._replace(fault=fault_of(entry))


def _is_timed(entry: Entry) -> bool:
    return entry.start is not None and entry.end is not None


def _with_times(blocks: Sequence[_Block], first_s: float) -> Iterator[Entry]:
    """The words of all blocks; those of a block without any times are placed at the end of the previous block."""
    last_s = first_s
    for block in blocks:
        runs = [(timed, list(run)) for timed, run in itertools.groupby(block.entries, key=_is_timed)]
        for number, (timed, run) in enumerate(runs):
            if timed:
                last_s = run[-1].end
                yield from run
                continue
            left = runs[number - 1][1][-1].end if number else block.start_s
            right = runs[number + 1][1][0].start if number + 1 < len(runs) else block.end_s
            known = [moment for entry in run for moment in (entry.start, entry.end) if moment is not None]
            if left is None:
                left = min([*known, right if right is not None else last_s])
            if right is None:
                right = max([*known, left])
            if number + 1 < len(runs):
                left = min(left, right)
            placed = list(_place_words(run, left, max(left, right)))
            last_s = placed[-1].end
            yield from placed


def _place_words(run: Sequence[Entry], left_s: float, right_s: float) -> Iterator[Entry]:
    """Spread words between two moments; a word's own start or end, if it has one in this span, is kept."""
    begin = 0
    for index, entry in enumerate(run):
        cut_s = entry.end if entry.start is None else entry.start
        after = index + 1 if entry.start is None else index
        if cut_s is not None and left_s <= cut_s <= right_s:
            yield from _share_span(run[begin:after], left_s, cut_s)
            begin, left_s = after, cut_s
    yield from _share_span(run[begin:], left_s, right_s)


def _share_span(run: Sequence[Entry], left_s: float, right_s: float) -> Iterator[Entry]:
    letters = [len(entry.text.strip()) for entry in run]
    total = max(sum(letters), 1)
    borders = [left_s + (right_s - left_s) * before / total for before in itertools.accumulate(letters, initial=0)]
    borders = [min(max(round(border, 6), left_s), right_s) for border in borders[:-1]] + [right_s]
    for entry, start_s, end_s in zip(run, borders, borders[1:], strict=False):
        yield entry._replace(start=start_s, end=end_s, placed=True)
