"""Targets: the quantities that a corpus labels, each with its kind, unit and range.

A manifest has the labels as in the corpus, e.g. in [1, 9]. They are mapped to [-1, 1] once, when the bank of stage two is
filled: models, losses and checkpoints only use that range. Predictions are mapped back once, when they
leave `fusion.training.inference`, so that files of predictions, figures and plots are in the corpus's own unit again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import SettingError, UnknownNameError

KINDS = ("continuous",)
UNITS = ("frame",)
MEAN = "mean"
"""Heading of the mean over targets, beside the names of targets in tables."""


@dataclass(frozen=True)
class Target:
    """One column of labels.

    Attributes:
        name: name of the column.
        kind: continuous, a number within a range.
        unit: what a label applies to: a frame.
        low: lowest label.
        high: highest label.
    """

    name: str
    kind: str = "continuous"
    unit: str = "frame"
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        faults = []
        if not self.name.strip() or self.name == MEAN:
            faults.append(f"its name is '{self.name}', expected a word other than '{MEAN}'")
        if self.kind not in KINDS:
            faults.append(f"its kind is '{self.kind}', expected one of {', '.join(KINDS)}")
        if self.unit not in UNITS:
            faults.append(f"its unit is '{self.unit}', expected one of {', '.join(UNITS)}")
        if not (isfinite(self.low) and isfinite(self.high) and self.low < self.high):
            faults.append(f"its range is [{self.low:g}, {self.high:g}], expected the lower end first, both finite")
        if faults:
            raise SettingError(f"Target '{self.name}': {'; '.join(faults)}. Change how the corpus declares it.")

    @property
    def middle(self) -> float:
        """Centre of the range: 0 inside stage two."""
        return (self.low + self.high) / 2

    @property
    def half(self) -> float:
        """Half the width of the range: 1 inside stage two."""
        return (self.high - self.low) / 2

    def outside(self, values: Any) -> Any:
        """Which of these labels (T,) float32 lie outside the range; nan never does."""
        return (values < np.float32(self.low)) | (values > np.float32(self.high))


AFFECT = (Target("valence"), Target("arousal"))
"""Valence and arousal in [-1, 1]."""


def names_of(targets: Sequence[Target]) -> tuple[str, ...]:
    """Names of the columns."""
    return tuple(target.name for target in targets)


def require_targets(wanted: Sequence[str], known: Sequence[Target], where: str = "train.targets") -> None:
    """Check that the corpus has all targets of a training.

    Args:
        wanted: their names.
        known: the targets of the corpus.
        where: the setting, for the message.

    Raises:
        UnknownNameError: if it lacks one.
    """
    names = names_of(known)
    for target in wanted:
        if target not in names:
            raise UnknownNameError(
                f"Unknown target '{target}' in '{where}', which is [{', '.join(wanted)}]; the corpus has {' and '.join(names)}. Set "
                f"'targets: [{', '.join(names)}]', or some of these, there or in 'fusion.train' of params.yaml."
            )


def to_unit(labels: NDArray[Any], targets: Sequence[Target]) -> NDArray[np.float32]:
    """Map labels (T, C) from the targets' ranges to [-1, 1]; labels already in that range stay identical, bit for bit.

    >>> to_unit(np.array([[1.0], [5.0], [9.0]]), [Target("arousal", low=1, high=9)]).ravel().tolist()
    [-1.0, 0.0, 1.0]
    """
    middle, half = (np.array([getattr(target, name) for target in targets]) for name in ("middle", "half"))
    return ((labels - middle) / half).astype(np.float32)


def from_unit(values: NDArray[Any], targets: Sequence[Target]) -> NDArray[np.float32]:
    """Inverse of `to_unit`, for predictions, which may lie outside [-1, 1]."""
    middle, half = (np.array([getattr(target, name) for target in targets]) for name in ("middle", "half"))
    return (values * half + middle).astype(np.float32)
