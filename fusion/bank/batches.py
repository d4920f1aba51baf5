"""Windows of a bank as batches: a few `index_select` calls into reused buffers, cast after gathering.

No DataLoader is used: its workers would slow down a reader this cheap. On a CPU, and whenever a modality stays in its
store, a thread gathers the next batch while the model computes.
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
from fusion.bank.rows import Wanted
from fusion.model import Inputs

if TYPE_CHECKING:
    from fusion.bank.bank import Bank


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
        """The part that the model sees."""
        return Inputs(self.embeddings, self.valid, self.lengths)


class Batches:
    """Windows of a bank in batches, for any number of passes through the same buffers."""

    def __init__(self, bank: Bank, windows: Sequence[Window], length: int, batch_size: int) -> None:
        self.bank = bank
        self.windows = tuple(windows)
        self.length = length
        self.batch_size = batch_size
        for window in self.windows:
            span = bank.span(window.trial_id)
            if window.num_frames > length or window.start < 0 or window.stop > span.stop - span.start:
                raise ShapeError(
                    f"{window} does not fit {length} frames of a trial of {span.stop - span.start}. Cut the windows again."
                )
        columns = [(bank.starts[w.trial_id] + w.start, w.stride, w.num_frames) for w in self.windows]
        self._columns = torch.tensor(columns, dtype=torch.int64).reshape(-1, 3).T.contiguous()  # first, stride, used
        self._steps = torch.arange(length)
        labelled = bank.labels.isfinite()
        self._targets = bank.labels.masked_fill(~labelled, 0)
        # (F + 1, modalities + C), so that a single gather fetches all of them
        self._flags = torch.cat([*(valid[:, None] for valid in bank.valid.values()), labelled], dim=1)
        waits = any(rows.waits for rows in bank.embeddings.values())
        self._ahead = waits or (bank.ahead and bank.device.type == "cpu")
        self._scratch = [self._make_scratch() for _ in range(2 if self._ahead else 1)]

    def _make_scratch(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Modality → output buffer of its batches, and an intermediate block in the stored type."""
        frames = self.length * min(self.batch_size, max(1, len(self.windows)))
        scratch = {}
        for modality, source in self.bank.embeddings.items():
            result = torch.empty(frames, source.dim, device=self.bank.device)
            scratch[modality] = result, source.make_block(frames, self.length, self.bank.device)
        return scratch

    def __len__(self) -> int:
        """Batches per pass; the last one may be smaller."""
        return -(-len(self.windows) // self.batch_size)

    @property
    def labelled(self) -> Tensor:
        """(N, C) on the CPU: whether a window has at least one labelled frame of a target."""
        parts = self._columns.split(4096, dim=1)
        first = len(self.bank.valid)
        counts = [self._flags[self._rows(*columns)][..., first:].any(dim=1) for columns in parts]
        return torch.cat(counts).cpu()

    def epoch(self, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """One pass, in the given order, or shuffled by a CPU generator."""
        count = len(self.windows)
        order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        chosen = order.split(self.batch_size) if count else ()
        return self._prefetch(chosen) if self._ahead and len(chosen) > 1 else map(self.gather, chosen)

    def gather(self, chosen: Tensor, buffers: int = 0) -> Batch:
        """The batch of the windows with these indices, (B,) int64, in one of the sets of buffers."""
        columns = self._columns[:, chosen]
        rows = self._rows(*columns)
        shape = rows.shape
        flat = rows.flatten()
        flags = self._flags.index_select(0, flat).view(*shape, -1)
        valid = dict(zip(self._scratch[buffers], flags.unbind(dim=-1), strict=False))
        wanted = Wanted(tuple([self.windows[i] for i in chosen.tolist()]), columns, flat, self.length)
        embeddings = {}
        for modality, (buffer, block) in self._scratch[buffers].items():
            result = buffer[: len(flat)]
            self.bank.embeddings[modality].gather(wanted, valid[modality], result, block)
            embeddings[modality] = result.view(*shape, -1)
        targets = self._targets.index_select(0, flat).view(*shape, -1)
        return Batch(embeddings, valid, flags[..., len(valid) :], targets, wanted.windows, columns[2])

    def _prefetch(self, chosen: Sequence[Tensor]) -> Iterator[Batch]:
        """Gather one batch ahead in a thread, alternating between two sets of buffers."""
        inference = torch.is_inference_mode_enabled()

        def gather(index: int) -> Batch:
            with torch.inference_mode(inference):
                return self.gather(chosen[index], index % 2)

        with ThreadPoolExecutor(1, "bank") as thread:
            pending = thread.submit(gather, 0)
            for following in range(1, len(chosen)):
                batch = pending.result()
                pending = thread.submit(gather, following)
                yield batch
            yield pending.result()

    def _rows(self, firsts: Tensor, strides: Tensor, used: Tensor) -> Tensor:
        """(B, L) rows of the bank; padding maps to the last row."""
        rows = torch.addcmul(firsts[:, None], strides[:, None], self._steps)
        if len(used) and int(used.min()) < self.length:
            rows = rows.masked_fill_(self._steps >= used[:, None], len(self._targets) - 1)
        return rows.to(self.bank.device, non_blocking=True)
