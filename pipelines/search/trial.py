"""The trial: one network with the settings of a point of the search space, trained and kept like any other. Every engine calls this.

It is given the training and validation trials of one fold, and no others: labels of test trials are not even in its manifest. Features
stay in their stores and are read through memory maps, so all trials on a machine share one copy of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from cache.corpus.folds import Fold
from cache.errors import AvFusionError
from cache.names import config_of
from cache.places.folders import Where
from cache.settings import make_settings
from fusion.models import MODELS
from fusion.settings import TrainConfig
from pipelines.project import networks
from pipelines.project.corpus_files import load_corpus
from pipelines.project.params import BankParams, FusionParams, SystemParams
from pipelines.project.runs import Digests, Job, Row, best_epoch, read_history, run_folder
from pipelines.search.records import FAILED, FINISHED, STOPPED, Trial, find_trial, folder_of, keep_trial
from pipelines.search.spaces import Domains, Point, from_cell, nest
from pipelines.training.features import Banks, open_stores, reduce
from pipelines.training.history import history_rows

if TYPE_CHECKING:
    from fusion.bank.bank import Bank
    from fusion.training.fitting import EpochRecord
    from fusion.training.trainer import TrainResult

Report = Callable[[int, float], bool]
"""Takes the number of epochs so far and the best mean validation CCC of them; true to stop the trial."""


@dataclass(frozen=True)
class Task:
    """What all trials of a search have in common; it is sent to other processes.

    Attributes:
        search: name of the search.
        system: name of the system.
        base: its settings, which points change.
        params: device and threads.
        fold: the trials.
        epochs: at most so many in a trial.
        features: folder or URL of all features.
    """

    search: str
    system: str
    base: SystemParams
    params: FusionParams
    fold: Fold
    epochs: int
    features: Where

    def job(self, point: Point, epochs: int) -> Job:
        """The network of a point, still without its digest.

        Raises:
            SettingError: if its settings contradict each other.
        """
        system = change_system(self.base, point)
        config = replace(system.train, epochs=epochs, seed=self.params.seeds[0])
        return Job(self.system, system, self.fold, config)


@dataclass(frozen=True)
class Stage:
    """One stage of a search.

    Attributes:
        name: a word.
        domains: parameter → its range or choice.
        points: points to try first.
        count: number of trials.
        grace: epochs before a trial may be stopped.
        factor: of so many trials that get there, one goes on.
        seed: of what is drawn.
    """

    name: str
    domains: Domains
    points: tuple[Point, ...]
    count: int
    grace: int
    factor: int
    seed: int


def change_system(base: SystemParams, point: Point) -> SystemParams:
    """A system with the settings of a point instead of its own; another model has its defaults for the rest.

    Raises:
        SettingError: if settings contradict each other.
    """
    nested = nest({name: from_cell(value) for name, value in point.items()})
    model = nested.get("model", base.model)
    kind = config_of(MODELS[model])
    own = asdict(base.settings if model == base.model else kind())
    train = asdict(base.train)
    return replace(
        base,
        model=model,
        modalities={**base.modalities, **nested.get("modalities", {})},
        settings=make_settings(kind, _merge(own, nested.get("settings", {})), f"a trial with model '{model}'"),
        train=make_settings(TrainConfig, _merge(train, nested.get("train", {})), "the training of a trial"),
    )


def _merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **values,
        **{
            name: _merge(values[name], each) if isinstance(each, dict) and isinstance(values.get(name), dict) else each
            for name, each in changes.items()
        },
    }


class Trials:
    """Runs trials one by one in this process; features are opened once for each choice of them."""

    def __init__(self, task: Task, stage: str) -> None:
        from extract.engine.devices import keep_big_buffers
        from fusion.training.trainer import train

        keep_big_buffers()
        self._fit = train  # its libraries are loaded now, not in the seconds of the first trial
        self._task, self._stage = task, stage
        manifest = load_corpus()
        seen = {*task.fold.train, *task.fold.validate}
        self.manifest = replace(manifest, trials=tuple(trial for trial in manifest.trials if trial.id in seen))
        self._params = replace(task.params, bank=BankParams(memory_gb=0.0))  # read where they are: shared, see above
        self._digest = Digests(task.params, self.manifest, self._open)
        self._banks: tuple[tuple[Any, ...], Bank] | None = None

    def __call__(self, number: int, point: Point, report: Report) -> Trial:
        """Run a trial to its end, or until `report` says so; a trial that ended before only tells its epochs again."""
        started, waiting = perf_counter(), 0.0

        def ask(epochs: int, score: float) -> bool:
            """As `report`, with the time taken that the engine lets the trial wait."""
            nonlocal waiting
            asked = perf_counter()
            stops = report(epochs, score)
            waiting += perf_counter() - asked
            return stops

        known = find_trial(self._task.search, self._stage, number)
        if known is not None and known.point == dict(point):
            if known.state == FAILED:
                return known
            if networks.is_kept(known.network):
                _tell_again(read_history(networks.place(known.network)), report)
                return known
        try:
            trial = self._run(number, point, ask)
        except AvFusionError as error:
            trial = Trial(self._stage, number, dict(point), FAILED, reason=str(error))
        trial = replace(trial, seconds=round(perf_counter() - started - waiting, 3))
        keep_trial(self._task.search, trial)
        return trial

    def _run(self, number: int, point: Point, report: Report) -> Trial:
        job = self._task.job(point, self._task.epochs)
        job = replace(job, digest=self._digest(job))
        if networks.is_kept(job.digest):
            _tell_again(read_history(networks.place(job.digest)), report)
        else:
            job = self._train(job, report)
        history = read_history(networks.place(job.digest))
        best = best_epoch(history)
        state = FINISHED if job.config.epochs == self._task.epochs else STOPPED
        trial = Trial(self._stage, number, dict(point), state, network=job.digest, epochs=job.config.epochs)
        networks.name(job.digest, _run_of(self._task, trial))
        targets = {target: float(best[f"ccc_{target}"]) for target in job.config.targets}
        return replace(trial, epoch=int(best["epoch"]), ccc=float(best["ccc"]), by_target=targets)

    def _train(self, job: Job, report: Report) -> Job:
        """Train and keep a network; returns its job, which has fewer epochs if it was stopped."""
        from extract.engine.devices import torch_threads

        best, asked = -1.0, False

        def tell(record: EpochRecord) -> bool:
            nonlocal best, asked
            best = max(best, record.score) if record.score == record.score else best
            asked = report(record.epoch + 1, best)
            return asked

        with networks.claimed(job.digest) as ours:
            if ours:
                with torch_threads(self._params.threads):
                    result = self._fit(
                        self._bank(job), job.fold, job.system.model, job.system.settings, job.config, tell
                    )
                if asked and len(result.history) < job.config.epochs:
                    job, result = self._shorten(job, result)
                self._keep(job, result)
                return job
        networks.wait_for([job.digest])  # a training or another search is at it
        return job if networks.is_kept(job.digest) else self._train(job, report)

    def _shorten(self, job: Job, result: TrainResult) -> tuple[Job, TrainResult]:
        """A stopped trial as what it is, the run with so many epochs: training with this number gives the same weights."""
        job = replace(job, config=replace(job.config, epochs=len(result.history)), digest="")
        checkpoint = replace(result.checkpoint, training=job.config)
        return replace(job, digest=self._digest(job)), replace(result, checkpoint=checkpoint)

    def _keep(self, job: Job, result: TrainResult) -> None:
        rows = history_rows(job.name, job.fold, job.config, result.history)
        if not networks.is_kept(job.digest):
            networks.keep(job.digest, result.checkpoint, rows)

    def _bank(self, job: Job) -> Bank:
        """The bank of a job's features; the last one is kept."""
        key = tuple(sorted(job.system.modalities.items())), tuple(sorted(job.system.pca.items()))
        if self._banks is None or self._banks[0] != key:
            bank = Banks(job.system, self.manifest, self._params, self._task.features).of_fold(job.fold)
            self._banks = key, reduce(bank, job.system, self.manifest, job.fold, self._task.features)
        return self._banks[1]

    def _open(self, modalities: Mapping[str, str], fold: Fold) -> Mapping[str, Any]:
        return open_stores(self._task.features, modalities, self.manifest, fold)


def _tell_again(history: list[Row], report: Report) -> None:
    """Report the epochs of a network that is there already, until the engine would have stopped it."""
    best = -1.0
    for row in history:
        best = max(best, row["ccc"]) if row["ccc"] == row["ccc"] else best
        if report(int(row["epoch"]) + 1, best):
            return


def _run_of(task: Task, trial: Trial) -> Any:
    """Folder of a trial's run, which says that its network is in use."""
    return run_folder(folder_of(task.search) / "runs", trial.name, task.fold.index, task.params.seeds[0])
