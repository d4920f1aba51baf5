"""Tables for people, in a terminal and in Markdown.

tabulate could do this, but importing it takes as long as all of `avfusion list`.
"""

from __future__ import annotations

from collections.abc import Sequence


def text_table(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns of equal width.

    >>> text_table([["name", "dim"], ["bert", "768"], ["facenet", "512"]])
    ['name     dim', 'bert     768', 'facenet  512']
    """
    widths = _widths(lines)
    return ["  ".join(_pad(line, widths)).rstrip() for line in lines]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], padded: bool = True) -> list[str]:
    """Lines of Markdown.

    >>> markdown_table(["name", "dim"], [["`bert`", "768"]])
    ['| name   | dim |', '|--------|-----|', '| `bert` | 768 |']

    Args:
        header: titles of the columns.
        rows: cells, which are Markdown.
        padded: whether to align the columns for people who read the source.
    """
    widths = _widths([header, *rows]) if padded else [1] * len(header)
    lines = [f"| {' | '.join(_pad(line, widths))} |" for line in (header, *rows)]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return lines


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _pad(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
