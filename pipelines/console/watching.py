"""What people see of a fine-tuning: a bar that advances with every step or, in a log, one line per epoch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from torch import Tensor

from fusion.training.fitting import EpochRecord
from pipelines.console import trackers
from pipelines.console.console import note, progress
from pipelines.endtoend.training import Watch

_EVERY = 10  # steps between two readings of the loss, each of which waits for the device


class Shown(Watch):
    """Shows how a fine-tuning goes, inside its `with` block.

    Args:
        title: its name and fold.
        epochs: of all stages.
        track: takes every epoch and its figures; of those before an interruption only the mean CCC.
    """

    def __init__(self, title: str, epochs: int, track: trackers.Tell = lambda epoch, figures: None) -> None:
        self._title, self._epochs, self._track = title, epochs, track
        self._open = ExitStack()
        self._advance: Callable[[int, str], None] | None = None
        self._epoch = self._step = self._shown = 0
        self._loss = self._ccc = ""
        self._told = 0
        self._best = -1, float("-inf")
        self._began = time.monotonic()

    def __enter__(self) -> Shown:
        if not sys.stderr.isatty():
            self.tell(f"begins, {self._epochs} epoch{'s' * (self._epochs > 1)} at most.")
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def restore(self, scores: Sequence[float]) -> None:
        """Epochs that were trained before an interruption."""
        if scores and not sys.stderr.isatty():
            self.tell(f"goes on after {len(scores)} of them, trained before.")
        for score in scores:
            self._track(self._told, {"ccc": score})
            self._count(self._told, score)

    def tell(self, text: str) -> None:
        """A remark, after the title."""
        note(f"{self._title}: {text}")

    def step(self, epoch: int, steps: int, loss: Tensor) -> None:
        """Advance the bar; one of a run that was interrupted starts where that was."""
        if self._advance is None:
            self._advance = self._open.enter_context(progress("fine-tuning", self._epochs * steps))
        self._step = self._step + 1 if epoch == self._epoch else 1
        self._epoch = epoch
        if self._step % _EVERY == 1:
            self._loss = f" loss {float(loss):.3f}"
        done = epoch * steps + self._step
        self._advance(done - self._shown, f"{self._title}{self._loss}{self._ccc}")
        self._shown = done

    def epoch(self, record: EpochRecord) -> None:
        """Write a line into a log, and the CCC beside the bar."""
        self._track(record.epoch, trackers.figures_of(record))
        self._count(record.epoch, record.score)
        self._ccc = f" CCC {record.score:.3f} (best {self._best[1]:.3f})"
        if not sys.stderr.isatty():
            each = ", ".join(f"{target} {value:.3f}" for target, value in record.validation.items())
            seconds = time.monotonic() - self._began
            self.tell(
                f"epoch {record.epoch} (of {self._epochs}), loss {record.loss:.3f}, CCC {each}, mean {record.score:.3f}, "
                f"best {self._best[1]:.3f} in epoch {self._best[0]}, {seconds:.1f} s"
            )
        self._began = time.monotonic()

    def stop(self, left: int) -> None:
        """Say why fewer epochs than asked for were trained."""
        self.tell(
            f"stopped {left} epoch{'s' * (left > 1)} early; none since epoch {self._best[0]} had a better CCC than its "
            f"{self._best[1]:.3f}."
        )

    def _count(self, epoch: int, score: float) -> None:
        self._told = epoch + 1
        if score > self._best[1]:
            self._best = epoch, score
