"""The label clock of a trial: which moment frame i stands for.

Every array of a trial has one row per tick of this clock; nothing else in the project converts
between frames and seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from cache.errors import ShapeError

ALLOWED_DIFFERENCE = 2  # frames by which a medium may be longer or shorter than its labels


@dataclass(frozen=True)
class FrameClock:
    """Ticks at `start_s + i / rate`, i = 0 … num_frames - 1.

    Attributes:
        rate: frames per second, exact (30000/1001 stays a fraction).
        num_frames: number of ticks, at least 1.
        start_s: moment of frame 0 in the media's own time, seconds.
    """

    rate: Fraction
    num_frames: int
    start_s: float = 0.0

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.num_frames < 1:
            raise ShapeError(
                f"A clock needs a positive rate and at least 1 frame, got {self.rate} Hz and {self.num_frames} frames."
            )

    @property
    def rate_hz(self) -> float:
        """Frames per second as a float."""
        return float(self.rate)

    @property
    def duration_s(self) -> float:
        """Seconds from the start of frame 0 to the end of the last one."""
        return float(self.num_frames / self.rate)

    def time_s(self, frame: int) -> float:
        """Start of a frame, seconds."""
        return self.start_s + float(frame / self.rate)

    def centre_s(self, frame: int) -> float:
        """Centre of a frame, (2i + 1) / (2 rate), seconds [Karas2022, Section 4.1]."""
        return self.start_s + float((2 * frame + 1) / (2 * self.rate))

    def times_s(self) -> NDArray[np.float64]:
        """(T,) starts of all frames, seconds."""
        return self.start_s + np.arange(self.num_frames) * self.rate.denominator / self.rate.numerator


def check_length(trial_id: str, what: str, found: int, num_frames: int, where: str) -> None:
    """Refuse a medium whose length contradicts the trial's clock.

    Args:
        trial_id: the trial, for the message.
        what: what was counted, in words ("video frames").
        found: how many there are.
        num_frames: ticks of the clock, that is, label rows.
        where: path of the file to check.

    Raises:
        ShapeError: if the two differ by more than two.
    """
    if abs(found - num_frames) > ALLOWED_DIFFERENCE:
        raise ShapeError(
            f"Trial '{trial_id}' has {num_frames} labels but {found} {what}; a difference of {ALLOWED_DIFFERENCE} is allowed. Check '{where}'."
        )
