"""The bank: all features of some trials in one contiguous tensor per modality, and windows of it as batches.

Features are loaded once, stay in the type in which they are stored, and are cast after gathering; a batch is a few
`index_select`s into reused buffers. There is no DataLoader: its workers make a reader this cheap slower.

Modalities beyond a memory budget stay in their stores (`fusion.mapped`); a thread then gathers one batch ahead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cache.errors import FingerprintError, SettingError, ShapeError
from cache.manifest import Manifest
from cache.names import require_known
from cache.store import FeatureStore
from cache.windows import Window, cut_windows
from fusion.mapped import MappedRows, choose_resident, load_rows
from fusion.model import Inputs
from fusion.moments import Moments, measure_moments

_BLOCK = 2**18  # numbers gathered and cast at a time: they are still in the processor's cache when they are cast
_LONG = 128  # frames from which on a window is copied as a slice, without gathering, on a CPU


@dataclass(frozen=True, eq=False)
class Batch:
    """B windows of L frames. Its embeddings live in buffers that the next batch overwrites.

    Attributes:
        embeddings: {modality: (B, L, D)} float32, zero where not valid.
        valid: {modality: (B, L)} true where the backbone saw input; false in padding.
        mask: (B, L) true where the frame lies inside the trial and every target is labelled.
        targets: (B, L, C) float32, zero outside the mask.
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


