"""The extraction engine: threads read ahead, batches are computed, and results are written in the background.

Batches of images or sound have one fixed size and span trials; only the very last one is padded, with copies of an item.
In such batches, the bytes of an item's rows depend on that item alone (see `extract.engine.runtimes`). Sentences are
padded to each other, so their batches end with the trial. Either way, a run that was killed and restarted gives the same
bytes as an uninterrupted one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.errors import AvFusionError, StoreError, plain_error
from cache.store.locks import Claim
from cache.store.store import CommitRecord, FeatureStore
from extract.backbones.contract import Backbone
from extract.engine.batches import Batch, Piece, Run, cut_batches, join_inputs
from extract.engine.claim_queue import ClaimQueue, Turn
from extract.engine.outcome import Outcome
from extract.engine.runtimes import DEFAULT_RUNTIME, Executor, check_running, make_executor, running_versions
from extract.inputs.contract import open_source

Progress = Callable[[str, int], None]
"""Called with a trial's id, "" for one that was finished before, and the number of its frames that were just finished."""


@dataclass(frozen=True)
class EngineOptions:
    """How to run. Apart from the precision, nothing here changes the results beyond the last bits.

    Attributes:
        batch_size: items per step.
        threads: number of threads that decode ahead.
        device: auto, cpu, cuda or cuda:N; or the device itself, for a backbone that passed `check_running`.
        redo: whether to compute finished trials again.
        spared: ids of finished trials that are kept even with `redo`.
        runtime: name in the table of runtimes.
        precision: fp32, or bf16 or fp16 for autocast; part of the recipe.
        compiled: whether torch compiles the network first.
    """

    batch_size: int = 32
    threads: int = 2
    device: str | torch.device = "auto"
    redo: bool = False
    runtime: str = DEFAULT_RUNTIME
    precision: str = "fp32"
    compiled: bool = False
    spared: frozenset[str] = frozenset()


def is_current(record: CommitRecord | None, source: str, clock: FrameClock) -> bool:
    """Whether a finished trial was made from this source on this clock."""
    return record is not None and (record.source, record.clock) == (source, clock)


def extract_features(
    backbone: Backbone,
    store: FeatureStore,
    manifest: Manifest,
    trials: Sequence[Trial],
    crops: Path | None,
    options: EngineOptions,
    progress: Progress = lambda trial_id, frames: None,
    executor: Callable[[], Executor] | None = None,
) -> Outcome:
    """Compute the missing embeddings of some trials, committed one trial at a time.

    Several processes may do this on one store at the same time: each claims the trials it works on, skips those that
    others hold, and waits for these at the end.

    Args:
        backbone: the network.
        store: opened with `FeatureStore.create` and the backbone's recipe.
        manifest: of the corpus.
        trials: the trials to finish.
        crops: folder of our crop zips, None if the corpus has its own.
        options: how to run.
        progress: called as frames are finished; a kept trial counts with all its frames.
        executor: returns one for batches of the options' size, when there is something to compute; made from the options if
            None.

    Returns:
        The trials computed, kept (including those that another process computed) or failed. A fault in one trial's media
        never stops the others.

    Raises:
        SettingError: if the device does not exist, or the backbone cannot run with these options.
        StoreError: if the store cannot be written (disk full, read-only); finished trials are kept.
    """
    start = time.perf_counter()
    outcome = Outcome()
    device = options.device
    if not isinstance(device, torch.device):
        device = check_running(backbone, device, options.runtime, options.precision, options.compiled)
    engine = _Engine(backbone, store, manifest, crops, options, outcome, progress, device, executor)
    with ThreadPoolExecutor(options.threads) as readers, ThreadPoolExecutor(1) as writer:
        computing: deque[tuple[Batch, Result]] = deque()
        behind = 1 if device.type == "cuda" else 0  # batches that the device computes while the next one is prepared
        written: deque[Future[None]] = deque()
        try:
            for batch in engine.batches(trials, readers):
                computing.append((batch, engine.start(batch)))
                while computing and (batch.flush or len(computing) > behind):
                    written.extend(writer.submit(engine.write, run) for run in engine.finish(*computing.popleft()))
                while written and (written[0].done() or len(written) > 2):
                    written.popleft().result()
            for future in written:
                future.result()
        except BaseException:
            readers.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            engine.release()
    outcome.seconds = time.perf_counter() - start
    return outcome


Result = Callable[[], list[tuple[Run, NDArray[np.int64], NDArray[np.float32]]]]
"""Waits for a batch; returns the items of each piece that could be read, and the rows of their embeddings."""


