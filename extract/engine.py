"""The extraction engine: reads ahead in threads, computes in batches, writes behind.

Batches of images or sound have one fixed size and cross the borders of trials; only the very last one is filled up with
copies of a row. Of such batches every row's bytes depend on that row alone (see `extract.executors`). Sentences are
computed together, so batches of words end with their trial. Either way, a run that was killed and taken up again gives
the same bytes as one that was not.
"""

from __future__ import annotations

import json
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.errors import AvFusionError, StoreError, plain_error
from cache.locks import Claim
from cache.manifest import Manifest, Trial
from cache.places import Where, remove_file
from cache.receipt import write_text
from cache.spec import FeatureSpec
from cache.store import CommitRecord, FeatureStore
from extract.backbone import Backbone
from extract.batches import Batch, Piece, Run, cut_batches, join_inputs
from extract.executors import (
    Executor,
    check_running,
    make_executor,
    rows_are_apart,
    running_versions,
)
from extract.sources import open_source

_PATIENCE_S = 3600.0  # how long to wait for another process's trials while none of them becomes free

Progress = Callable[[str, int], None]
"""Called with a trial's id and how many of its frames were just finished."""


@dataclass(frozen=True)
class EngineOptions:
    """How to run; nothing here but the precision changes what is computed beyond the last bits.

    Attributes:
        batch_size: frames per step.
        threads: that decode ahead.
        device: auto, cpu, cuda or cuda:N.
        redo: compute again what is finished.
        runtime: torch or openvino.
        precision: fp32, or bf16 or fp16 for autocast; part of the recipe, see `recipe`.
        compiled: whether torch compiles the network first.
    """

    batch_size: int = 32
    threads: int = 2
    device: str = "auto"
    redo: bool = False
    runtime: str = "torch"
    precision: str = "fp32"
    compiled: bool = False


