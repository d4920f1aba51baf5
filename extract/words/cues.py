"""Parse the cues of SubRip and WebVTT as found in real files: their times and their lines of text.

Subtitle libraries silently skip what they cannot parse: a cue without its timing line disappears, or its text is appended
to the previous cue. Here every line belongs to a cue, a comment or the file header; anything else is a fault that names
the line.

Accepted in both formats, beyond their specifications: blank lines and spaces anywhere, any line ending, a comma or a point
before the fraction of a second, fractions of one to three digits (',5' is 0.5 s), hours of one digit or none, cues without
a number, cues with any line as their name, and settings after the times. A line of spaces stays inside its cue if more text
follows, as YouTube writes it, and ends the cue if another cue follows.
"""

from __future__ import annotations

import re
import reprlib
from typing import NamedTuple

from extract.words.entries import MalformedError

_LINE_END = re.compile(r"\r{0,2}\n|\r")
_CLEAR = r"(?=[0-9]+:[0-9]+[:.,])"  # 01:02 alone may be minutes or hours
_TIME = rf"{_CLEAR}(?:([0-9]{{1,4}}):)?([0-5]?[0-9]|60):([0-5]?[0-9]|60)(?:[.,]([0-9]{{1,3}}|[0-9]{{6}}))?"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}((?:\s.*)?)")
_LIKE_TIME = r"-?\d+:\d+(?::\d+)*(?:[.,]\d*)?"
_LIKE_TIMES = re.compile(rf"^\s*{_LIKE_TIME}\s*--+>|--+>\s*{_LIKE_TIME}|^\s*\d+:\d\d(?::\d\d)?[.,]\d{{3}}\b")
_SETTING = r"(?i:vertical|line|position|size|align|region|[XY][12])\s*:\s*\S+|[A-Za-z][\w-]*[:=]\S+"
_SETTINGS = re.compile(rf"(?:\s+(?>{_SETTING}))*+\s*")  # atomic, because a setting matches both alternatives
_NUMBER = re.compile(r"\s*([0-9]{1,9})\s*")
_HEADER = re.compile(r"WEBVTT(?:[ \t].*)?")
_HEADER_LINE = re.compile(r"(?:X-TIMESTAMP-MAP\s*=|Kind\s*:|Language\s*:).*", re.IGNORECASE)
_COMMENT = re.compile(r"NOTE(?:[ \t].*)?|(?:STYLE|REGION)[ \t]*")
_FORM = {"srt": "hh:mm:ss,mmm --> hh:mm:ss,mmm", "vtt": "hh:mm:ss.mmm --> hh:mm:ss.mmm"}


class Cue(NamedTuple):
    """A cue, or a fault.

    Attributes:
        place: its position in the file, for messages.
        start_s: when it appears, seconds.
        end_s: when it disappears, seconds.
        lines: its text without blank lines, tags included.
        fault: why it cannot be read; empty if it can.
    """

    place: str
    start_s: float = 0
    end_s: float = 0
    lines: tuple[str, ...] = ()
    fault: str = ""


def scan_cues(text: str, kind: str) -> list[Cue]:
    """All cues and faults of a file, in order.

    Args:
        text: content of the file.
        kind: "srt" or "vtt".

    Raises:
        MalformedError: if a WebVTT file does not begin with "WEBVTT", or a SubRip file is empty.
    """
    cues = _Scanner(text, kind).scan()
    if kind == "srt" and not cues:
        raise MalformedError(f"it has no cues; expected each to be a number, a line '{_FORM[kind]}' and text")
    return cues


