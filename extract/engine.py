"""The extraction engine: reads ahead in threads, computes in batches, writes behind.

Batches never cross a trial's border. A convolution's last bits may depend on which rows share its batch; with batches
that depend on the trial alone, a run that was killed and taken up again gives the same bytes as one that was not.
"""

from __future__ import annotations

import json
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.errors import AvFusionError, StoreError
from cache.locks import Claim
from cache.manifest import Manifest, Trial
from cache.store import CommitRecord, FeatureStore
from extract.backbone import Backbone
from extract.executors import TorchExecutor, choose_device
from extract.sources import Source, open_source

_PATIENCE_S = 3600.0  # how long to wait for another process's trials while none of them becomes free

Progress = Callable[[str, int], None]
"""Called with a trial's id and how many of its frames were just finished."""


@dataclass(frozen=True)
class EngineOptions:
    """How to run; nothing here changes what is computed beyond the last bits.

    Attributes:
        batch_size: frames per step.
        threads: that decode ahead.
        device: auto, cpu, cuda or cuda:N.
        redo: compute again what is finished.
    """

    batch_size: int = 32
    threads: int = 2
    device: str = "auto"
    redo: bool = False


@dataclass
class Outcome:
    """What became of the trials of a run: computed now, kept from before, or failed with a reason."""

    computed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    frames: int = 0
    seconds: float = 0.0

    def save_failures(self, path: Path) -> None:
        """Write the failed trials with their reasons, or remove the file where there are none."""
        if self.failures:
            path.write_text(
                json.dumps(self.failures, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8"
            )
        else:
            path.unlink(missing_ok=True)


@dataclass
class _Run:
    """A trial on its way through the engine: `rows` (T,) says which input each frame uses, -1 for none."""

    trial: Trial
    source: Source
    digest: str
    rows: NDArray[np.int64]
    embeddings: NDArray[np.float32]
    started: float
    claim: Claim


def is_current(record: CommitRecord | None, source: str, clock: FrameClock) -> bool:
    """Whether a finished trial was made from this source on this clock."""
    return record is not None and (record.source, record.num_frames, record.rate, record.start_s) == (
        source,
        clock.num_frames,
        clock.rate,
        clock.start_s,
    )


def extract_features(
    backbone: Backbone,
    store: FeatureStore,
    manifest: Manifest,
    trials: Sequence[Trial],
    crops: Path | None,
    options: EngineOptions,
    progress: Progress = lambda trial_id, frames: None,
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

    Several processes may do this at once on one store: each claims the trials it works on, takes others in the
    meantime, and waits at the end for those that it did not get.

    Returns:
        Which trials were computed, kept (also where another process computed them) or failed. A fault of one trial's
        media never stops the others.

    Raises:
        SettingError: if the device does not exist.
        StoreError: if the store cannot be written (disk full, read-only); finished trials are kept.
    """
    outcome, start = Outcome(), time.perf_counter()
    executor = TorchExecutor(backbone, choose_device(options.device))
    engine = _Engine(backbone, store, manifest, crops, options, outcome, progress)
    with ThreadPoolExecutor(options.threads) as readers, ThreadPoolExecutor(1) as writer:
        written: deque[Future[None]] = deque()
        try:
            for run, rows, inputs in engine.stream(trials, readers):
                if rows is None:
                    written.append(writer.submit(engine.write, run))
                elif run.trial.id not in outcome.failures:
                    engine.compute(run, rows, inputs, executor)
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


_Item = tuple[_Run, NDArray[np.int64] | None, "Future[NDArray[Any]] | None"]


@dataclass
class _Engine:
    backbone: Backbone
    store: FeatureStore
    manifest: Manifest
    crops: Path | None
    options: EngineOptions
    outcome: Outcome
    progress: Progress
    claims: dict[str, Claim] = field(default_factory=dict)

    def stream(self, trials: Sequence[Trial], readers: ThreadPoolExecutor) -> Iterator[_Item]:
        """Batches of all trials in order, each trial closed by an item without frames; reads run ahead of the caller."""
        ahead: deque[_Item] = deque()
        for item in self._items(trials, readers):
            if item is not None:
                ahead.append(item)
            while ahead and (item is None or len(ahead) > 2 * self.options.threads):
                yield ahead.popleft()
        yield from ahead

    def compute(
        self, run: _Run, rows: NDArray[np.int64], inputs: Future[NDArray[Any]] | None, executor: TorchExecutor
    ) -> None:
        """Embed one batch; a fault of its media fails the trial."""
        assert inputs is not None
        try:
            run.embeddings[rows] = executor(inputs.result())
        except AvFusionError as error:
            self.outcome.failures[run.trial.id] = str(error)
            return
        frames = int(np.isin(run.rows, rows).sum())
        self.outcome.frames += frames
        self.progress(run.trial.id, frames)

    def write(self, run: _Run) -> None:
        """Commit a trial unless it failed on the way, and give it back."""
        with run.claim:
            self._write(run)

    def release(self) -> None:
        """Give back every trial that is still claimed."""
        for claim in self.claims.values():
            claim.release()

    def _write(self, run: _Run) -> None:
        if run.trial.id in self.outcome.failures:
            return
        try:
            self.store.write(
                run.trial.id, run.embeddings[run.rows], run.rows >= 0, source=run.digest, clock=run.trial.clock,
                seconds=time.perf_counter() - run.started, versions={"torch": version("torch")},
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
        self.progress(run.trial.id, int((run.rows < 0).sum()))

    def _items(self, trials: Sequence[Trial], readers: ThreadPoolExecutor) -> Iterator[_Item | None]:
        """As `stream`, read ahead; None says that everything before must be finished, because others are waited for."""
        busy = yield from self._round(trials, readers)
        while busy:
            yield None
            free = self._wait(busy)
            busy = (yield from self._round(free, readers)) + [trial for trial in busy if free and trial not in free]

    def _round(
        self, trials: Sequence[Trial], readers: ThreadPoolExecutor
    ) -> Generator[_Item | None, None, list[Trial]]:
        """Items of all trials that this process can have; returns the others."""
        busy: list[Trial] = []
        opened = deque(readers.submit(self._open, trial) for trial in trials[:1])
        for trial, follower in zip_longest(trials, trials[1:]):
            if follower is not None:
                opened.append(readers.submit(self._open, follower))
            try:
                run = opened.popleft().result()
            except StoreError:
                raise
            except AvFusionError as error:
                self.outcome.failures[trial.id] = str(error)
                continue
            if isinstance(run, _Run):
                used = np.unique(run.rows[run.rows >= 0])
                for start in range(0, len(used), self.options.batch_size):
                    rows = used[start : start + self.options.batch_size]
                    yield run, rows, readers.submit(run.source.read, rows)
                yield run, None, None
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
            f"Waiting for {len(busy)} trials of another process; '{first}' is {holders[first]}.", stacklevel=2
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

    def _open(self, trial: Trial) -> _Run | bool:
        """Open and claim a trial; true where it is finished already, false where another process works on it."""
        started = time.perf_counter()
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
        embeddings = np.zeros((max(int(rows.max()), 0) + 1, self.backbone.dim), np.float32)
        return _Run(trial, source, digest, rows, embeddings, started, claim)

    def _is_finished(self, trial: Trial, digest: str) -> bool:
        record = None if self.options.redo else self.store.find_record(trial.id)
        return is_current(record, digest, trial.clock) and self.store.is_whole(trial.id)