@dataclass
class Outcome:
    """What became of the trials of a run: computed now, kept from before, or failed with a reason.

    Attributes:
        blind: those among the computed ones of which no frame has input: no face, no sound, no word.
        frames: that were computed.
        seconds: that it took.
    """

    computed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    blind: list[str] = field(default_factory=list)
    frames: int = 0
    seconds: float = 0.0

    def save_failures(self, path: Where) -> None:
        """Write the failed trials with their reasons, or remove the file where there are none."""
        if self.failures:
            write_text(path, json.dumps(self.failures, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
        else:
            remove_file(path)


def recipe(backbone: Backbone, dtype: str, precision: str) -> FeatureSpec:
    """The recipe of a backbone's embeddings as computed in some precision."""
    spec = backbone.spec(dtype)
    return spec if precision == "fp32" else replace(spec, settings={**spec.settings, "precision": precision})


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
    executor: Executor | None = None,
) -> Outcome:
    """Compute what is missing of some trials' embeddings and commit trial by trial.

    Args:
        backbone: what computes.
        store: opened with `FeatureStore.create` and the backbone's spec.
        manifest: of the corpus.
        trials: to have finished at the end.
        crops: folder of our crop zips, None where the corpus brings its own.
        options: how to run.
        progress: called as frames are finished; a kept trial counts with all its frames.
        executor: for batches of the options' size, made as the options say if None.

    Several processes may do this at once on one store: each claims the trials it works on, takes others in the
    meantime, and waits at the end for those that it did not get.

    Returns:
        Which trials were computed, kept (also where another process computed them) or failed. A fault of one trial's
        media never stops the others.

    Raises:
        SettingError: if the device does not exist, or the backbone cannot run as asked.
        StoreError: if the store cannot be written (disk full, read-only); finished trials are kept.
    """
    outcome, start = Outcome(), time.perf_counter()
    device = check_running(backbone, options.device, options.runtime, options.precision, options.compiled)
    engine = _Engine(backbone, store, manifest, crops, options, outcome, progress, device, executor)
    with ThreadPoolExecutor(options.threads) as readers, ThreadPoolExecutor(1) as writer:
        computing: deque[tuple[Batch, Result]] = deque()
        behind = 1 if device.type == "cuda" else 0  # batches that the device computes while the next one is made ready
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
"""Waits for a batch; the rows and embeddings of each piece that could be read."""


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
    given: Executor | None
    claims: dict[str, Claim] = field(default_factory=dict)

    @cached_property
    def executor(self) -> Executor:
        """Made for the first batch, since it may take long and a run may have nothing to compute."""
        how = self.options
        return self.given or make_executor(
            self.backbone, how.batch_size, self.device, how.runtime, how.precision, how.compiled
        )

    def batches(self, trials: Sequence[Trial], readers: ThreadPoolExecutor) -> Iterator[Batch]:
        """All trials in order, cut into batches; the last one flushes."""
        return cut_batches(self._ahead(trials, readers), self.options.batch_size, self._mixes)

    def start(self, batch: Batch) -> Result:
        """Begin to compute; a fault of its media fails a piece's trial."""
        parts: list[tuple[Run, NDArray[np.int64]]] = []
        inputs: list[NDArray[Any]] = []
        for run, rows, future in batch.pieces:
            if run.trial.id not in self.outcome.failures:
                assert future is not None
                try:
                    found = future.result()
                    self.backbone.input.check(torch.from_numpy(found))
                except Exception as error:  # whatever library it is of
                    self.outcome.failures[run.trial.id] = plain_error(error)
                    continue
                parts.append((run, rows))
                inputs.append(found)
        if not parts:
            return list
        wait = self.executor.start(join_inputs(inputs, self.options.batch_size if self._mixes else 0))

        def result() -> list[tuple[Run, NDArray[np.int64], NDArray[np.float32]]]:
            stops = np.cumsum([len(rows) for _, rows in parts])
            return [(*part, found) for part, found in zip(parts, np.split(wait(), stops), strict=False)]

        return result

    def finish(self, batch: Batch, result: Result) -> list[Run]:
        """Put a batch's embeddings in their places; the trials that can be written now."""
        for run, rows, embeddings in result():
            with np.errstate(over="ignore"):  # the store refuses what its dtype cannot hold
                run.embeddings[rows] = embeddings
            frames = int(run.frames[rows].sum())
            self.outcome.frames += frames
            self.progress(run.trial.id, frames)
        return batch.ended

    def write(self, run: Run) -> None:
        """Commit a trial unless it failed on the way, and give it back."""
        with run.claim:
            self._write(run)

    def release(self) -> None:
        """Give back every trial that is still claimed."""
        for claim in self.claims.values():
            claim.release()

    def _write(self, run: Run) -> None:
        if run.trial.id in self.outcome.failures:
            return
        versions = running_versions(self.options.runtime, self.options.compiled)
        try:
            self.store.write(
                run.trial.id, run.embeddings[run.rows], run.rows >= 0, source=run.digest, clock=run.trial.clock,
                versions=versions,
            )  # fmt: skip
        except OSError as error:
            raise StoreError(
                f"Trial '{run.trial.id}' could not be written to '{self.store.path}' ({error}). Finished trials are kept; "
                "free space or mend the permissions and run again."
            ) from error
        except AvFusionError as error:
            self.outcome.failures[run.trial.id] = str(error)
            return
        self.outcome.computed.append(run.trial.id)
        if not (run.rows >= 0).any():
            self.outcome.blind.append(run.trial.id)
        self.progress(run.trial.id, int((run.rows < 0).sum()))

    @property
    def _mixes(self) -> bool:
        return rows_are_apart(self.backbone)

    def _ahead(self, trials: Sequence[Trial], readers: ThreadPoolExecutor) -> Iterator[Piece | None]:
        """Pieces of all trials, reads running ahead of the caller; None: all before must be finished now."""
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
        """As `_ahead`; None before waiting for the trials of other processes."""
        busy = yield from self._round(trials, readers)
        while busy:
            yield None
            free = self._wait(busy)
            busy = (yield from self._round(free, readers)) + [trial for trial in busy if free and trial not in free]

    def _round(
        self, trials: Sequence[Trial], readers: ThreadPoolExecutor
    ) -> Generator[Piece | None, None, list[Trial]]:
        """Pieces of all trials that this process can have, cut where a batch is full; returns the others."""
        busy: list[Trial] = []
        size = room = self.options.batch_size
        opened = deque(readers.submit(self._open, trial) for trial in trials[:1])
        for trial, follower in zip_longest(trials, trials[1:]):
            if follower is not None:
                opened.append(readers.submit(self._open, follower))
            try:
                run = opened.popleft().result()
            except StoreError:
                raise
            except Exception as error:  # whatever library it is of
                self.outcome.failures[trial.id] = plain_error(error)
                continue
            if isinstance(run, Run):
                left = np.flatnonzero(run.frames)
                while len(left):
                    rows, left = left[:room], left[room:]
                    room = (room - len(rows)) or size
                    yield Piece(run, rows, readers.submit(run.source.read, rows))
                room = room if self._mixes else size
                yield Piece(run, left, None)
            elif run:
                self.outcome.kept.append(trial.id)
                self.progress(trial.id, trial.clock.num_frames)
            else:
                busy.append(trial)
        return busy

    def _wait(self, busy: Sequence[Trial]) -> list[Trial]:
        """Those trials that another process has finished or left; none when patience ends, and then all have failed."""
        holders = {trial.id: self.store.holder(trial.id) for trial in busy}
        first = busy[0].id
        warnings.warn(
            f"Waiting for {len(busy)} trials of another process; '{first}' is {holders[first] or 'just given back'}.",
            stacklevel=2,
        )
        start = time.monotonic()
        while time.monotonic() - start < _PATIENCE_S:
            free = [trial for trial in busy if self._is_free(trial.id)]
            if free:
                return free
            time.sleep(0.2)
        self.outcome.failures |= {
            trial_id: f"Trial '{trial_id}' is {holder or 'still taken'}. Then run again."
            for trial_id, holder in holders.items()
        }
        return []

    def _is_free(self, trial_id: str) -> bool:
        claim = self.store.claim(trial_id)
        if claim is not None:
            claim.release()
        return claim is not None

    def _open(self, trial: Trial) -> Run | bool:
        """Open and claim a trial; true where it is finished already, false where another process works on it."""
        source = open_source(self.backbone, self.manifest, trial, self.crops)
        digest = source.digest()
        if self._is_finished(trial, digest):
            return True
        claim = self.store.claim(trial.id)
        if claim is None:
            return False
        self.claims[trial.id] = claim
        try:
            if self._is_finished(trial, digest):  # by another process, just before
                claim.release()
                return True
            rows = source.load()
        except BaseException:
            claim.release()
            raise
        frames = np.bincount(rows[rows >= 0], minlength=1)
        embeddings = np.zeros((len(frames), self.backbone.dim), self.store.spec.dtype)
        return Run(trial, source, digest, rows, frames, embeddings, claim)

    def _is_finished(self, trial: Trial, digest: str) -> bool:
        record = None if self.options.redo else self.store.find_record(trial.id)
        return is_current(record, digest, trial.clock) and self.store.is_whole(trial.id)