class _Scanner:
    """Goes through the lines of one file; `at` is always the index of a line."""

    def __init__(self, text: str, kind: str) -> None:
        self.kind, self.form = kind, _FORM[kind]
        self.lines = _LINE_END.split(text.replace("\ufeff", ""))
        self.blank = [not line.strip() for line in self.lines]
        self.times = [_LIKE_TIMES.search(line) is not None for line in self.lines]
        self.spaces_separate = kind == "srt" and self._do_spaces_separate()

    def scan(self) -> list[Cue]:
        """All cues, in the order of the file."""
        cues: list[Cue] = []
        at = self._skip_header() if self.kind == "vtt" else 0
        number = 0
        while (at := self._skip_blanks(at)) < len(self.lines):
            times_at = self._find_times(at)
            if times_at is not None:
                number += 1
                cue, at = self._read_cue(at, times_at, f"cue {number} (line {times_at + 1})")
                cues.append(cue)
            elif self.kind == "vtt" and _COMMENT.fullmatch(self.lines[at]):
                at = self._skip_comment(at)
            elif self.kind == "vtt" and not cues and _HEADER_LINE.fullmatch(self.lines[at]):
                at += 1
            else:
                cue, at = self._read_stray(at)
                cues.append(cue)
        return cues

    def _skip_header(self) -> int:
        at = self._skip_blanks(0)
        first = self.lines[at] if at < len(self.lines) else ""
        if not _HEADER.fullmatch(first.rstrip()):
            raise MalformedError(
                f"its first line is {reprlib.repr(first)}; expected 'WEBVTT' and each cue to be a line '{self.form}' and text"
            )
        at += 1
        while at < len(self.lines) and not self.blank[at] and not self.times[at]:
            at += 1
        return at

    def _skip_blanks(self, at: int) -> int:
        while at < len(self.lines) and self.blank[at]:
            at += 1
        return at

    def _skip_comment(self, at: int) -> int:
        """Skip a comment or style sheet: up to an empty line (without spaces) or the next cue."""
        while at < len(self.lines) and self.lines[at] and not self.times[at]:
            at += 1
        return at

    def _is_number(self, at: int) -> bool:
        return _NUMBER.fullmatch(self.lines[at]) is not None

    def _has_times(self, at: int) -> bool:
        return at < len(self.lines) and self.times[at]

    def _find_times(self, at: int) -> int | None:
        """Index of the timing line of the cue that begins here with its number, its name or the times themselves."""
        if self.times[at]:
            return at
        below = self._skip_blanks(at + 1) if self._is_number(at) else at + 1
        return below if self._has_times(below) else None

    def _read_cue(self, at: int, times_at: int, place: str) -> tuple[Cue, int]:
        """The cue that begins at a line, and the line after it."""
        number = int(self.lines[at]) if at < times_at and self._is_number(at) else None
        taken: list[int] = []
        at = times_at + 1
        while at < len(self.lines) and not self.times[at]:
            if not self.blank[at]:
                taken.append(at)
                at += 1
                continue
            below = self._skip_blanks(at)
            ends = below == len(self.lines) or self._do_blanks_end(at, below, number, bool(taken))
            at = below
            if ends:
                break
        if number is not None and taken[-1:] == [at - 1] and self._is_number(at - 1) and self._has_times(at):
            at = taken.pop()  # no blank line before the number of the next cue
        start_s, end_s, fault = self._read_times(self.lines[times_at])
        return Cue(place, start_s, end_s, tuple(self.lines[index] for index in taken), fault), at

    def _do_blanks_end(self, at: int, below: int, number: int | None, has_text: bool) -> bool:
        """Whether the blank lines from `at` up to `below`, which is not blank, end the current cue."""
        times_at = self._find_times(below)
        if times_at == below:
            return True
        has_empty = "" in self.lines[at:below]
        if times_at is not None and (has_empty or has_text or self._is_number(below)):
            return True
        if self._is_number(below) and number is not None and int(self.lines[below]) == number + 1:
            return True  # the next cue, without its timing line
        if self.kind == "vtt":
            return has_empty or _COMMENT.fullmatch(self.lines[below]) is not None
        if not has_text:  # one empty line may precede the text, if a converter stripped its spaces
            return has_empty and below > at + 1
        return has_empty or self.spaces_separate

    def _do_spaces_separate(self) -> bool:
        """Whether most cues of a SubRip file are separated by lines of spaces instead of empty lines."""
        empty = spaces = 0
        for at in (index for index, is_times in enumerate(self.times) if is_times):
            above = at - 1 if at and self.blank[at - 1] else at - 2
            run = []
            while above >= 0 and self.blank[above]:
                run.append(self.lines[above])
                above -= 1
            if run and above >= 0:
                empty += "" in run
                spaces += "" not in run
        return spaces > empty

    def _read_stray(self, start: int) -> tuple[Cue, int]:
        """Lines outside any cue, as a fault, and the line after them."""
        stop = start + 1
        while stop < len(self.lines) and not self.blank[stop] and not self.times[stop]:
            if self._is_number(stop) and self._has_times(stop + 1):
                break
            stop += 1
        place = f"line {stop}" if stop == start + 1 else f"lines {start + 1} to {stop}"
        text = reprlib.repr(" / ".join(line.strip() for line in self.lines[start:stop]))
        return Cue(place, fault=f"{text} is not part of a cue, expected a line '{self.form}' above the text"), stop

    def _read_times(self, line: str) -> tuple[float, float, str]:
        found = _TIMES.fullmatch(line)
        if found is None:
            return 0, 0, f"{reprlib.repr(line.strip())} is not a timing line, expected '{self.form}'"
        if not _SETTINGS.fullmatch(found[9]):
            after = reprlib.repr(found[9].strip())
            return 0, 0, f"its times are followed by {after}, expected text to begin on the next line"
        return _seconds(*found.groups()[:4]), _seconds(*found.groups()[4:8]), ""


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str | None) -> float:
    whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
    return (whole * 1_000_000 + int((fraction or "").ljust(6, "0"))) / 1_000_000
