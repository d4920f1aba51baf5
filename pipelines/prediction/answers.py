"""The answer for one video: a table with a row per frame, and the files that it is written to.

Subtitles and annotation tiers cannot hold 25 values a second: there, each cue has the rounded mean of about a second, and
following cues with equal values are one.
"""

from __future__ import annotations

import csv
import io
import json
import mimetypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.targets import Target
from extract.faces.tracking import Track
from pipelines.console.escaping import as_json

FORMATS = {"csv": ".csv", "json": ".affect.json", "elan": ".eaf", "vtt": ".affect.vtt"}
"""Format → ending of its files; a plain `.json` or `.vtt` beside a video would be taken for its transcript."""
_ROWS = 1 << 12  # written together
_CUE_S = 1.0
_STEPS = 200  # into which cues divide the range of a target: 0.01 in [-1, 1]
_EAF = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"


@dataclass(frozen=True, eq=False)
class Answer:
    """What an ensemble says about one video.

    Attributes:
        video: the file.
        clock: one frame per picture.
        targets: the C targets.
        values: (T, C), in the unit of each target.
        spread: (T, C) standard deviation over the ensemble; nan for a single run.
        seen: heading → (T,) whether the model had input: face, speech, words.
        follow: follows the face that the model saw once more, for pictures of it; None for models that read none.
    """

    video: Path
    clock: FrameClock
    targets: tuple[Target, ...]
    values: NDArray[np.float32]
    spread: NDArray[np.float32]
    seen: Mapping[str, NDArray[np.bool_]]
    follow: Callable[[], Track] | None = None

    def table(self) -> dict[str, NDArray[Any]]:
        """Column → (T,): frame, time_s, each target, its spread, and what was seen as 1 or 0."""
        frames = np.arange(self.clock.num_frames)
        return make_table(frames, self.clock.times_s(), self.targets, self.values, self.spread, self.seen)

    def format(self, kind: str) -> bytes:
        """The bytes of a file in one of FORMATS."""
        return {"csv": self._csv, "json": self._json, "elan": self._elan, "vtt": self._vtt}[kind]().encode()

    def _csv(self) -> str:
        return format_table(self.table())

    def _json(self) -> str:
        columns = {name: [_number(value) for value in column.tolist()] for name, column in self.table().items()}
        targets = {target.name: {"low": target.low, "high": target.high} for target in self.targets}
        document = {"video": self.video.name, "targets": targets, "columns": columns}
        return json.dumps(as_json(document), ensure_ascii=False) + "\n"

    def cues(self, columns: list[int]) -> Iterator[tuple[float, float, tuple[str, ...]]]:
        """Start and end in seconds, and the rounded values of some targets: means of about a second, equal ones merged."""
        edges = self.clock.edges_s() - self.clock.start_s
        second = np.floor(edges[:-1] / _CUE_S + 1e-9)
        cuts = [0, *(np.flatnonzero(np.diff(second)) + 1).tolist(), len(second)]
        parts = [
            (tuple(_rounded(self.values[start:stop, c].mean(), self.targets[c]) for c in columns), start, stop)
            for start, stop in pairwise(cuts)
        ]
        for texts, same in groupby(parts, key=lambda part: part[0]):
            own = list(same)
            yield float(edges[own[0][1]]), float(edges[own[-1][2]]), texts

    def _vtt(self) -> str:
        names = [_vtt_text(target.name) for target in self.targets]
        blocks = ["WEBVTT\n"]
        for start_s, end_s, texts in self.cues(list(range(len(names)))):
            if _timestamp(start_s) != _timestamp(end_s):  # a cue needs time
                said = "  ".join(f"{name} {text}" for name, text in zip(names, texts, strict=True))
                blocks.append(f"{_timestamp(start_s)} --> {_timestamp(end_s)}\n{said}\n")
        return "\n".join(blocks)

    def _elan(self) -> str:
        ElementTree.register_namespace("xsi", _XSI)
        when = datetime.fromtimestamp(int(self.video.stat().st_mtime), UTC)  # the same bytes for the same video
        about = {"AUTHOR": "avfusion", "DATE": when.isoformat(), "FORMAT": "3.0", "VERSION": "3.0"}
        root = ElementTree.Element("ANNOTATION_DOCUMENT", {**about, f"{{{_XSI}}}noNamespaceSchemaLocation": _EAF})
        header = ElementTree.SubElement(root, "HEADER", {"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"})
        kind = mimetypes.guess_type(self.video.name)[0] or "video/mp4"
        media = {"MEDIA_URL": self.video.absolute().as_uri(), "MIME_TYPE": kind}
        ElementTree.SubElement(header, "MEDIA_DESCRIPTOR", media)
        order = ElementTree.SubElement(root, "TIME_ORDER")
        count = 0
        slots: list[tuple[int, str]] = []
        for column, target in enumerate(self.targets):
            tier = ElementTree.SubElement(root, "TIER", {"LINGUISTIC_TYPE_REF": "affect", "TIER_ID": target.name})
            for start_s, end_s, (text,) in self.cues([column]):
                start, end = round(1000 * start_s), round(1000 * end_s)
                if start == end:  # an annotation needs time
                    continue
                count += 1
                own = {"TIME_SLOT_REF1": f"ts{2 * count - 1}", "TIME_SLOT_REF2": f"ts{2 * count}"}
                slots += zip((start, end), own.values(), strict=True)
                cue = ElementTree.SubElement(tier, "ANNOTATION")
                cue = ElementTree.SubElement(cue, "ALIGNABLE_ANNOTATION", {"ANNOTATION_ID": f"a{count}", **own})
                ElementTree.SubElement(cue, "ANNOTATION_VALUE").text = text
        for moment, slot in sorted(slots, key=lambda pair: pair[0]):
            ElementTree.SubElement(order, "TIME_SLOT", {"TIME_SLOT_ID": slot, "TIME_VALUE": str(moment)})
        alone = {"GRAPHIC_REFERENCES": "false", "LINGUISTIC_TYPE_ID": "affect", "TIME_ALIGNABLE": "true"}
        ElementTree.SubElement(root, "LINGUISTIC_TYPE", alone)
        ElementTree.indent(root, " ")
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, "unicode")}\n'


