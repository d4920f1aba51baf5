"""A picture of who is who in a video: a row of faces for each person, with the time and the share of the frames in which they are seen."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from cache.clock import FrameClock
from extract.faces.finding import Reader, cut_faces
from extract.faces.people import Person

_KEY = "people"  # of the text in the PNG
_SIDE = 96  # of a face, pixels
_FACES = 8  # of a person
_LABEL = 190  # width of the text before them, pixels
_GAP = 4
_LINES = (16, 14, 14)  # heights of the text
_PAPER, _INK, _PALE = (255, 255, 255), (20, 20, 20), (110, 110, 110)


@dataclass(frozen=True)
class Row:
    """One person of a sheet.

    Attributes:
        name: as the person's trial.
        first_s: when the person is first seen, seconds.
        last_s: when last.
        share: of the frames in which the person is seen.
        faces: some of the faces, (side, side, 3), in order of time.
    """

    name: str
    first_s: float
    last_s: float
    share: float
    faces: Sequence[NDArray[np.uint8]]


def rows_of(read: Reader, clock: FrameClock, people: Sequence[Person], name: str) -> list[Row]:
    """The rows of a video's people, read in one pass over it."""
    times, num_frames = clock.times_s(), clock.num_frames
    cut: list[list[NDArray[np.uint8]]] = [[] for _ in people]
    for person, face in cut_faces(read, [person.sightings(_FACES) for person in people], _SIDE):
        cut[person].append(face)
    return [
        Row(
            f"{name}#{number + 1}",
            float(times[person.tracklets[0].frames[0]]),
            float(times[person.tracklets[-1].frames[-1]]),
            person.num_frames / num_frames,
            cut[number],
        )
        for number, person in enumerate(people)
    ]


def draw_sheet(rows: Sequence[Row], key: str) -> bytes:
    """A PNG with a row for each person; equal rows give equal bytes. `key` says what it shows, see `read_key`."""
    width = _LABEL + _FACES * (_SIDE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, max(1, len(rows)) * (_SIDE + _GAP) + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    fonts = [ImageFont.load_default(size) for size in _LINES]
    if not rows:
        pen.text((2 * _GAP, _SIDE // 2), "Nobody is seen for long enough.", _INK, fonts[0])
    for number, row in enumerate(rows):
        top = _GAP + number * (_SIDE + _GAP)
        lines = (
            _fit(row.name, fonts[0]),
            f"{_clock(row.first_s)} to {_clock(row.last_s)}",
            f"{row.share:.0%} of the frames",
        )
        for line, (text, font) in enumerate(zip(lines, fonts, strict=True)):
            pen.text((2 * _GAP, top + 20 + 22 * line), text, _PALE if line else _INK, font)
        for at, face in enumerate(row.faces):
            sheet.paste(Image.fromarray(face), (_LABEL + at * (_SIDE + _GAP), top))
    content = io.BytesIO()
    note = PngInfo()
    note.add_text(_KEY, key)
    sheet.save(content, "PNG", pnginfo=note)
    return content.getvalue()


def read_key(sheet: Path) -> str | None:
    """The key of a sheet; None if there is none, or it is damaged."""
    try:
        with Image.open(sheet) as picture:
            picture.load()
            return str(picture.info.get(_KEY))
    except (OSError, SyntaxError, ValueError):
        return None


def _clock(seconds: float) -> str:
    """A time as on a player.

    >>> _clock(75.25)
    '1:15.2'
    """
    tenths = int(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


def _fit(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """A name, shortened before its number until it fits beside the faces."""
    stem, _, number = name.rpartition("#")
    while stem and font.getlength(f"{stem}#{number}") > _LABEL - 4 * _GAP:
        stem = stem.removesuffix("…")[:-1] + ("…" if len(stem) > 1 else "")
    return f"{stem}#{number}"
