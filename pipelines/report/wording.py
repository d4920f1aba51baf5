"""Make names from outside appear as they are in Markdown, links and figures."""

from __future__ import annotations

import re
from functools import cache
from typing import Any
from urllib.parse import quote

from pipelines.console.escaping import printable

_MARKS = re.compile(r"[\\`*\[\]<>|~$&]|(?<![^\W_])_|_(?![^\W_])")
"""Characters with a meaning in Markdown; underscores inside words have none."""
_LONGEST_ALT = 200


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line, also in tables and in the texts of pictures.

    >>> plain("a|b <img> rnn_va _x_")
    'a\\\\|b \\\\<img\\\\> rnn_va \\\\_x\\\\_'
    """
    return _MARKS.sub(lambda found: f"\\{found.group()}", printable(text, keep=""))


def code(text: str) -> str:
    """Text as Markdown code; it may contain backticks."""
    text = printable(text, keep="")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text or text.strip() != text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def picture(text: str, folder: str, file_name: str) -> str:
    """A picture with its text. Percent signs in file names are ordinary characters, so they are encoded again."""
    return f"![{plain(text[:_LONGEST_ALT])}]({folder}/{quote(file_name)})"


def drawable(text: str, longest: int = 80) -> str:
    """Text for a figure: on one line, shortened, with escapes for characters that the font lacks.

    A missing glyph would show as a box, with a warning on every run.
    """
    shown = "".join(mark if _has_glyph(mark) else _escape(mark) for mark in printable(text, keep=""))
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def perceived(heading: str) -> str:
    """What a model perceived, for a figure: speech and words are heard.

    >>> perceived("face"), perceived("speech")
    ('face seen', 'speech heard')
    """
    return f"{heading} {'heard' if heading in ('speech', 'words') else 'seen'}"


def _escape(mark: str) -> str:
    return mark.encode("unicode_escape").decode("ascii")


def _has_glyph(mark: str) -> bool:
    return mark.isascii() or _font().get_char_index(ord(mark)) != 0


@cache
def _font() -> Any:
    from matplotlib import font_manager

    return font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