@dataclass
class _Engine:
    backbone: Backbone
    store: FeatureStore
    manifest: Manifest
    crops: Path | None
    options: EngineOptions
    outcome: Outcome
    progress: Progress
    device: torch.device
    given: Callable[[], Executor] | None
    claims: dict[str, Claim] = field(default_factory=dict)

    @cached_property
    def executor(self) -> Executor:
        """The executor, made for the first batch, because that may take long and a run may have nothing to compute."""
        how = self.options
        if self.given is not None:
            return self.given()
        return make_executor(self.backbone, how.batch_size, self.device, how.runtime, how.precision, how.compiled)

    @cached_property
    def versions(self) -> dict[str, str]:
        """Versions of the software, for the commit records."""
        return running_versions(self.options.runtime, self.options.compiled)

    def batches(self, trials: Sequence[Trial], readers: ThreadPoolExecutor) -> Iterator[Batch]:
        """Cut all trials into batches, in order; the last batch flushes."""
        return cut_batches(self._ahead(trials, readers), self.options.batch_size, self.backbone.input.mixes)

    def start(self, batch: Batch) -> Result:
        """Start to compute; a piece with faulty media fails its trial."""
        parts: list[tuple[Run, NDArray[np.int64]]] = []
        inputs: list[NDArray[Any]] = []
        for run, items, future in batch.pieces:
            if run.trial.id not in self.outcome.failures:
                assert future is not None
                try:
                    found = future.result()
                    self.backbone.input.check(torch.from_numpy(found))
                except Exception as error:  # from any library
                    self.outcome.failures[run.trial.id] = plain_error(error)
                    continue
                parts.append((run, items))
                inputs.append(found)
        if not parts:
            return list
        wait = self.executor.start(join_inputs(inputs, self.options.batch_size if self.backbone.input.mixes else 0))

        def result() -> list[tuple[Run, NDArray[np.int64], NDArray[np.float32]]]:
            stops = np.cumsum([run.alignment.rows[items].sum() for run, items in parts])
            return [(*part, found) for part, found in zip(parts, np.split(wait(), stops), strict=False)]

        return result

    def finish(self, batch: Batch, result: Result) -> list[Run]:
        """Store a batch's embeddings; returns the trials that can be written now."""
        for run, items, rows in result():
            with np.errstate(over="ignore"):  # the store rejects values that its dtype cannot hold
                run.found[run.alignment.rows_of(items)] = rows
            frames = int(run.alignment.frames[items].sum())
            self.outcome.frames += frames
            self.progress(run.trial.id, frames)
        return batch.ended

    def write(self, run: Run) -> None:
        """Commit a trial unless it failed, and release it."""
        with run.claim:
            self._write(run)

    def release(self) -> None:
        """Release every trial that is still claimed."""
        for claim in self.claims.values():
            claim.release()

    def _write(self, run: Run) -> None:
        if run.trial.id in self.outcome.failures:
            return
        valid = run.alignment.valid
        rows = run.alignment.average(run.found)
        clock = run.trial.clock
        try:
            self.store.write(run.trial.id, rows, valid, source=run.digest, clock=clock, versions=self.versions)
        except OSError as error:
            raise StoreError(
                f"Trial '{run.trial.id}' could not be written to '{self.store.path}' ({error}). Finished trials are kept; "
                "free space or fix the permissions and run again."
            ) from error
        except AvFusionError as error:
            self.outcome.failures[run.trial.id] = str(error)
            return
        self.outcome.computed.append(run.trial.id)
        if not valid.any():
            self.outcome.blind.append(run.trial.id)
        self.progress(run.trial.id, int((~valid).sum()))

    def _ahead(self, trials: Sequence[Trial], readers: ThreadPoolExecutor) -> Iterator[Piece | None]:
        """Yield pieces of all trials, reading ahead of the caller; None when everything before must be finished now."""
        ahead: deque[Piece] = deque()
        for piece in self._pieces(trials, readers):
            if piece is not None:
                ahead.append(piece)
            while ahead and (piece is None or len(ahead) > 2 * self.options.threads):
                yield ahead.popleft()
            if piece is None:
                yield None
        yield from ahead

    def _pieces(self, trials: Sequence[Trial], readers: ThreadPoolExecutor) -> Iterator[Piece | None]:
        """Yield pieces of all trials that this process takes, cut at full batches; None before waiting for others."""
        size = room = self.options.batch_size
        frames = {trial.id: trial.clock.num_frames for trial in trials}

        def advance(trial_id: str, was_finished: bool) -> None:
            self.progress("" if was_finished else trial_id, frames[trial_id])

        queue = ClaimQueue(self.store.path, self.outcome, "embeddings", advance, self.store.lock_name)
        for run in queue.share(list(frames), partial(self._open, queue), readers):
            if run is None:
                yield None
                room = size
                continue
            left = run.alignment.used_items()
            while len(left):
                items = left[:room]
                left = left[room:]
                room = (room - len(items)) or size
                yield Piece(run, items, readers.submit(run.source.read, items))
            room = room if self.backbone.input.mixes else size
            yield Piece(run, left, None)

    def _open(self, queue: ClaimQueue, trial_id: str) -> Run | Turn:
        """Open and claim a trial."""
        trial = self.manifest.trial(trial_id)
        source = open_source(self.backbone.input, self.manifest, trial, self.crops)
        digest = source.digest()
        claim = queue.take(trial_id, lambda: self._is_finished(trial, digest))
        if isinstance(claim, Turn):
            return claim
        self.claims[trial_id] = claim
        try:
            alignment = source.load()
        except BaseException:
            claim.release()
            raise
        dtype = self.store.recipe.dtype if alignment.is_single else "float32"
        found = np.zeros((alignment.starts[-1], self.backbone.dim), dtype)
        return Run(trial, source, digest, alignment, found, claim)

    def _is_finished(self, trial: Trial, digest: str) -> bool:
        again = self.options.redo and trial.id not in self.options.spared
        record = None if again else self.store.find_record(trial.id)
        return is_current(record, digest, trial.clock) and self.store.is_whole(trial.id)
