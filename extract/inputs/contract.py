"""The contract of an input: what one item looks like to a backbone, and how the items of a trial are read.

Each kind of input is one file in this folder, the only place that knows its medium, how to open it, what a batch looks
like, and whether items of several trials may share a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest, Trial, missing_medium
from cache.errors import SettingError
from extract.faces.following import FaceFollower
from extract.faces.settings import CropConfig
from extract.inputs.alignment import Alignment, align_shared
from extract.media.live import LiveMedium

if TYPE_CHECKING:
    from torch import Tensor

GIVEN = "given"
"""Upstream of media that came with the corpus or from the user."""


class Source(Protocol):
    """The items of one trial, and the alignment of their rows with its frames.

    `digest` is cheap; `load` does the work that is needed once before reading.
    """

    def digest(self) -> str:
        """Digest of the bytes that the backbone reads."""

    def load(self) -> Alignment:
        """Prepare for reading; returns the rows that each frame uses."""

    def read(self, items: NDArray[np.int64]) -> NDArray[Any]:
        """Read the batch (N, …) of these items; called from several threads."""


class Follower(Protocol):
    """The items of a medium that still grows, at most one per frame."""

    def ready(self) -> int:
        """How many frames have all that their item needs, or will never have it."""

    def take(self, first: int, stop: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The batch (N, …) of the items of some ready frames, and which frames have one; no frame is asked for twice."""


class Input(ABC):
    """What one item looks like to a backbone.

    Attributes:
        name: name of its file in this folder.
        media: kinds of media, any of which is enough; messages about a trial without any name the last one.
        version: raise it when a code change alters what a backbone sees; part of every recipe.
        mixes: whether each item of a batch is computed independently, so that items of several trials may share a batch.
    """

    name: ClassVar[str]
    media: ClassVar[tuple[str, ...]]
    version: ClassVar[int]
    mixes: ClassVar[bool] = True

    @abstractmethod
    def open(self, manifest: Manifest, trial: Trial, crops: Path | None) -> Source:
        """Open the items of a trial that has the medium.

        Args:
            manifest: of the corpus.
            trial: the trial.
            crops: folder of our crop zips, None if the corpus has its own.

        Raises:
            MissingFileError: if the medium was removed, or its crops do not exist yet.
        """

    @abstractmethod
    def check(self, batch: Tensor) -> None:
        """Check shape, dtype and range of a batch.

        Raises:
            ShapeError: if one of them is wrong; says what was expected.
        """

    @abstractmethod
    def example(self, count: int, seed: int = 0) -> NDArray[Any]:
        """Make a batch (B, …) of different artificial items, to try a backbone."""

    def upstream(self, manifest: Manifest, crops: CropConfig) -> dict[str, Any]:
        """How the medium was processed before it is read, as JSON values; part of every recipe.

        Args:
            manifest: of the whole corpus.
            crops: settings of our crops.
        """
        return {}

    def follow(self, medium: LiveMedium, face: FaceFollower | None) -> Follower:
        """Follow a medium that still grows, frame by frame.

        Args:
            medium: not read yet.
            face: makes crops of its pictures, if the input reads some.

        Raises:
            SettingError: if a frame's item is only known long after it.
            MissingFileError: if the medium lacks what is read.
        """
        raise SettingError(
            f"A live prediction cannot read {self.media[-1]}: they are only known long after they were said. Train a model without "
            "them, or predict the finished file without --live."
        )

    def uncut(self) -> Input:
        """The same input with whole pictures, where items are parts of them; itself by default."""
        return self

    def is_absent(self, trial: Trial) -> bool:
        """Whether a trial has none of the media."""
        return not any(kind in trial.media for kind in self.media)


class AbsentSource:
    """Stands in for a medium that one trial lacks and others have: no frame has input.

    Args:
        trial: the trial.
    """

    def __init__(self, trial: Trial) -> None:
        self._num_frames = trial.clock.num_frames

    def digest(self) -> str:
        """A constant for "absent"."""
        return "absent"

    def load(self) -> Alignment:
        """No items, and no row on any frame."""
        return align_shared(np.full(self._num_frames, -1, np.int64), np.zeros(0, np.int64))

    def read(self, items: NDArray[np.int64]) -> NDArray[Any]:
        """Never called: there are no items."""
        raise AssertionError(f"{len(items)} items of a medium that is absent")


def require_medium(manifest: Manifest, trials: Sequence[Trial], kind: Input) -> None:
    """Check that at least one trial has the medium that a backbone reads.

    Raises:
        MissingFileError: if none has it; says what they have.
    """
    if trials and all(kind.is_absent(trial) for trial in trials):
        if len(trials) == 1:
            manifest.path(trials[0], kind.media[-1])  # raises; loose files have remedies of their own
        raise missing_medium(kind.media[-1], trials)


def open_source(kind: Input, manifest: Manifest, trial: Trial, crops: Path | None) -> Source:
    """Open the items of a trial, none if it lacks the medium. Arguments and errors as for `Input.open`."""
    return AbsentSource(trial) if kind.is_absent(trial) else kind.open(manifest, trial, crops)
