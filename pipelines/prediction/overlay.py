"""A video with its prediction drawn on it: the face that was followed, the point in the plane of affect, and running curves.

The picture stays as it is, with a box around the face; a strip below it has the rest. Everything is of the moment when the
picture is shown.
"""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from cache.targets import AFFECT, names_of, to_unit
from extract.faces.detection import face_corners
from extract.faces.tracking import Track
from extract.media.redraw import redraw_video
from extract.media.timeline import scan
from pipelines.prediction.answers import Answer
from pipelines.report.figures import COLOURS
from pipelines.report.wording import drawable

_TRAIL_S = 2.0
_CURVE_S = 10.0
_SHARE = 0.3  # of the picture's height that the strip has
_LEAST = 120  # pixels of the strip
_FINER = 2  # the strip is drawn this much larger, and shrunk, for smooth lines
_BACKGROUND, _GRID, _TEXT, _BOX = "#ffffff", "#cccccc", "#222222", "#00c8ff"
_LONGEST_NAME = 12


def draw_overlay(answer: Answer, out: Path) -> None:
    """Write a video with its prediction, as an MP4.

    Raises:
        MediaError: if the video has no pictures or is damaged.
    """
    scan(answer.video)  # before the face is followed, which takes long
    redraw_video(answer.video, out, Painter(answer, None if answer.follow is None else answer.follow()))


class Painter:
    """Draws the moment of each picture on it.

    Args:
        answer: the prediction.
        track: the face in each frame; None for models that read none.
    """

    def __init__(self, answer: Answer, track: Track | None) -> None:
        self._answer, self._track = answer, track
        self._values = to_unit(answer.values, answer.targets)
        self._times = answer.clock.times_s()
        names = [target.name for target in answer.targets]
        affect = [names.index(name) for name in names_of(AFFECT) if name in names]
        self._plane = affect if len(affect) == 2 else [0, 1][: len(names)]

    def __call__(self, number: int, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture with a box, and the strip below it; both sides even, as the encoder wants."""
        frame = min(number, self._answer.clock.num_frames - 1)
        height, width = picture.shape[0] // 2 * 2, max(2, picture.shape[1] // 2 * 2)
        shown = Image.fromarray(np.ascontiguousarray(picture[:height, :width]))
        if self._track is not None and self._track.present[frame]:
            corners = [tuple(corner) for corner in face_corners(self._track.landmarks[frame]).tolist()]
            ImageDraw.Draw(shown).line([*corners, corners[0]], fill=_BOX, width=max(2, height // 240), joint="curve")
        strip = max(_LEAST, round(_SHARE * height)) // 2 * 2
        return np.concatenate([np.asarray(shown), self._strip(frame, width, strip)])

    def _strip(self, frame: int, width: int, height: int) -> NDArray[np.uint8]:
        picture = Image.new("RGB", (width * _FINER, height * _FINER), _BACKGROUND)
        side = min(height, width // 2) * _FINER
        pen = ImageDraw.Draw(picture)
        pad = side // 12
        if len(self._plane) == 2:
            self._draw_plane(pen, frame, (pad, pad, side - pad, side - pad))
        left = side + pad if len(self._plane) == 2 else pad
        self._draw_curves(pen, frame, (left, pad, width * _FINER - pad, height * _FINER - pad))
        return np.asarray(picture.reduce(_FINER))

    @cached_property
    def _names(self) -> list[str]:
        return [drawable(target.name, _LONGEST_NAME) for target in self._answer.targets]

    def _draw_plane(self, pen: ImageDraw.ImageDraw, frame: int, box: tuple[int, int, int, int]) -> None:
        """The circumplex: two targets as a point, with its trail."""
        left, top, right, bottom = box
        size = right - left
        font = _font(size // 11)
        pen.ellipse(box, outline=_GRID, width=_FINER)
        pen.line([(left, (top + bottom) / 2), (right, (top + bottom) / 2)], fill=_GRID, width=_FINER)
        pen.line([((left + right) / 2, top), ((left + right) / 2, bottom)], fill=_GRID, width=_FINER)
        across, up = (self._names[column] for column in self._plane)
        pen.text((right, (top + bottom) / 2), across, fill=_TEXT, font=font, anchor="rd")
        pen.text(((left + right) / 2 + size / 40, top), up, fill=_TEXT, font=font, anchor="la")
        first = int(np.searchsorted(self._times, self._times[frame] - _TRAIL_S))
        plane = np.clip(self._values[first : frame + 1][:, self._plane], -1, 1)
        points = np.stack([left + (plane[:, 0] + 1) / 2 * size, bottom - (plane[:, 1] + 1) / 2 * (bottom - top)], 1)
        ages = np.linspace(0.15, 1, len(points))
        for start, stop, age in zip(points, points[1:], ages[1:], strict=False):
            pen.line(
                [tuple(start), tuple(stop)], fill=_faded(COLOURS[2], float(age)), width=max(2 * _FINER, size // 80)
            )
        x, y = points[-1].tolist()
        radius = size / 28
        seen = any(found[frame] for found in self._answer.seen.values())
        fill = COLOURS[2] if seen else _BACKGROUND  # hollow where the model saw nothing
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=COLOURS[2], width=2 * _FINER)

    def _draw_curves(self, pen: ImageDraw.ImageDraw, frame: int, box: tuple[int, int, int, int]) -> None:
        """Each target over the last seconds; now is at the right end of the axis."""
        left, top, right, bottom = box
        font = _font((bottom - top) // 9)
        legend = (bottom - top) // 7
        top += legend
        for level in (top, (top + bottom) / 2, bottom):
            pen.line([(left, level), (right, level)], fill=_GRID, width=_FINER)
        now_s = self._times[frame]
        first = int(np.searchsorted(self._times, now_s - _CURVE_S))
        step = max(1, (frame - first) // 1000)  # pictures of very high rates
        chosen = np.arange(frame, first - 1, -step)[::-1]
        x = right - (now_s - self._times[chosen]) / _CURVE_S * (right - left)
        place = float(left)
        for column, name in enumerate(self._names[: len(COLOURS)]):
            values = np.clip(self._values[chosen, column], -1, 1)
            y = bottom - (values + 1) / 2 * (bottom - top)
            points = list(map(tuple, np.stack([x, y], 1).tolist()))
            if len(points) > 1:
                pen.line(points, fill=COLOURS[column], width=max(2 * _FINER, (bottom - top) // 60), joint="curve")
            said = f"{name} {self._answer.values[frame, column]:+.2f}"
            pen.text((place, top - legend), said, fill=COLOURS[column], font=font, anchor="la")
            place += pen.textlength(f"{name} +0.00   ", font=font)
        pen.text((right, top - legend), f"{now_s:.1f} s", fill=_TEXT, font=font, anchor="ra")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(8, size))


def _faded(colour: str, strength: float) -> tuple[int, ...]:
    """A colour on the background, at some strength in [0, 1]."""
    return tuple(round(255 + (part - 255) * strength) for part in ImageColor.getrgb(colour))
