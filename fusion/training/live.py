"""Predictions for a trial that still grows: a row for each frame as it comes, the state of the network carried over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.errors import SettingError
from cache.targets import from_unit
from fusion.model import Inputs
from fusion.training.checkpoint import Checkpoint

Rows = Mapping[str, tuple[NDArray[Any], NDArray[np.bool_]]]
"""Modality → embeddings (N, D) of frames, and whether the backbone saw input (N,)."""


class LiveNetwork:
    """A trained network that follows one trial.

    Its rows are those of `fusion.training.inference.predict` for the finished trial, read as a single window from its start to
    its end and without post-processing; whatever windows were chosen on the validation trials start from nothing at each border.

    Args:
        checkpoint: the network.

    Raises:
        SettingError: if its estimates depend on later frames; says why and what to train instead.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        if checkpoint.model.obstacle:
            raise SettingError(f"A live prediction cannot look ahead, but {checkpoint.model.obstacle}.")
        self._checkpoint = checkpoint
        self._model = checkpoint.model.eval()
        self._state: Any = None
        self._last: NDArray[np.float32] | None = None
        self._waiting: list[Rows] = []  # until the first frame that is seen, whose value they take

    def push(self, rows: Rows) -> NDArray[np.float32]:
        """Rows (M, C) that are known with the next frames, in the ranges of the targets.

        M is N, except where frames without input are left out (`drop_unseen`): none are known until one is seen.
        """
        seen = self._seen(rows)
        if self._last is None and not seen.any():
            self._waiting.append(rows)
            return np.empty((0, len(self._checkpoint.targets)), np.float32)
        before = sum(map(_count, self._waiting))
        self._waiting = []
        values = self._run({m: (own[seen], valid[seen]) for m, (own, valid) in rows.items()}) if seen.any() else None
        first = values[0] if self._last is None and values is not None else self._last
        assert first is not None
        known = first[None] if values is None else np.concatenate((first[None], values))
        self._last = known[-1]
        return np.concatenate((np.repeat(first[None], before, axis=0), known[np.cumsum(seen)]))

    def finish(self) -> NDArray[np.float32]:
        """The rows that were still waiting at the end: a trial without a single frame that was seen is predicted as it is."""
        waiting = self._waiting
        self._waiting = []
        return np.concatenate([np.empty((0, len(self._checkpoint.targets)), np.float32), *map(self._run, waiting)])

    def _seen(self, rows: Rows) -> NDArray[np.bool_]:
        """(N,) which frames training would not have left out."""
        wanted = [valid for modality, (_, valid) in rows.items() if modality in self._checkpoint.training.drop_unseen]
        return np.logical_and.reduce(wanted) if wanted else np.ones(_count(rows), bool)

    @torch.inference_mode()
    def _run(self, rows: Rows) -> NDArray[np.float32]:
        embeddings, marks = {}, {}
        for modality in self._model.dims:
            own, valid = (torch.from_numpy(np.asarray(each)) for each in rows[modality])
            embeddings[modality] = self._normalise(modality, own, valid)[None]
            marks[modality] = valid[None]
        inputs = Inputs(embeddings, marks, torch.tensor([_count(rows)]))
        estimate, self._state = self._model.step(inputs, self._state)
        return from_unit(estimate.values[0].numpy(), self._checkpoint.targets)

    def _normalise(self, modality: str, rows: Tensor, valid: Tensor) -> Tensor:
        """As a bank does: in the stored type before and after, reduced ones in float32."""
        stored = rows.to(getattr(torch, self._checkpoint.recipes[modality].dtype))
        if modality in self._checkpoint.projections:
            stored = self._checkpoint.projections[modality].apply(stored, valid)
        moments = self._checkpoint.moments[modality]
        normal = moments.normalise_(stored.to(torch.float32, copy=True), valid, stored.dtype)
        return normal.to(stored.dtype).float()


def _count(rows: Rows) -> int:
    """N."""
    return len(next(iter(rows.values()))[1])
