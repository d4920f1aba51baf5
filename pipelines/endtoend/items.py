"""The items of windows: what the backbones of an end-to-end model read, and the frame that each of their rows belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.corpus.manifest import Manifest, Trial
from extract.inputs.alignment import Alignment
from extract.inputs.contract import Input, Source, open_source

PASS = 64
"""Items that a backbone computes at a time where it is not trained."""


@dataclass(frozen=True, eq=False)
class Items:
    """The items of B windows of L frames, each once per window.

    Attributes:
        inputs: (N, …) items, window after window; in an empty batch, N is 0.
        windows: (N,) int64 number of the window that each item belongs to.
        first: (B, L) int64 first row of each frame, counted over the rows of all items.
        count: (B, L) int64 number of its rows; 0 where the backbone saw nothing.
        valid: (B, L) true where a frame has a row, or where padding counts as input.
    """

    inputs: Tensor
    windows: Tensor
    first: Tensor
    count: Tensor
    valid: Tensor

    def to(self, device: torch.device) -> Items:
        """The same on a device."""
        return Items(*(part.to(device, non_blocking=True) for part in vars(self).values()))

    def spread(self, rows: Tensor) -> Tensor:
        """(B, L, D) mean of each frame's rows (R, D), R ≥ 1, zero where it has none; differentiable.

        As `extract.inputs.alignment.Alignment.average`.
        """
        last = len(rows) - 1
        total = rows[self.first.clamp(max=last)]
        for step in range(1, int(self.count.max())):
            more = (self.count > step).unsqueeze(-1)
            total = total + rows[(self.first + step).clamp(max=last)].masked_fill(~more, 0)
        return (total / self.count.clamp(min=1).unsqueeze(-1)).masked_fill((self.count == 0).unsqueeze(-1), 0)


class TrialItems:
    """The items of one trial, opened when they are first needed."""

    def __init__(self, open_trial: Callable[[], Source]) -> None:
        self._open = open_trial

    @cached_property
    def source(self) -> Source:
        """What is read; `alignment` prepares it for reading."""
        return self._open()

    @cached_property
    def digest(self) -> str:
        """Digest of what is read, when it was first asked for."""
        return self.source.digest()

    @cached_property
    def alignment(self) -> Alignment:
        """The rows that each frame uses."""
        return self.source.load()

    def read(self, items: NDArray[np.int64]) -> NDArray[Any]:
        """(N, …) items."""
        _ = self.alignment
        return self.source.read(items)

    @torch.no_grad()
    def embed(self, compute: Callable[[Tensor], Tensor], dim: int, device: torch.device) -> NDArray[np.float32]:
        """(T, D) mean of each frame's rows, zero where it has none; items are read ahead.

        Args:
            compute: at least one item (N, …) on the device → rows (R, D).
            dim: D.
            device: where they are computed.
        """
        alignment, used = self.alignment, self.alignment.used_items()
        rows = np.zeros((alignment.starts[-1], dim), np.float32)
        parts = [used[start : start + PASS] for start in range(0, len(used), PASS)]
        with ThreadPoolExecutor(2) as readers:
            for part, read in zip(parts, [readers.submit(self.read, part) for part in parts], strict=True):
                found = compute(torch.from_numpy(read.result()).to(device))
                rows[alignment.rows_of(part)] = found.cpu().numpy()
        averaged: NDArray[np.float32] = alignment.average(rows)
        return averaged

    def place(self, frames: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The items that some frames use, and their first rows and numbers of rows, counted over these items only."""
        alignment = self.alignment
        first, count = alignment.first[frames], np.maximum(alignment.stop[frames] - alignment.first[frames], 0)
        used = count > 0
        edges = np.stack([first[used], first[used] + count[used] - 1])
        low, high = np.searchsorted(alignment.starts, edges, side="right") - 1
        items = np.unique(np.concatenate([np.arange(a, b + 1) for a, b in zip(low, high, strict=True)] or [low]))
        starts = np.concatenate([[0], np.cumsum(alignment.rows[items])])
        local = np.zeros(len(frames), np.int64)
        local[used] = starts[np.searchsorted(items, low)] + first[used] - alignment.starts[low]
        return items, local, count


class ItemReader:
    """Reads what one backbone sees of some trials.

    Args:
        kind: the backbone's input.
        manifest: of the corpus.
        trials: those that may be read.
        crops: folder of our crop zips, None if the corpus brings its own.
    """

    def __init__(self, kind: Input, manifest: Manifest, trials: Iterable[Trial], crops: Path | None) -> None:
        trials = tuple(trials)
        self.input = kind
        self._of = partial(ItemReader, manifest=manifest, trials=trials, crops=crops)
        self._trials = {
            trial.id: TrialItems(lambda trial=trial: open_source(kind, manifest, trial, crops))  # type: ignore[misc]
            for trial in trials
        }

    def of(self, kind: Input) -> ItemReader:
        """A reader of the same trials for another input."""
        return self._of(kind)

    def trial(self, trial_id: str) -> TrialItems:
        """The items of a trial."""
        return self._trials[trial_id]

    def read(self, windows: Sequence[tuple[str, NDArray[np.int64]]], length: int, readers: Executor) -> Items:
        """The items of some windows, padded to `length` frames; several threads decode.

        Args:
            windows: trial and frames of each.
            length: L.
            readers: the threads.

        Raises:
            AvFusionError: if a medium is missing or damaged.
        """
        first = np.zeros((len(windows), length), np.int64)
        count = np.zeros((len(windows), length), np.int64)
        parts, owners, num_rows = [], [], 0
        for number, (trial_id, frames) in enumerate(windows):
            trial = self._trials[trial_id]
            items, local, rows = trial.place(frames)
            first[number, : len(local)] = local + num_rows
            count[number, : len(rows)] = rows
            num_rows += int(trial.alignment.rows[items].sum())
            if len(items):
                parts.append(readers.submit(trial.read, items))
                owners.append(np.full(len(items), number))
        found = [part.result() for part in parts] or [self.input.example(1)[:0]]
        inputs = torch.from_numpy(np.concatenate(found))
        self.input.check(inputs)
        numbers = np.concatenate(owners or [np.zeros(0, np.int64)])
        return Items(inputs, *map(torch.from_numpy, (numbers, first, count, count > 0)))
