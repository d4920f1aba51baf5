"""The embeddings of one modality of a bank: the interface, and the implementation for embeddings in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.windows import Window
from fusion.bank.normalisation import Moments

_BLOCK = 2**18  # numbers gathered and cast at a time, so that they are still in the processor's cache when cast
_LONG = 128  # on a CPU, windows of at least this many frames are copied as slices instead of gathered


@dataclass(frozen=True, eq=False)
class Wanted:
    """B windows of L frames, as requested for a batch.

    Attributes:
        windows: the B windows.
        columns: (3, B) on the CPU: first row in the bank, stride, frames before padding.
        rows: (B * L,) rows in the bank, on the device of the batch; the last row is padding.
        length: L.
    """

    windows: tuple[Window, ...]
    columns: Tensor
    rows: Tensor
    length: int


class Rows(Protocol):
    """Embeddings (D,) of the frames of some trials.

    Attributes:
        waits: whether gathering waits for a disk or network, so that a thread should do it ahead.
    """

    waits: ClassVar[bool]

    @property
    def dim(self) -> int:
        """D."""

    @property
    def dtype(self) -> torch.dtype:
        """The stored type."""

    def to(self, device: torch.device) -> Self:
        """The same, for batches on a device."""

    def trial(self, trial_id: str, span: slice) -> Tensor:
        """(T, D) rows of a trial; `span` is its rows in the bank."""

    def keep(self, rows: Tensor, kept: Mapping[str, NDArray[np.int64]]) -> Self:
        """Some rows only.

        Args:
            rows: their places in the bank, on its device, the last one for padding.
            kept: trial id → the frames of the trial that they belong to.
        """

    def normalised(self, moments: Moments, valid: Tensor, spans: Mapping[str, slice]) -> Rows:
        """Some trials only, normalised.

        Args:
            moments: on the device of the bank.
            valid: (F + 1,) of the bank.
            spans: trial id → its rows in the bank, in their new order.
        """

    def make_block(self, num_frames: int, length: int, device: torch.device) -> Tensor:
        """Scratch (rows, D) in the stored type for `gather`.

        Args:
            num_frames: frames of the largest batch, B * L.
            length: L.
            device: of the batches.
        """

    def gather(self, wanted: Wanted, valid: Tensor, result: Tensor, block: Tensor) -> None:
        """Fill (B * L, D) float32 with windows, zero in padding.

        Args:
            wanted: the windows.
            valid: (B, L) on the device of the result, false in padding.
            result: the output.
            block: made by `make_block`.
        """


def block_size(num_frames: int, dim: int, device: torch.device) -> int:
    """Rows to gather at a time: as many as fit the processor's cache on a CPU, all of them elsewhere."""
    return min(num_frames, max(1, _BLOCK // dim)) if device.type == "cpu" else num_frames


@dataclass(frozen=True, eq=False)
class ResidentRows:
    """Embeddings in memory.

    Attributes:
        values: (F + 1, D) in the stored type, zero where not valid. The last row is padding.
    """

    values: Tensor
    waits: ClassVar[bool] = False

    @property
    def dim(self) -> int:
        return self.values.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    def to(self, device: torch.device) -> ResidentRows:
        """The same on a device."""
        return ResidentRows(self.values.to(device))

    def trial(self, trial_id: str, span: slice) -> Tensor:
        """(T, D) rows of a trial, as a view."""
        return self.values[span]

    def keep(self, rows: Tensor, kept: Mapping[str, NDArray[np.int64]]) -> ResidentRows:
        """A copy of some rows."""
        return ResidentRows(self.values[rows])

    def normalised(self, moments: Moments, valid: Tensor, spans: Mapping[str, slice]) -> ResidentRows:
        """A copy, normalised once for all batches."""
        total = sum(span.stop - span.start for span in spans.values())
        result = self.values.new_zeros(total + 1, self.dim)
        row = 0
        for span in spans.values():
            count = span.stop - span.start
            trial = self.values[span].to(torch.float32, copy=True)
            result[row : row + count] = moments.normalise_(trial, valid[span], self.dtype)
            row += count
        return ResidentRows(result)

    def make_block(self, num_frames: int, length: int, device: torch.device) -> Tensor:
        """Scratch on the device; see `Rows.make_block`."""
        return torch.empty(block_size(num_frames, self.dim, device), self.dim, dtype=self.dtype, device=device)

    def gather(self, wanted: Wanted, valid: Tensor, result: Tensor, block: Tensor) -> None:
        """Copy long windows as slices, gather short ones row by row."""
        if self.values.device.type == "cpu" and wanted.length >= _LONG:
            self._copy_windows(result.view(-1, wanted.length, self.dim), wanted.columns)
        elif self.dtype == result.dtype:
            torch.index_select(self.values, 0, wanted.rows, out=result)
        else:
            for part, out in zip(wanted.rows.split(len(block)), result.split(len(block)), strict=True):
                out.copy_(torch.index_select(self.values, 0, part, out=block[: len(part)]))

    def _copy_windows(self, result: Tensor, columns: Tensor) -> None:
        for out, (first, stride, used) in zip(result, columns.T.tolist(), strict=True):
            out[:used].copy_(self.values[first : first + stride * used : stride])
            if used < len(out):
                out[used:].zero_()
