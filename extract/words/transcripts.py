"""Transcripts with word times: JSON (ours, Vosk's, Whisper's, gentle's), SubRip, WebVTT and Praat's TextGrid.

A TextGrid's words are the intervals of its tier "words" or "word", without empty intervals and those that mark silence.
For the other formats see `extract.words.word_lists` and `extract.words.subtitles`.

Our own transcripts carry a digest, like everything that the pipeline writes, and are rejected if they were modified.
"""

from __future__ import annotations

import codecs
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache.documents.documents import (
    DIGEST,
    Document,
    Part,
    format_document,
    is_signed,
    parse_json,
    read_document,
    write_document,
)
from cache.errors import CorpusError, MissingFileError, list_faults
from extract.extras import import_extra
from extract.words.entries import AlteredError, EncodingError, Entry, MalformedError, fault_of
from extract.words.subtitles import read_cues
from extract.words.word_lists import read_word_lists
from extract.words.words import Word

_SILENCE = frozenset(("", "sil", "sp", "<sil>", "<sp>", "<eps>", "#"))
_TIERS = ("word", "words")
_MOST_FAULTS = 10  # in a message
_DIGITS = 64  # of a digest
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class _Word(Part):
    word: str
    start: float
    end: float


class _Transcript(Document):
    """The document that `write_words` writes."""

    made_by: dict[str, str] | None = None
    words: list[_Word]


def read_words(path: Path) -> list[Word]:
    """Read a transcript.

    Words without times are placed between their neighbours, and counted in a warning.

    Args:
        path: `.json`, `.srt`, `.vtt` or `.TextGrid`.

    Returns:
        The words by start; words that start together stay in the file's order. Words may overlap.

    Raises:
        MissingFileError: if there is no such file.
        CorpusError: if its format is unknown, a word or cue has no text or no plausible times (lists all of them), or it is
            one of ours and was modified.
        SettingError: if the library that reads this format is not installed.
    """
    if not path.is_file():
        raise MissingFileError(f"No transcript '{path}'. Add it, or make it with a speech recogniser.")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise CorpusError(
            f"Transcript '{path}' has the suffix '{path.suffix}', expected one of .json, .srt, .vtt, .TextGrid. Convert or "
            "rename it."
        )
    try:
        entries = reader(path)
    except MalformedError as error:
        raise CorpusError(f"Transcript '{path}' cannot be read: {error}. {error.remedy}.") from error
    except OSError as error:
        raise CorpusError(
            f"Transcript '{path}' cannot be read: {error}. Copy it again, or check its permissions."
        ) from error
    _check(path, entries)
    placed = sum(entry.placed for entry in entries)
    if placed:
        warnings.warn(
            f"Transcript '{path}' has no times for {placed} of {len(entries)} words; they are placed between their "
            "neighbours.",
            stacklevel=2,
        )
    words = [Word(entry.text.strip(), float(entry.start), float(entry.end)) for entry in entries]
    return sorted(words, key=lambda word: word.start_s)


def write_words(path: Path, words: Sequence[Word], made_by: dict[str, str] | None = None) -> None:
    """Write words as our JSON, atomically; the same words give the same bytes.

    Args:
        path: `.json`.
        words: by start.
        made_by: recogniser and punctuation, None for words given by a person.

    Raises:
        ValueError: if a time is not a number.
    """
    rows = [{"word": word.text, "start": word.start_s, "end": word.end_s} for word in words]
    write_document(path, _Transcript, {**({"made_by": made_by} if made_by else {}), "words": rows})


def read_maker(path: Path) -> dict[str, str] | None:
    """Recogniser and punctuation of one of our transcripts; None for any other, or one that cannot be read."""
    if path.suffix.lower() != ".json":
        return None
    try:
        found = read_document(path, _Transcript, "", CorpusError)
    except CorpusError:  # from another program, or damaged, which is reported when its words are read
        return None
    return None if found is None else found.made_by


def _check(path: Path, entries: Sequence[Entry]) -> None:
    faults = [f"{entry.place}: {fault}" for entry in entries if (fault := fault_of(entry))]
    if faults:
        listed = list_faults(faults, _MOST_FAULTS)
        raise CorpusError(f"Transcript '{path}' has {len(faults)} fault(s). {listed}. Fix the file.")


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    wide = content.startswith(_UTF_16)
    try:
        text = content.decode("utf-16" if wide else "utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from error
    if "\0" in text:
        raise EncodingError(
            f"it is not UTF-8 (character {text.index(chr(0))} is 0x00, as in UTF-16 without a byte order mark)"
        )
    return text.removeprefix("\ufeff")


def _not_utf8(error: UnicodeDecodeError) -> EncodingError:
    at = 0 if error.encoding.startswith("utf-16") else error.start  # the byte order mark promised UTF-16
    return EncodingError(f"it is not UTF-8 (byte {at} is 0x{error.object[at]:02x})")


def _read_json(path: Path) -> list[Entry]:
    text = _read_text(path)
    fault = _find_alteration(text)
    if fault:
        raise AlteredError(fault)
    return read_word_lists(text)


def _find_alteration(text: str) -> str:
    """What was changed in one of our transcripts; "" if nothing was, or if it has no digest because it is not ours."""
    try:
        document = parse_json(text.strip().encode())
        if not isinstance(document, dict):
            return ""
        if DIGEST not in document:
            renamed = next((name for name in document if _is_digest(document, name)), None)
            return "" if renamed is None else f"its digest is named {renamed[:20]!r}"
        whole = is_signed(document) and text.encode() == format_document(_Transcript, document)
    except ValueError:  # not JSON, which is reported when its words are read
        return ""
    return "" if whole else "its digest is not that of its words"


def _is_digest(document: dict[str, Any], name: str) -> bool:
    """Whether the value with this name is the digest of the others."""
    value = document[name]
    if not isinstance(value, str) or len(value) != _DIGITS:
        return False
    others = {key: other for key, other in document.items() if key != name}
    return is_signed({**others, DIGEST: value})


def _read_subtitles(path: Path) -> list[Entry]:
    return read_cues(_read_text(path), path.suffix.lower()[1:])


def _read_textgrid(path: Path) -> list[Entry]:
    """Intervals of the tier "words" or "word", in any case."""
    praatio = import_extra("praatio.textgrid", "words", "Reading TextGrids")
    try:
        grid = praatio.openTextgrid(str(path), False, reportingMode="silence", duplicateNamesMode="rename")
        tiers = [tier for tier in grid.tiers if tier.name.strip().lower() in _TIERS]
        names = ", ".join(f"'{tier.name}'" for tier in grid.tiers) or "none"
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from error
    except (MemoryError, OSError):
        raise
    except Exception as error:  # the library has no exceptions of its own
        raise MalformedError(f"it is not a complete TextGrid ({type(error).__name__}: {error})") from error
    if len(tiers) != 1 or not isinstance(tiers[0], praatio.IntervalTier):
        raise MalformedError(f"its tiers are {names}; expected one interval tier named 'words' or 'word'")
    return [
        Entry(f"interval {number} of tier '{tiers[0].name}'", interval.label, interval.start, interval.end)
        for number, interval in enumerate(tiers[0].entries, start=1)
        if interval.label.strip().lower() not in _SILENCE
    ]


_READERS = {".json": _read_json, ".srt": _read_subtitles, ".vtt": _read_subtitles, ".textgrid": _read_textgrid}
