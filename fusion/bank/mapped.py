"""Embeddings that stay in their store, for features larger than memory: windows are read from memory maps.

Rows in memory are normalised once; here, normalisation happens after gathering, with the same operations in the same
order on the same types, so batches are identical to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.errors import SettingError, ShapeError, StoreError
from cache.store.feature_sets import name_of
from cache.store.store import FeatureStore
from cache.windows import Window
from fusion.bank.normalisation import Moments
from fusion.bank.rows import ResidentRows, Rows, Wanted, block_size


@dataclass(frozen=True, eq=False)
class MappedRows:
    """One modality of a bank, in its store.

    Attributes:
        store: holds its trials; read through memory maps of finished chunks if the file system supports them.
        moments: normalise the gathered rows; None to keep rows as stored.
        kept: trial id → the frames of the trial that its rows are; None if they are all of them.
    """

    store: FeatureStore
    moments: Moments | None = None
    kept: Mapping[str, NDArray[np.int64]] | None = None
    waits: ClassVar[bool] = True

    @property
    def dim(self) -> int:
        return self.store.recipe.dim

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.store.recipe.dtype)
        return dtype

    def to(self, device: torch.device) -> MappedRows:
        """The same, with the moments on a device."""
        return self if self.moments is None else replace(self, moments=self.moments.to(device))

    def trial(self, trial_id: str, span: slice) -> Tensor:
        """(T, D) rows of a trial as stored, copied to the CPU's memory."""
        embeddings = self.store.read(trial_id).embeddings
        return torch.from_numpy(np.array(embeddings) if self.kept is None else embeddings[self.kept[trial_id]])

    def keep(self, rows: Tensor, kept: Mapping[str, NDArray[np.int64]]) -> MappedRows:
        """The same store, of which only some frames are read."""
        return replace(self, kept=kept)

    def normalised(self, moments: Moments, valid: Tensor, spans: Mapping[str, slice]) -> MappedRows:
        """The same rows, to be normalised when they are gathered."""
        return replace(self, moments=moments)

    def make_block(self, num_frames: int, length: int, device: torch.device) -> Tensor:
        """On the CPU, with room for at least one window."""
        rows = max(length, block_size(num_frames, self.dim, device))
        return torch.empty(rows, self.dim, dtype=self.dtype)

    def gather(self, wanted: Wanted, valid: Tensor, result: Tensor, block: Tensor) -> None:
        """Read as many whole windows at a time as fit the block; normalised rows are also zero where not valid."""
        length = wanted.length
        step = max(1, len(block) // length)
        valid = valid.flatten()
        rows = block.numpy()
        for first in range(0, len(wanted.windows), step):
            part = wanted.windows[first : first + step]
            for i, window in enumerate(part):
                start = i * length
                end = start + window.num_frames
                rows[start:end] = self._read(window)
                rows[end : start + length] = 0
            span = slice(first * length, (first + len(part)) * length)
            self._finish(result[span], valid[span], block[: len(part) * length])

    def _read(self, window: Window) -> NDArray[np.floating]:
        if self.kept is None:
            return self.store.read(window.trial_id, window.start, window.stop).embeddings[:: window.stride]
        frames = self.kept[window.trial_id][window.rows]
        return self.store.read(window.trial_id, int(frames[0]), int(frames[-1]) + 1).embeddings[frames - frames[0]]

    def _finish(self, result: Tensor, valid: Tensor, block: Tensor) -> None:
        result.copy_(block)
        if self.moments is None:
            return
        self.moments.normalise_(result, valid, self.dtype)
        if self.dtype == result.dtype:
            return
        if result.device != block.device:
            block = torch.empty_like(block, device=result.device)
        result.copy_(block.copy_(result))


def choose_resident(stores: Mapping[str, FeatureStore], num_frames: int, memory_gb: float) -> set[str]:
    """Choose the modalities to load: the smallest first, as long as they and their normalised copies fit.

    Args:
        stores: modality → its features.
        num_frames: number of frames of all trials.
        memory_gb: the budget, in 10^9 bytes.

    Raises:
        SettingError: if the budget is negative.
    """
    if not memory_gb >= 0:
        raise SettingError(f"memory_gb is {memory_gb}, expected 0 or more. Change params.yaml.")
    left = memory_gb * 1e9
    chosen = set()
    sizes = {
        m: 2 * num_frames * store.recipe.dim * np.dtype(store.recipe.dtype).itemsize for m, store in stores.items()
    }
    for modality in sorted(sizes, key=lambda name: (sizes[name], name)):
        left -= sizes[modality]
        if left >= 0:
            chosen.add(modality)
    return chosen


def load_rows(modality: str, store: FeatureStore, lengths: Mapping[str, int], resident: bool) -> tuple[Rows, Tensor]:
    """Read trials one after another, verifying every byte against its digest; one row of padding follows.

    Args:
        modality: for messages.
        store: its features.
        lengths: trial id → number of frames on its clock.
        resident: whether to keep the embeddings in memory.

    Returns:
        Embeddings (F + 1, D), in memory or in the store, and valid (F + 1,).

    Raises:
        StoreError: if the store lacks a trial, or its bytes were altered.
        ShapeError: if a trial's rows do not equal the ticks of its clock.
    """
    found = store.find_records(lengths)
    absent = [trial_id for trial_id in lengths if trial_id not in found]
    if absent:
        names = ", ".join(f"'{name}'" for name in absent[:5])
        raise StoreError(
            f"The {modality} features '{name_of(store.path)}' lack {len(absent)} of {len(lengths)} trials: {names}. "
            "Run the extraction again."
        )
    num_rows = sum(lengths.values()) + 1
    embeddings = torch.zeros(num_rows * resident, store.recipe.dim, dtype=getattr(torch, store.recipe.dtype))
    valid = torch.zeros(num_rows, dtype=torch.bool)
    row = 0
    for trial_id, num_frames in lengths.items():
        features = store.read(trial_id, check=True)
        if len(features.embeddings) != num_frames:
            raise ShapeError(
                f"Trial '{trial_id}' has {len(features.embeddings)} rows of {modality} features but {num_frames} frames "
                "on its clock. Extract it again."
            )
        if resident:
            embeddings.numpy()[row : row + num_frames] = features.embeddings
        valid.numpy()[row : row + num_frames] = features.valid
        row += num_frames
    return ResidentRows(embeddings) if resident else MappedRows(store), valid
