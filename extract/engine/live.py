"""Embeddings of a medium that still grows, frame by frame."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from extract.backbones.contract import Backbone
from extract.engine.runtimes import DEFAULT_RUNTIME, check_running, make_executor
from extract.faces.following import FaceFollower
from extract.media.live import LiveMedium

MOST_FRAMES = 16  # computed at a time


class AbsentBackbone:
    """Stands for a backbone whose input the medium lacks: there is nothing in any frame.

    Args:
        dim: width of its embeddings.
        medium: counts the frames.
    """

    def __init__(self, dim: int, medium: LiveMedium) -> None:
        self._dim, self._medium = dim, medium

    def ready(self) -> int:
        """All that are known."""
        return self._medium.clock.known

    def take(self, first: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Zeros (N, D), and that there is nothing (N,)."""
        return np.zeros((stop - first, self._dim), np.float32), np.zeros(stop - first, bool)


class LiveBackbone:
    """A backbone that follows a medium.

    Args:
        backbone: the network.
        medium: not read yet.
        face: makes crops of its pictures, if the backbone reads some.
        device: auto, cpu, cuda or cuda:N.
        precision: as of `extract.engine.embedding.EngineOptions`.

    Raises:
        SettingError: if its input can only be known long after a frame, or the device does not exist.
        MissingFileError: if the medium lacks what it reads.
    """

    def __init__(
        self, backbone: Backbone, medium: LiveMedium, face: FaceFollower | None, device: str, precision: str
    ) -> None:
        self._backbone = backbone
        self._follower = backbone.input.follow(medium, face)
        place = check_running(backbone, device, DEFAULT_RUNTIME, precision, False)
        self._executor = make_executor(backbone, MOST_FRAMES, place, DEFAULT_RUNTIME, precision, False)

    def ready(self) -> int:
        """How many frames can be embedded."""
        return self._follower.ready()

    def take(self, first: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Embeddings (N, D) of some ready frames, zero where there is no input, and where there is some (N,)."""
        items, valid = self._follower.take(first, stop)
        rows = np.zeros((stop - first, self._backbone.dim), np.float32)
        if len(items):
            self._backbone.input.check(torch.from_numpy(items))
            rows[valid] = self._executor(items)
        return rows, valid
