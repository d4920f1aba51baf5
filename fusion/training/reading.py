"""How a trained model reads a trial: the windows of evaluation, chosen on the validation trials.

A model that is evaluated in the windows of its training, one after another, starts from nothing at every border, and its
predictions jump there. Overlapping or longer windows cost more time and need no other weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusion.settings import TrainConfig

AUTO, AS_TRAINED = "auto", "train"  # words for windows: as chosen on the validation trials, as in training
LONGER = (4, 16)  # times the window of training
LONGEST = 4096  # frames; attention needs memory for their square
TOGETHER = 1024  # frames that are predicted together at least; fewer take as long
OVERLAP = 4  # windows that contain a frame
TIE = 1e-5  # a smaller gain in CCC is rounding


@dataclass(frozen=True)
class Reading:
    """Windows of a trial; the prediction of a frame is the mean over those that contain it.

    Attributes:
        window: frames per window.
        hop: frames between the starts of windows.
    """

    window: int
    hop: int

    def within(self, config: TrainConfig, longest: int) -> tuple[int, int, int]:
        """Window, hop and batch size for trials of up to `longest` frames.

        Only windows longer than those of training are cut to the longest trial; where padding counts as input they stay as they
        are. Batches hold as many frames as in training, so that they need no more memory, or at least `TOGETHER`.
        """
        window = self.window
        if window > config.window and config.masked:
            window = max(config.window, min(window, longest))
        size = max(config.batch_size * config.window, TOGETHER) // window
        return window, min(self.hop, window), max(1, size)


def find_hop_fault(window: int | str, hop: int | str) -> str:
    """What is wrong with the hop of a window; "" if nothing is, or one of them is a word.

    >>> find_hop_fault(10, 5000)
    'is 5000, expected 1 to 10, the window'
    """
    apart = isinstance(window, int) and isinstance(hop, int) and hop > window
    return f"is {hop}, expected 1 to {window}, the window" if apart else ""


def overlapping(window: int) -> Reading:
    """Windows of so many frames, of which some contain every frame."""
    return Reading(window, max(1, window // OVERLAP))


def list_readings(config: TrainConfig, longest: int, fixed: bool) -> list[Reading]:
    """Readings to choose from: that of training first, then the same windows overlapping, then longer ones.

    The longest windows hold a whole validation trial; nothing is known of longer ones.

    Args:
        config: settings of the training.
        longest: frames of the longest validation trial.
        fixed: whether the model accepts no other windows than those of its training.
    """
    limit = min(longest, LONGEST)
    longer = [] if fixed else [*(min(times * config.window, limit) for times in LONGER), limit]
    windows = [config.window, *(window for window in longer if window > config.window)]
    return list(dict.fromkeys([Reading(config.window, config.hop), *map(overlapping, windows)]))


def choose_reading(readings: Sequence[Reading], known: float, score: Callable[[Reading], float]) -> Reading:
    """The reading with the highest score; the first one unless another is clearly better.

    Args:
        readings: that of training first.
        known: its score.
        score: computes that of any other.
    """
    best, reached = readings[0], known
    for reading in readings[1:]:
        found = score(reading)
        if found > reached + TIE:
            best, reached = reading, found
    return best
