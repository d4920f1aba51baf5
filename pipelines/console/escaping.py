"""Make text from outside harmless: characters that control a terminal or are invisible become a backslash and digits.

File names and ids may contain escape sequences, right-to-left marks, invisible characters, or bytes that are not UTF-8.
"""

from __future__ import annotations

import codecs
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

_UNUSUAL = re.compile(r"[^ -~]")
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, formats (reversals, zero widths), lone surrogates, separators
_FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"  # invisible letters and marks


def printable(text: str, keep: str = "\n\t") -> str:
    """The text with every control character and invisible character as an escape.

    >>> printable("a\\x1b[31m\\u202eb\\n", keep="")
    'a\\\\x1b[31m\\\\u202eb\\\\n'

    Args:
        text: anything.
        keep: characters to leave unchanged: line ends and tabs in sentences, none in cells and names.
    """
    return _escape(text, keep, lambda mark: mark.encode("unicode_escape").decode("ascii"))


def json_text(value: Any, ascii_only: bool = False) -> str:
    """A value as JSON on several lines, with the same characters escaped in the way of JSON.

    Args:
        value: without nan and infinity.
        ascii_only: whether to escape every character beyond ASCII.
    """
    text = json.dumps(value, ensure_ascii=ascii_only, indent=1, allow_nan=False)
    return _escape(text, "\n", lambda mark: json.dumps(mark)[1:-1] if mark != "\x7f" else "\\u007f")


def encodable(text: str, encoding: str | None) -> str:
    """The text with escapes for characters that an encoding lacks."""
    try:
        return text.encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")
    except (LookupError, UnicodeError):
        return text.encode("ascii", "backslashreplace").decode("ascii")


def is_unicode(encoding: str | None) -> bool:
    """Whether an encoding has every character."""
    try:
        return codecs.lookup(encoding or "utf-8").name.startswith("utf")
    except LookupError:
        return False


def _escape(text: str, keep: str, escape: Callable[[str], str]) -> str:
    def replace(found: re.Match[str]) -> str:
        mark = found.group()
        hidden = unicodedata.category(mark) in _HIDDEN or mark in _FILLERS
        return escape(mark) if hidden and mark not in keep else mark

    return _UNUSUAL.sub(replace, text)


def as_json(value: Any) -> Any:
    """The value with None instead of nan and infinity, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
