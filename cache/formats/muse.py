"""MuSe CSV: a folder with one `<trial>.csv` per trial, columns `timestamp` (milliseconds), `segment_id`, `f0`, `f1`, ….

Rows of frames that the backbone never saw contain `nan`; an import may also lack them. Exports set `segment_id` to 1
everywhere, and imports ignore it. Byte order marks, quotes and line ends of any system are accepted.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.errors import CorpusError
from cache.foreign import reading
from cache.formats.interchange import SLACK, Bundle, Format, Item
from cache.formats.sidecar import Loaded, read_folder, write_folder
from cache.recipe import Recipe
from cache.store.records import CommitRecord
from cache.store.store import FeatureStore

_KNOWN_RATES = sorted([Fraction(n) for n in range(1, 241)] + [Fraction(n * 1000, 1001) for n in (24, 30, 60, 120)])
_LATEST_MS = 1e14  # three thousand years; also rejects non-finite timestamps
_MOST_GAPS = 1000  # ticks per row that a file without a clock may span
_LARGEST = float(np.finfo(np.float32).max)
_ROUNDING_MS = 1.01  # timestamps, including the first one, may be rounded to whole milliseconds


def _write(path: Path, store: FeatureStore, items: Iterable[Item]) -> None:
    digits = 5 if store.recipe.dtype == "float16" else 9  # enough to distinguish every number from its neighbours
    header = ",".join(["timestamp", "segment_id", *(f"f{i}" for i in range(store.recipe.dim))])
    formats = ["%.10g", "%d", *[f"%.{digits}g"] * store.recipe.dim]

    def write(file: Path, item: Item, record: CommitRecord) -> None:
        rows = np.where(item.valid[:, None], item.embeddings.astype(np.float64), np.nan)
        times = (1000 * record.clock.times_s())[:, None]
        table = np.concatenate([times, np.ones_like(times), rows], axis=1)
        np.savetxt(file, table, fmt=formats, delimiter=",", header=header, comments="")

    write_folder(path, store.recipe, items, ".csv", write)


def _read(path: Path) -> Bundle:
    return read_folder(path, ".csv", _load)


def _load(file: Path, clock: FrameClock | None, recipe: Recipe | None) -> Loaded:
    """Load one trial and place its rows on the clock by their timestamps."""
    times, rows = _parse(file)
    clock = clock or _infer_clock(file, times)
    own = recipe is not None and len(times) == clock.num_frames  # two pictures may have the same time
    frames = np.arange(len(times)) if own else clock.nearest(times / 1000)
    if len(np.unique(frames)) < len(frames) or frames.min() < 0 or frames.max() >= clock.num_frames + SLACK:
        raise CorpusError(
            f"'{file}' has two rows for one frame, or rows outside {clock.num_frames} frames at {clock.rate} Hz. "
            "Fix the column 'timestamp' (milliseconds)."
        )
    embeddings = np.full((max(clock.num_frames, int(frames.max()) + 1), rows.shape[1]), np.nan)
    embeddings[frames] = rows
    valid = np.isfinite(embeddings).all(axis=1)
    with np.errstate(over="ignore"):  # only if our own were altered; their digest reveals it
        stored = np.where(valid[:, None], embeddings, 0).astype(recipe.dtype if recipe else np.float32)
    return stored, valid, clock


def _parse(file: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Timestamps (N,) in milliseconds and features (N, D) of a file, nan where a cell is empty."""
    rows = []
    with reading(f"'{file}'", "a MuSe feature file"), file.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, strict=True)
        header = next(reader, [])
        _check_header(file, header)
        for cells in reader:
            if any(cells):
                rows.append(_numbers(cells, header, f"'{file}', line {reader.line_num}"))
        if not rows:
            raise CorpusError(
                f"'{file}' has a header and no rows; expected a row for each frame. Give a MuSe feature file; export one of ours again."
            )
    table = np.array(rows)
    order = np.argsort(table[:, 0], kind="stable")
    return table[order, 0], table[order, 2:]


def _check_header(file: Path, header: list[str]) -> None:
    names = [name.strip().lower() for name in header]
    if names[:2] == ["timestamp", "segment_id"] and len(names) > 2:
        return
    found = ",".join(header)
    other = next((mark for mark in ";\t|" if len(header) == 1 and mark in found), "")
    if other:
        raise CorpusError(f"'{file}' is separated by {other!r}, expected ','. Save it with commas and import again.")
    raise CorpusError(
        f"'{file}' starts with '{found[:60]}', expected the columns timestamp, segment_id and features. "
        "Give a MuSe feature file; export one of ours again."
    )


def _numbers(cells: list[str], header: list[str], where: str) -> NDArray[np.float64]:
    """A row: timestamp, segment and features; only the timestamp must not be empty."""
    if len(cells) != len(header):
        raise CorpusError(f"{where} has {len(cells)} cells, its header {len(header)}. Fix the row and import again.")
    try:
        row = np.array([float(cell) if cell.strip() else np.nan for cell in cells])
    except ValueError as error:
        raise CorpusError(
            f"{where} has something other than numbers ({error}). Fix the row and import again."
        ) from error
    if not abs(row[0]) < _LATEST_MS:
        raise CorpusError(f"{where} has timestamp '{cells[0]}', expected milliseconds. Fix the row and import again.")
    with np.errstate(over="ignore"):
        infinite = np.flatnonzero(np.isinf(row[2:].astype(np.float32))) + 2
    for column in infinite:
        if any(map(str.isdigit, cells[column])):  # not the word "inf", which marks an invalid frame
            raise CorpusError(
                f"{where} has '{cells[column]}' in column '{header[column]}', expected at most {_LARGEST:.6g} on either side "
                "of 0, the end of float32. Scale the column and import again."
            )
    return row


def _infer_clock(file: Path, times: NDArray[np.float64]) -> FrameClock:
    """Lowest common frame rate that fits all timestamps, each on its own tick; rows may be missing in between."""
    since = times - times[0]
    misses = {rate: _miss_ms(since, rate) for rate in _KNOWN_RATES}
    fitting = [rate for rate in _KNOWN_RATES if misses[rate] < _ROUNDING_MS]
    if len(times) < 2 or not fitting:
        raise CorpusError(
            f"The {len(times)} timestamps of '{file}' do not fit any common frame rate up to 240 Hz. Fix the column "
            "'timestamp' (milliseconds), or give a manifest with the clocks."
        )
    near = [
        rate for rate in fitting if rate < fitting[0] * Fraction(101, 100)
    ]  # 29.97 and 30 Hz fit short trials alike
    rate = min(near, key=lambda one: misses[one])
    num_frames = int(np.rint(since[-1] / 1000 * float(rate))) + 1
    if num_frames > _MOST_GAPS * len(times):
        raise CorpusError(
            f"The {len(times)} timestamps of '{file}' span {since[-1] / 1000:.0f} s, {num_frames} frames at {rate} Hz. Fix the "
            "column 'timestamp' (milliseconds), or give a manifest with the clocks."
        )
    return FrameClock(rate, num_frames, float(times[0]) / 1000)


def _miss_ms(since: NDArray[np.float64], rate: Fraction) -> float:
    """Largest distance of a timestamp from its tick in milliseconds; infinite if two share a tick."""
    ticks = np.rint(since * float(rate) / 1000)
    if (np.diff(ticks) < 1).any():
        return np.inf
    return float(np.abs(since - ticks * 1000 / float(rate)).max())


MUSE = Format(_write, _read)