@dataclass(frozen=True, eq=False)
class Bank:
    """F frames of consecutive trials, on one device.

    Attributes:
        embeddings: {modality: (F + 1, D)} in the stored type; zero where not valid. The last row is padding. Or the
            modality's rows in their store.
        valid: {modality: (F + 1,)} true where the backbone saw input.
        labels: (F + 1, C) float32, nan where not annotated.
        starts: trial id → its first row.
        lengths: trial id → its number of frames, in the order of the rows.
        targets: names of the label columns.
        fingerprints: modality → fingerprint of the features.
    """

    embeddings: dict[str, Tensor | MappedRows]
    valid: dict[str, Tensor]
    labels: Tensor
    starts: dict[str, int]
    lengths: dict[str, int]
    targets: tuple[str, ...]
    fingerprints: dict[str, str]

    @classmethod
    def from_stores(
        cls,
        stores: Mapping[str, FeatureStore],
        manifest: Manifest,
        trial_ids: Sequence[str],
        device: str = "cpu",
        memory_gb: float = math.inf,
    ) -> Bank:
        """Load trials from one store per modality, comparing every byte with its digest.

        Args:
            stores: modality → its features.
            manifest: clocks and labels of the trials.
            trial_ids: which trials, at least one.
            device: where the tensors live.
            memory_gb: budget for the embeddings and their normalised copy, 10^9 bytes; the modalities that exceed it
                stay in their stores, the smaller ones are loaded first.

        Raises:
            UnknownNameError: if a trial is not in the manifest.
            StoreError: if a store lacks a trial, or its bytes were altered.
            ShapeError: if a trial's rows do not equal the ticks of its clock.
            SettingError: if there is no store or no trial.
        """
        trials = [manifest.trial(trial_id) for trial_id in dict.fromkeys(trial_ids)]
        if not stores or not trials:
            raise SettingError(
                f"A bank of {len(trials)} trials and {len(stores)} modalities; expected at least one of each. Name them."
            )
        lengths = {trial.id: trial.clock.num_frames for trial in trials}
        loaded = choose_resident(stores, sum(lengths.values()), memory_gb)
        rows = {
            modality: load_rows(modality, store, lengths, modality in loaded)
            for modality, store in sorted(stores.items())
        }
        labels = torch.full((sum(lengths.values()) + 1, len(manifest.targets)), torch.nan)
        starts = _starts(lengths)
        for trial in trials:
            if trial.labels is not None:
                labels.numpy()[starts[trial.id] : starts[trial.id] + lengths[trial.id]] = trial.labels
        return cls(
            {modality: embeddings.to(torch.device(device)) for modality, (embeddings, _) in rows.items()},
            {modality: valid.to(device) for modality, (_, valid) in rows.items()},
            labels.to(device),
            starts,
            lengths,
            manifest.targets,
            {modality: store.spec.fingerprint for modality, store in sorted(stores.items())},
        )

    @property
    def dims(self) -> dict[str, int]:
        """Modality → D."""
        return {modality: _dim(rows) for modality, rows in self.embeddings.items()}

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.labels.device

    def span(self, trial_id: str) -> slice:
        """Rows of a trial.

        Raises:
            UnknownNameError: if the bank does not hold it.
        """
        require_known("trial of the bank", trial_id, self.starts)
        return slice(self.starts[trial_id], self.starts[trial_id] + self.lengths[trial_id])

    def rows(self, modality: str, trial_id: str) -> Tensor:
        """(T, D) embeddings of a trial in the stored type; on the CPU where they are not resident.

        Raises:
            UnknownNameError: if the bank does not hold the modality or the trial.
        """
        require_known("modality of the bank", modality, self.embeddings)
        span, rows = self.span(trial_id), self.embeddings[modality]
        return rows.trial(trial_id) if isinstance(rows, MappedRows) else rows[span]

    def select_targets(self, targets: tuple[str, ...]) -> Bank:
        """The same bank with these label columns, in this order; features are shared.

        Raises:
            UnknownNameError: if a target does not exist.
        """
        for target in targets:
            require_known("target", target, self.targets)
        return replace(self, labels=self.labels[:, [self.targets.index(target) for target in targets]], targets=targets)

    def measure(self, trial_ids: Sequence[str]) -> dict[str, Moments]:
        """Moments of every modality over the valid frames of these trials, and of no other.

        Raises:
            UnknownNameError: if the bank does not hold a trial.
            SettingError: if a modality has no valid frame in them.
        """
        for trial_id in trial_ids:
            self.span(trial_id)
        return {
            modality: measure_moments(modality, (self._valid_rows(modality, trial_id) for trial_id in trial_ids)).to(
                self.device
            )
            for modality in self.embeddings
        }

    def _valid_rows(self, modality: str, trial_id: str) -> tuple[Tensor, Tensor]:
        rows = self.rows(modality, trial_id)
        return rows, self.valid[modality][self.span(trial_id)].to(rows.device)

    def normalised(self, moments: Mapping[str, Moments], trial_ids: Sequence[str]) -> Bank:
        """A copy that holds only these trials and the modalities of `moments`, normalised once for all batches.

        Rows keep the stored type, clipped to its range; those of invalid frames are zero, the mean. Modalities that are
        not resident are normalised when they are gathered, with the same result.

        Raises:
            UnknownNameError: if the bank does not hold a trial or a modality.
        """
        for modality in moments:
            require_known("modality of the bank", modality, self.embeddings)
        spans = [self.span(trial_id) for trial_id in trial_ids]
        lengths = {trial_id: self.lengths[trial_id] for trial_id in trial_ids}
        padding = slice(len(self.labels) - 1, len(self.labels))
        rows = torch.cat([torch.arange(span.start, span.stop, device=self.device) for span in (*spans, padding)])
        valid = {modality: self.valid[modality][rows] for modality in sorted(moments)}
        embeddings = {modality: self._normalise(modality, moments[modality], spans) for modality in valid}
        fingerprints = {modality: self.fingerprints[modality] for modality in valid}
        return Bank(embeddings, valid, self.labels[rows], _starts(lengths), lengths, self.targets, fingerprints)

    def _normalise(self, modality: str, moments: Moments, spans: list[slice]) -> Tensor | MappedRows:
        source, valid = self.embeddings[modality], self.valid[modality]
        moments = moments.to(self.device)
        if isinstance(source, MappedRows):
            return replace(source, moments=moments)
        total = sum(span.stop - span.start for span in spans)
        result, row = source.new_zeros(total + 1, source.shape[1]), 0
        for span in spans:
            count = span.stop - span.start
            result[row : row + count] = moments.normalise_(
                source[span].to(torch.float32, copy=True), valid[span], source.dtype
            )
            row += count
        return result

    def cut(
        self, trial_ids: Sequence[str], length: int, hop: int, dilation: int = 1, tail: str = "align"
    ) -> tuple[Window, ...]:
        """Windows of these trials: `cache.windows.cut_windows` with the bank's lengths.

        Raises:
            UnknownNameError: if the bank does not hold a trial.
            SettingError: if the numbers are out of range.
        """
        for trial_id in trial_ids:
            require_known("trial of the bank", trial_id, self.lengths)
        return cut_windows({trial_id: self.lengths[trial_id] for trial_id in trial_ids}, length, hop, dilation, tail)

    def batches(self, windows: Sequence[Window], length: int, batch_size: int) -> Batches:
        """Batches over windows, padded to `length` frames.

        Raises:
            UnknownNameError: if the bank does not hold a window's trial.
            ShapeError: if a window is longer than `length` or leaves its trial.
        """
        return Batches(self, windows, length, batch_size)

    def check_fingerprints(self, expected: Mapping[str, str]) -> None:
        """Refuse features other than those that a model was trained on.

        Args:
            expected: modality → fingerprint.

        Raises:
            UnknownNameError: if the bank lacks a modality.
            FingerprintError: if a fingerprint differs; the message names the modality and both.
        """
        for modality in expected:
            require_known("modality of the bank", modality, self.fingerprints)
        faults = [
            f"{modality} features have fingerprint '{self.fingerprints[modality]}', the model was trained on '{fingerprint}'"
            for modality, fingerprint in sorted(expected.items())
            if self.fingerprints[modality] != fingerprint
        ]
        if faults:
            raise FingerprintError(f"{'; '.join(faults)}. Extract with the settings of training, or train again.")


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
        labelled = bank.labels.isfinite().all(dim=1)
        self._targets = bank.labels.masked_fill(~labelled[:, None], 0)
        self._flags = torch.stack(
            [*bank.valid.values(), labelled], dim=1
        )  # (F + 1, modalities + 1): one gather for all
        mapped = any(isinstance(rows, MappedRows) for rows in bank.embeddings.values())
        self._scratch = [self._make_scratch() for _ in range(2 if mapped else 1)]

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
        """(N,) on the CPU: whether a window holds at least one labelled frame."""
        parts = self._columns.split(4096, dim=1)
        counts = [self._flags[self._rows(*columns), -1].any(dim=1) for columns in parts]
        return torch.cat(counts).cpu()

    def epoch(self, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """One pass, in the given order, or shuffled where a CPU generator is given."""
        count = len(self.windows)
        order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        chosen = order.split(self.batch_size) if count else ()
        if len(self._scratch) == 1 or not chosen:
            return (self._gather(part, self._scratch[0]) for part in chosen)
        return self._prefetch(chosen)

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
        flags = self._flags.index_select(0, flat).view(*shape, -1).unbind(dim=-1)
        valid = dict(zip(scratch, flags, strict=False))
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
        return Batch(embeddings, valid, flags[-1], targets, windows, columns[2])

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


def _starts(lengths: Mapping[str, int]) -> dict[str, int]:
    ends = np.cumsum([0, *lengths.values()]).tolist()
    return dict(zip(lengths, ends, strict=False))


def _dim(rows: Tensor | MappedRows) -> int:
    return rows.dim if isinstance(rows, MappedRows) else rows.shape[1]
