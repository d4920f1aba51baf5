"""The contract of an input: what one item looks like to a backbone, and how the items of a trial are read.

A kind of input is one file in this folder. It alone knows its medium, how that is opened, what a batch of it looks like, and
whether items of several trials may share a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cache.corpus.manifest import Manifest, Trial
from extract.faces.crops import CropConfig
from extract.inputs.alignment import Alignment, align_shared

GIVEN = "given"
"""Upstream of what the corpus, or a person, brought along."""


class Source(Protocol):
    """The items of one trial, and which of the rows that a backbone makes of them fall on each frame.

    `digest` is cheap to ask for; `load` does the work that reading needs once.
    """

    def digest(self) -> str:
        """Digest of the bytes that the backbone reads."""

    def load(self) -> Alignment:
        """Get ready to read; which rows each frame uses."""

    def read(self, items: NDArray[np.int64]) -> NDArray[Any]:
        """The batch (N, …) of these items; called from several threads."""


class Input(ABC):
    """What one item looks like to a backbone.

    Attributes:
        name: of its file in this folder.
        media: kinds of media of a trial, each of which is enough; a trial without any is asked for the last one.
        version: raise it when a change of code changes what a backbone gets to see; part of every recipe.
        mixes: whether an item of a batch is computed by itself, so that items of several trials may share a batch.
    """

    name: ClassVar[str]
    media: ClassVar[tuple[str, ...]]
    version: ClassVar[int]
    mixes: ClassVar[bool] = True

    @abstractmethod
    def open(self, manifest: Manifest, trial: Trial, crops: Path | None) -> Source:
        """The items of a trial that has the medium.

        Args:
            manifest: of the corpus.
            trial: the trial.
            crops: folder of our crop zips, None where the corpus brings its own.

        Raises:
            MissingFileError: if the medium was removed, or its crops were not made yet.
        """

    @abstractmethod
    def check(self, batch: Tensor) -> None:
        """Refuse a batch of another shape, dtype or range.

        Raises:
            ShapeError: saying what was expected.
        """

    @abstractmethod
    def example(self, count: int, seed: int = 0) -> NDArray[Any]:
        """A batch (B, …) of made-up items that differ from each other, for trying a backbone."""

    def upstream(self, manifest: Manifest, crops: CropConfig) -> dict[str, Any]:
        """What was made of the medium before it is read, and how, as JSON values; part of every recipe.

        Args:
            manifest: of the corpus, all of it.
            crops: settings of our crops.
        """
        return {}

    def is_absent(self, trial: Trial) -> bool:
        """Whether a trial has none of the media."""
        return not any(kind in trial.media for kind in self.media)


class AbsentSource:
    """The medium that a trial does not have, among trials that do: no frame has input.

    Args:
        trial: the trial.
    """

    def __init__(self, trial: Trial) -> None:
        self._num_frames = trial.clock.num_frames

    def digest(self) -> str:
        """Says that there is nothing."""
        return "absent"

    def load(self) -> Alignment:
        """No item, and no row on any frame."""
        return align_shared(np.full(self._num_frames, -1, np.int64), np.zeros(0, np.int64))

    def read(self, items: NDArray[np.int64]) -> NDArray[Any]:
        """Never called: there are no items."""
        raise AssertionError(f"{len(items)} items of a medium that is absent")


def require_medium(manifest: Manifest, trials: Sequence[Trial], kind: Input) -> None:
    """Refuse trials none of which has what a backbone reads.

    Raises:
        MissingFileError: naming the first trial and what it has.
    """
    if trials and all(kind.is_absent(trial) for trial in trials):
        manifest.path(trials[0], kind.media[-1])


def open_source(kind: Input, manifest: Manifest, trial: Trial, crops: Path | None) -> Source:
    """The items of a trial, none where it lacks the medium. Arguments and errors as of `Input.open`."""
    return AbsentSource(trial) if kind.is_absent(trial) else kind.open(manifest, trial, crops)
