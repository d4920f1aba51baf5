"""Names from outside in the report: as themselves in Markdown, in links and in figures."""

from __future__ import annotations

import re
from functools import cache
from typing import Any
from urllib.parse import quote

from pipelines.console.escaping import printable

_MARKS = re.compile(r"[\\`*\[\]<>|~$&]|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown reads as more than itself; underscores within words are themselves."""
_LONGEST_ALT = 200


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line, in tables and in the texts of pictures too.

    >>> plain("a|b <img> rnn_va _x_")
    'a\\\\|b \\\\<img\\\\> rnn_va \\\\_x\\\\_'
    """
    return _MARKS.sub(lambda found: f"\\{found.group()}", printable(text, keep=""))


def code(text: str) -> str:
    """Text in the typeface of code, which may hold backticks."""
    text = printable(text, keep="")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text or text.strip() != text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def picture(text: str, folder: str, file_name: str) -> str:
    """A picture with its text; percent signs of file names are characters like others, so they are encoded again."""
    return f"![{plain(text[:_LONGEST_ALT])}]({folder}/{quote(file_name)})"


def drawable(text: str, longest: int = 80) -> str:
    """Text for a figure: on one line, shortened, with escapes for what the font does not have.

    A missing glyph would be a box, and a warning on every run.
    """
    shown = "".join(mark if _has_glyph(mark) else _escape(mark) for mark in printable(text, keep=""))
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _escape(mark: str) -> str:
    return mark.encode("unicode_escape").decode("ascii")


def _has_glyph(mark: str) -> bool:
    return mark.isascii() or _font().get_char_index(ord(mark)) != 0


@cache
def _font() -> Any:
    from matplotlib import font_manager

    return font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