def make_table(
    frames: NDArray[np.int64],
    times_s: NDArray[np.float64],
    targets: Sequence[Target],
    values: NDArray[np.float32],
    spread: NDArray[np.float32],
    seen: Mapping[str, NDArray[np.bool_]],
) -> dict[str, NDArray[Any]]:
    """Column → (T,), see `Answer.table`."""
    columns: dict[str, NDArray[Any]] = {"frame": frames, "time_s": times_s}
    columns |= {target.name: values[:, column] for column, target in enumerate(targets)}
    columns |= {f"{target.name}_spread": spread[:, column] for column, target in enumerate(targets)}
    return columns | {name: found.astype(np.int64) for name, found in seen.items()}


def format_table(columns: Mapping[str, NDArray[Any]], header: bool = True) -> str:
    """A table as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    if header:
        writer.writerow(columns)
    parts = [file.getvalue()]
    for start in range(
        0, len(next(iter(columns.values()))), _ROWS
    ):  # at once, the numbers of hours would need much memory
        file.seek(0)
        file.truncate()
        rows = (map(_plain, column[start : start + _ROWS].tolist()) for column in columns.values())
        writer.writerows(zip(*rows, strict=True))
        parts.append(file.getvalue())
    return "".join(parts)


def _number(value: Any) -> Any:
    """A number with the digits that a float32 has, six after the point of a time."""
    return float(f"{value:.9g}") if isinstance(value, float) else value


def _plain(value: Any) -> str:
    """A number as text; nothing for nan."""
    return "" if value != value else f"{value:.9g}" if isinstance(value, float) else str(value)


def _rounded(value: float, target: Target) -> str:
    """A value to about a hundredth of half the range, never "-0.00"."""
    digits = max(0, round(-np.log10((target.high - target.low) / _STEPS)))
    return f"{round(float(value), digits) + 0.0:.{digits}f}"


def _timestamp(moment_s: float) -> str:
    """A moment as WebVTT writes it.

    >>> _timestamp(3725.5)
    '01:02:05.500'
    """
    seconds, thousandths = divmod(round(1000 * moment_s), 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{thousandths:03}"


def _vtt_text(name: str) -> str:
    """A name as the text of a cue, on one line."""
    line = " ".join(name.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return line.replace("-->", "")
