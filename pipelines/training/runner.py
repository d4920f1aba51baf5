"""Training one network after another, and keeping each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from cache.corpus.folds import Fold
from cache.corpus.manifest import Manifest
from cache.places.folders import Where
from pipelines.console import trackers
from pipelines.project import networks
from pipelines.project.params import FusionParams
from pipelines.project.runs import Job
from pipelines.training.features import Banks, reduce
from pipelines.training.history import by_target, history_rows

if TYPE_CHECKING:
    from fusion.bank.bank import Bank
    from fusion.training.fitting import EpochRecord


class Runner:
    """Trains and saves networks one by one, and keeps the bank while system and fold stay the same."""

    def __init__(
        self,
        params: FusionParams,
        manifest: Manifest,
        features: Where,
        redo: bool = False,
        advance: Callable[[int, str], None] | None = None,
    ) -> None:
        from extract.engine.devices import keep_big_buffers

        keep_big_buffers()  # a step of a small model is 1.4 times as fast
        self._params, self._manifest, self._features, self._redo = params, manifest, features, redo
        self._advance = advance or (lambda steps, note: None)
        self._banks: tuple[str, Banks] | None = None
        self._reduced: tuple[str, Fold, Bank] | None = None

    def __call__(self, job: Job) -> bool:
        """Train and keep one network; false if another process is training it."""
        from extract.engine.devices import torch_threads

        with networks.claimed(job.digest) as ours:
            if not ours:
                return False
            if self._redo or not networks.is_kept(job.digest):  # another process may have just finished it
                with torch_threads(self._params.threads):
                    _train_one(job, self.choose_bank(job), self._advance, self._params.tracker)
            return True

    def choose_bank(self, job: Job) -> Bank:
        """The bank of a job's system, reduced to principal components of its fold if it asks for them."""
        if self._banks is None or self._banks[0] != job.name:
            self._banks = job.name, Banks(job.system, self._manifest, self._params, self._features)
        if self._reduced is None or self._reduced[:2] != (job.name, job.fold):
            bank = self._banks[1].of_fold(job.fold)
            reduced = reduce(bank, job.system, self._manifest, job.fold, self._features)
            self._reduced = job.name, job.fold, reduced
        return self._reduced[2]


def _train_one(job: Job, bank: Bank, advance: Callable[[int, str], None], tracker: str) -> None:
    from fusion.training.trainer import train

    config, fold = job.config, job.fold
    moments = [perf_counter()]
    settings = {**asdict(job.system), "train": asdict(config)}
    with trackers.follow(tracker, job.folder(Path()).as_posix(), settings) as track:

        def tell(record: EpochRecord) -> None:
            moments.append(perf_counter())
            track(record.epoch, {"loss": record.loss, "lr": record.lr, "ccc": record.score, **by_target(record)})
            advance(1, f"{job.name} fold {fold.index} seed {config.seed} CCC {record.score:.3f}")

        result = train(bank, fold, job.system.model, job.system.settings, config, tell)
    networks.keep(job.digest, result.checkpoint, history_rows(job.name, job.fold, job.config, result.history))
    networks.keep_seconds(job.digest, median(after - before for before, after in pairwise(moments)))
    advance(config.epochs - len(result.history), job.name)
