"""MuSe CSV: a folder with one `<trial>.csv` per trial, columns `timestamp` (milliseconds), `segment_id`, `f0`, `f1`, ….

Rows of frames that the backbone never saw hold `nan`; on the way in they may also be absent. `segment_id` is 1
throughout on the way out and is not looked at on the way in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.errors import CorpusError
from cache.interchange import SLACK, Bundle, Format, Item, load_sidecar, save_sidecar
from cache.names import decode_trial_id, encode_trial_id
from cache.spec import FeatureSpec

_EMPTY = re.compile(r"(?<=,)(?=,|$)", re.MULTILINE)
_KNOWN_RATES = sorted([Fraction(n) for n in range(1, 241)] + [Fraction(n * 1000, 1001) for n in (24, 30, 60, 120)])
_ROUNDING_MS = 1.01  # timestamps, the first one too, may be rounded to whole milliseconds


def _write(path: Path, spec: FeatureSpec, items: Iterable[Item]) -> None:
    path.mkdir(parents=True)
    digits = 5 if spec.dtype == "float16" else 9  # what tells every number from its neighbours
    records = {}
    for item in items:
        assert item.record is not None
        rows = np.where(item.valid[:, None], item.embeddings.astype(np.float64), np.nan)
        times = (1000 * item.record.clock.times_s())[:, None]
        table = np.concatenate([times, np.ones_like(times), rows], axis=1)
        header = ",".join(["timestamp", "segment_id", *(f"f{i}" for i in range(spec.dim))])
        formats = ["%.10g", "%d", *[f"%.{digits}g"] * spec.dim]
        target = path / f"{encode_trial_id(item.trial_id)}.csv"
        np.savetxt(target, table, fmt=formats, delimiter=",", header=header, comments="")
        records[item.trial_id] = item.record
    save_sidecar(path, spec, records)


def _read(path: Path) -> Bundle:
    spec, records = load_sidecar(path)
    files = {decode_trial_id(file.stem): file for file in sorted(path.glob("*.csv"))}

    def load(trial_id: str, clock: FrameClock | None = None) -> Item:
        """One trial, its rows put on the clock by their timestamps."""
        times, rows = _parse(files[trial_id])
        record = records.get(trial_id)
        clock = record.clock if record else clock or _infer_clock(files[trial_id], times)
        frames = np.rint((times / 1000 - clock.start_s) * clock.rate_hz).astype(int)
        if len(np.unique(frames)) < len(frames) or frames.min() < 0 or frames.max() >= clock.num_frames + SLACK:
            raise CorpusError(
                f"'{files[trial_id]}' has two rows for one frame, or rows outside {clock.num_frames} frames at {clock.rate} Hz. "
                "Mend the column 'timestamp' (milliseconds)."
            )
        embeddings = np.full((max(clock.num_frames, int(frames.max()) + 1), rows.shape[1]), np.nan)
        embeddings[frames] = rows
        valid = np.isfinite(embeddings).all(axis=1)
        stored = np.where(valid[:, None], embeddings, 0).astype(spec.dtype if spec else np.float32)
        return Item(trial_id, stored, valid, clock, record)

    return Bundle(spec, sorted(records if spec else files), load)


def _parse(file: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Timestamps (N,) in milliseconds and features (N, D) of a file, nan where a cell is empty."""
    header, _, body = file.read_text(encoding="utf-8").partition("\n")
    names = header.strip().split(",")
    if names[:2] != ["timestamp", "segment_id"] or len(names) < 3 or not body.strip():
        raise CorpusError(
            f"'{file}' starts with '{header[:60]}', expected the columns timestamp, segment_id and features, and rows. "
            "Is it a MuSe feature file?"
        )
    try:
        table = np.loadtxt(_EMPTY.sub("nan", body).splitlines(), delimiter=",", ndmin=2)
    except ValueError as error:
        raise CorpusError(f"'{file}' holds something else than numbers ({error}). Mend the row.") from error
    order = np.argsort(table[:, 0], kind="stable")
    return table[order, 0], table[order, 2:]


def _infer_clock(file: Path, times: NDArray[np.float64]) -> FrameClock:
    """The slowest usual rate on whose ticks all timestamps lie, a tick for each; rows may be absent in between."""
    since = times - times[0]
    misses = {rate: _miss_ms(since, rate) for rate in _KNOWN_RATES}
    fitting = [rate for rate in _KNOWN_RATES if misses[rate] < _ROUNDING_MS]
    if len(times) < 2 or not fitting:
        raise CorpusError(
            f"The {len(times)} timestamps of '{file}' lie on the ticks of no usual rate up to 240 Hz. Mend the column "
            "'timestamp' (milliseconds), or give a manifest with the clocks."
        )
    near = [
        rate for rate in fitting if rate < fitting[0] * Fraction(101, 100)
    ]  # 29.97 and 30 Hz fit a short trial alike
    rate = min(near, key=lambda one: misses[one])
    return FrameClock(rate, int(np.rint(since[-1] / 1000 * float(rate))) + 1, float(times[0]) / 1000)


def _miss_ms(since: NDArray[np.float64], rate: Fraction) -> float:
    """By how much the worst timestamp misses its tick, milliseconds; infinite where two share a tick."""
    ticks = np.rint(since * float(rate) / 1000)
    if (np.diff(ticks) < 1).any():
        return np.inf
    return float(np.abs(since - ticks * 1000 / float(rate)).max())


MUSE = Format(_write, _read)
