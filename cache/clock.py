"""The label clock of a trial: the moment of each frame.

Every array of a trial has one row per frame of this clock; nothing else in the project converts between frames and
seconds. Code that needs the moments of frames calls `moments`, `times_s`, `edges_s` or `nearest`, never the rate.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate, groupby, pairwise
from statistics import median_low
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cache.errors import ShapeError

_NANOSECONDS = 1e9
_LONGEST_S = 9e9  # still an int64 in nanoseconds
ALLOWED_DIFFERENCE = 2  # frames by which a medium may be longer or shorter than its labels


@dataclass(frozen=True)
class PictureTimes:
    """Times of the pictures of a video without a constant rate, exactly as stored in its container.

    Attributes:
        unit: length of a tick in seconds.
        ticks: time of each picture since the first one, so it starts with 0; never decreasing.
    """

    unit: Fraction
    ticks: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.unit <= 0 or self.ticks[:1] != (0,) or any(after < before for before, after in pairwise(self.ticks)):
            raise ShapeError(f"Picture times in units of {self.unit} s; expected ticks from 0 that never decrease.")

    @property
    def interval(self) -> int:
        """Median number of ticks from a picture to the next one; 1 for a single picture."""
        return max(1, median_low(self.intervals)) if len(self.ticks) > 1 else 1

    @property
    def intervals(self) -> list[int]:
        """Ticks from each picture to the next one."""
        return [after - before for before, after in pairwise(self.ticks)]

    def resized(self, number: int) -> PictureTimes:
        """The first `number` pictures; missing ones follow at the median interval."""
        missing = range(1, number - len(self.ticks) + 1)
        more = tuple(self.ticks[-1] + step * self.interval for step in missing)
        return PictureTimes(self.unit, (self.ticks + more)[:number])

    def __str__(self) -> str:
        """The unit, then runs of equal intervals.

        >>> str(PictureTimes(Fraction(1, 30), (0, 2, 4, 5, 6, 7)))
        '1/30: 2x2 3x1'
        """
        runs = ((sum(1 for _ in run), step) for step, run in groupby(self.intervals))
        return f"{self.unit}: {' '.join(f'{count}x{step}' for count, step in runs)}"

    @classmethod
    def parse(cls, text: str) -> PictureTimes:
        """Inverse of `str`.

        Raises:
            ValueError: if the text has another form.
        """
        unit, _, runs = text.partition(":")
        pairs = [run.split("x") for run in runs.split()]
        steps = [int(step) for count, step in pairs for _ in range(int(count))]
        return cls(Fraction(unit), tuple(accumulate(steps, initial=0)))


@dataclass(frozen=True)
class FrameClock:
    """Frames at a constant rate, or the pictures of a video with varying intervals.

    Frame i starts at `start_s + i / rate` or, if there are `times`, at the time of picture i. A frame ends when the next
    one starts; with varying intervals the last frame lasts for the median interval.

    Attributes:
        rate: frames per second, exact (30000/1001 stays a fraction); the average if there are `times`.
        num_frames: T, at least 1.
        start_s: moment of frame 0 in the media's own time, seconds.
        times: times of the T pictures if their rate is not constant, else None.
    """

    rate: Fraction
    num_frames: int
    start_s: float = 0.0
    times: PictureTimes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.num_frames < 1:
            raise ShapeError(
                f"A clock needs a positive rate and at least 1 frame, got {self.rate} Hz and {self.num_frames} frames."
            )
        if self.times is not None and len(self.times.ticks) != self.num_frames:
            raise ShapeError(
                f"A clock of {self.num_frames} frames has {len(self.times.ticks)} picture times, expected as many."
            )

    def __str__(self) -> str:
        if self.times is None:
            return f"{self.num_frames} frames at {self.rate} Hz"
        return f"{self.num_frames} frames at the times of varying pictures, {self.rate_hz:.4g} Hz on average"

    @property
    def rate_hz(self) -> float:
        """Frames per second as a float; the average if the intervals vary."""
        return float(self.rate)

    @property
    def duration_s(self) -> float:
        """Seconds from the start of frame 0 to the end of the last one."""
        edges, unit = self._edges
        return float(int(edges[-1]) * unit)

    def time_s(self, frame: int) -> float:
        """Start of a frame, seconds."""
        edges, unit = self._edges
        return self.start_s + float(int(edges[frame]) * unit)

    def times_s(self) -> NDArray[np.float64]:
        """(T,) starts of all frames in seconds."""
        return self.edges_s()[:-1]

    def edges_s(self) -> NDArray[np.float64]:
        """(T + 1,) starts of all frames and the end of the last one, in seconds."""
        edges, unit = self._edges
        return self.start_s + edges * unit.numerator / unit.denominator

    def moments(self, per_s: int | Fraction, *, centred: bool = False) -> tuple[list[int], int]:
        """Exact starts, or centres, of all frames in units chosen by the caller, e.g. samples.

        Args:
            per_s: units per second.
            centred: return the centres of the frames instead of their starts.

        Returns:
            T numerators, and their common denominator.
        """
        edges, unit = self._edges
        places = edges[:-1] + edges[1:] if centred else edges[:-1]
        step = unit * per_s / (2 if centred else 1)
        first = Fraction(self.start_s) * per_s
        scale = step.denominator * first.denominator
        factor = int(step * scale)
        offset = int(first * scale)
        return [offset + factor * place for place in places.tolist()], scale

    def nearest(self, moments_s: NDArray[np.float64]) -> NDArray[np.int64]:
        """(N,) the frame whose start is nearest to each moment (N,) in seconds; outside [0, T) before and after the trial."""
        since = np.asarray(moments_s, np.float64) - self.start_s
        if self.times is None:
            return np.rint(since * self.rate_hz).astype(np.int64)
        starts = self.times_s() - self.start_s
        interval_s = float(self.times.interval * self.times.unit)
        inside = np.searchsorted((starts[:-1] + starts[1:]) / 2, since, side="left")
        late = since - starts[-1] > interval_s / 2
        inside = np.where(late, self.num_frames + np.rint((since - self.duration_s) / interval_s), inside)
        early = since < -interval_s / 2
        return np.where(early, np.rint(since / interval_s), inside).astype(np.int64)

    def resized(self, num_frames: int) -> FrameClock:
        """The same clock with `num_frames` frames; frames beyond the pictures follow at the median interval."""
        times = None if self.times is None else self.times.resized(num_frames)
        return FrameClock(self.rate, num_frames, self.start_s, times)

    def to_document(self) -> dict[str, Any]:
        """As JSON values; `cache.documents.documents.ClockPart` reads them."""
        document = {"rate": str(self.rate), "num_frames": self.num_frames, "start_s": float(self.start_s)}
        return document | ({} if self.times is None else {"times": str(self.times)})

    def short_document(self) -> dict[str, Any]:
        """Like `to_document`, with a digest instead of the times."""
        document = self.to_document()
        if self.times is not None:
            document["times"] = f"sha256:{hashlib.sha256(document['times'].encode()).hexdigest()}"
        return document

    @property
    def _edges(self) -> tuple[NDArray[np.int64], Fraction]:
        """(T + 1,) starts of the frames and the end of the last one, after the start, and their unit in seconds."""
        if self.times is None:
            return np.arange(self.num_frames + 1), 1 / self.rate
        return np.array([*self.times.ticks, self.times.ticks[-1] + self.times.interval]), self.times.unit


def nanoseconds(seconds: ArrayLike) -> NDArray[np.int64]:
    """Moments as whole nanoseconds, clipped to about 280 years, so that equal ones compare equal."""
    moments = np.clip(np.asarray(seconds, np.float64), -_LONGEST_S, _LONGEST_S)
    return np.rint(moments * _NANOSECONDS).astype(np.int64)


def check_length(trial_id: str, what: str, found: int, num_frames: int, where: str) -> None:
    """Check that the length of a medium fits the trial's clock.

    Args:
        trial_id: the trial, for the message.
        what: what was counted, in words ("video frames").
        found: their number.
        num_frames: frames of the clock, i.e. label rows.
        where: path of the medium, for the message.

    Raises:
        ShapeError: if the two differ by more than two.
    """
    if abs(found - num_frames) > ALLOWED_DIFFERENCE:
        raise ShapeError(
            f"Trial '{trial_id}' has {num_frames} labels but {found} {what}; a difference of {ALLOWED_DIFFERENCE} is allowed. Check '{where}'."
        )
