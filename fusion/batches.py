"""Windows of a bank as batches: a few `index_select`s into reused buffers, cast after gathering.

There is no DataLoader: its workers make a reader this cheap slower. On a CPU with a free core, and where a modality stays
in its store, a thread gathers one batch ahead, while the model computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cache.errors import ShapeError
from cache.windows import Window
from fusion.mapped import MappedRows
from fusion.model import Inputs

if TYPE_CHECKING:
    from fusion.bank import Bank

_BLOCK = 2**18  # numbers gathered and cast at a time: they are still in the processor's cache when they are cast
_LONG = 128  # frames from which on a window is copied as a slice, without gathering, on a CPU


@dataclass(frozen=True, eq=False)
class Batch:
    """B windows of L frames. Its embeddings live in buffers that the next batch overwrites.

    Attributes:
        embeddings: {modality: (B, L, D)} float32, zero where not valid.
        valid: {modality: (B, L)} true where the backbone saw input; false in padding.
        mask: (B, L, C) true where the frame lies inside the trial and this target is labelled.
        targets: (B, L, C) float32 in [-1, 1], zero outside the mask.
        windows: the B windows.
        lengths: (B,) int64 on the CPU, frames of each window before padding.
    """

    embeddings: dict[str, Tensor]
    valid: dict[str, Tensor]
    mask: Tensor
    targets: Tensor
    windows: tuple[Window, ...]
    lengths: Tensor

    @property
    def inputs(self) -> Inputs:
        """What a model is given."""
        return Inputs(self.embeddings, self.valid, self.lengths)


class Batches:
    """A pass over windows of a bank, as often as wanted, through the same buffers."""

    def __init__(self, bank: Bank, windows: Sequence[Window], length: int, batch_size: int) -> None:
        self.bank, self.windows, self.length, self.batch_size = bank, tuple(windows), length, batch_size
        for window in self.windows:
            span = bank.span(window.trial_id)
            if window.num_frames > length or window.start < 0 or window.stop > span.stop - span.start:
                raise ShapeError(
                    f"{window} does not fit {length} frames of a trial of {span.stop - span.start}. Cut the windows anew."
                )
        columns = ([bank.starts[w.trial_id] + w.start, w.stride, w.num_frames] for w in self.windows)
        self._columns = (
            torch.tensor(list(columns), dtype=torch.int64).reshape(-1, 3).T.contiguous()
        )  # first, stride, used
        self._steps = torch.arange(length)
        labelled = bank.labels.isfinite()
        self._targets = bank.labels.masked_fill(~labelled, 0)
        # (F + 1, modalities + C): one gather for all
        self._flags = torch.cat([*(valid[:, None] for valid in bank.valid.values()), labelled], dim=1)
        mapped = any(isinstance(rows, MappedRows) for rows in bank.embeddings.values())
        self._ahead = mapped or (bank.ahead and bank.device.type == "cpu")
        self._scratch = [self._make_scratch() for _ in range(2 if self._ahead else 1)]

    def _make_scratch(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Modality → what its batches are gathered into, and a block in the stored type on the way there."""
        frames = self.length * min(self.batch_size, max(1, len(self.windows)))
        scratch = {}
        for modality, source in self.bank.embeddings.items():
            dim, mapped = self.bank.dims[modality], isinstance(source, MappedRows)
            on_cpu = self.bank.device.type == "cpu"
            rows = min(frames, max(1, _BLOCK // dim)) if on_cpu else frames  # all at once where no cache is to mind
            rows = max(rows, self.length) if mapped else rows
            result = torch.empty(frames, dim, device=self.bank.device)
            device = torch.device("cpu") if mapped else self.bank.device
            scratch[modality] = result, torch.empty(rows, dim, dtype=source.dtype, device=device)
        return scratch

    def __len__(self) -> int:
        """Batches per pass; the last one may be smaller."""
        return -(-len(self.windows) // self.batch_size)

    @property
    def labelled(self) -> Tensor:
        """(N, C) on the CPU: whether a window holds at least one labelled frame of a target."""
        parts, first = self._columns.split(4096, dim=1), len(self.bank.valid)
        counts = [self._flags[self._rows(*columns)][..., first:].any(dim=1) for columns in parts]
        return torch.cat(counts).cpu()

    def epoch(self, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """One pass, in the given order, or shuffled where a CPU generator is given."""
        count = len(self.windows)
        order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        chosen = order.split(self.batch_size) if count else ()
        return self._prefetch(chosen) if self._ahead and len(chosen) > 1 else map(self.gather, chosen)

    def gather(self, chosen: Tensor) -> Batch:
        """One batch, of the windows with these numbers (B,) int64."""
        return self._gather(chosen, self._scratch[0])

    def _prefetch(self, chosen: Sequence[Tensor]) -> Iterator[Batch]:
        """Batches gathered one ahead in a thread, into two sets of buffers in turn."""
        inference = torch.is_inference_mode_enabled()

        def gather(index: int) -> Batch:
            with torch.inference_mode(inference):
                return self._gather(chosen[index], self._scratch[index % 2])

        with ThreadPoolExecutor(1, "bank") as thread:
            pending = thread.submit(gather, 0)
            for following in range(1, len(chosen)):
                batch = pending.result()
                pending = thread.submit(gather, following)
                yield batch
            yield pending.result()

    def _rows(self, firsts: Tensor, strides: Tensor, used: Tensor) -> Tensor:
        """(B, L) rows of the bank; padding is its last row."""
        rows = torch.addcmul(firsts[:, None], strides[:, None], self._steps)
        if len(used) and int(used.min()) < self.length:
            rows = rows.masked_fill_(self._steps >= used[:, None], len(self._targets) - 1)
        return rows.to(self.bank.device, non_blocking=True)

    def _gather(self, chosen: Tensor, scratch: dict[str, tuple[Tensor, Tensor]]) -> Batch:
        columns = self._columns[:, chosen]
        rows = self._rows(*columns)
        shape, flat = rows.shape, rows.flatten()
        flags = self._flags.index_select(0, flat).view(*shape, -1)
        valid = dict(zip(scratch, flags.unbind(dim=-1), strict=False))
        windows = tuple([self.windows[i] for i in chosen.tolist()])
        embeddings = {}
        for modality, (buffer, block) in scratch.items():
            source, result = self.bank.embeddings[modality], buffer[: len(flat)]
            if isinstance(source, MappedRows):
                source.gather(windows, valid[modality].flatten(), result, block)
            else:
                self._fill(source, flat, columns, result, block)
            embeddings[modality] = result.view(*shape, -1)
        targets = self._targets.index_select(0, flat).view(*shape, -1)
        return Batch(embeddings, valid, flags[..., len(valid) :], targets, windows, columns[2])

    def _fill(self, source: Tensor, rows: Tensor, columns: Tensor, result: Tensor, block: Tensor) -> None:
        """Fill (B * L, D) float32 with these rows of these windows."""
        if source.device.type == "cpu" and self.length >= _LONG:
            self._copy_windows(source, result.view(-1, self.length, source.shape[1]), columns)
        elif source.dtype == result.dtype:
            torch.index_select(source, 0, rows, out=result)
        else:
            for part, out in zip(rows.split(len(block)), result.split(len(block)), strict=True):
                out.copy_(torch.index_select(source, 0, part, out=block[: len(part)]))

    def _copy_windows(self, source: Tensor, result: Tensor, columns: Tensor) -> None:
        for out, (first, stride, used) in zip(result, columns.T.tolist(), strict=True):
            out[:used].copy_(source[first : first + stride * used : stride])
            if used < self.length:
                out[used:].zero_()
