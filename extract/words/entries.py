"""Entries of a transcript, before validation."""

from __future__ import annotations

import re
import reprlib
from typing import Any, NamedTuple

LONGEST_S = 1_000_000  # eleven days
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?\s*")


class Entry(NamedTuple):
    """One word of a transcript, or one fault.

    Attributes:
        place: its position in the file, for messages.
        text: the word.
        start: when it begins, seconds.
        end: when it ends, seconds.
        fault: why it cannot be used; empty if it can.
        placed: whether the transcript lacks its times, so that they were derived from its neighbours.
    """

    place: str
    text: Any = ""
    start: Any = None
    end: Any = None
    fault: str = ""
    placed: bool = False


class MalformedError(ValueError):
    """A transcript that cannot be parsed; says why and where."""

    remedy = "Fix the file"


class EncodingError(MalformedError):
    """A transcript in another encoding."""

    remedy = "Save it as UTF-8"


class AlteredError(MalformedError):
    """One of our transcripts that was modified after it was written."""

    remedy = (
        "Delete it and run 'avfusion transcribe' again, which makes only what is missing; if you corrected its words, "
        "remove its 'digest' instead"
    )


def as_number(value: Any) -> Any:
    """A number written as text becomes that number; everything else stays as it is."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    return value


def fault_of(entry: Entry) -> str:
    """Why a word cannot be used, or ""; a missing start or end is not a fault."""
    if entry.fault:
        return entry.fault
    if not isinstance(entry.text, str) or not entry.text.strip() or not _is_encodable(entry.text):
        return f"the text is {reprlib.repr(entry.text)}, expected a word"
    for name, moment in (("start", entry.start), ("end", entry.end)):
        if moment is not None and not is_moment(moment):
            return f"the {name} is {reprlib.repr(moment)}, expected 0 to {LONGEST_S} seconds"
    if entry.start is not None and entry.end is not None and entry.end < entry.start:
        return f"it ends at {entry.end} s before it starts at {entry.start} s"
    return ""


def is_moment(value: Any) -> bool:
    """Whether a value is a plausible number of seconds in a recording."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LONGEST_S


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True
