"""Optuna as the engine of a search: TPE proposes, successive halving stops, and a study in SQLite goes on after a kill."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from extract.extras import import_extra
from pipelines.project.jobs import run_jobs
from pipelines.search.records import FAILED, STOPPED, find_trial, folder_of, list_trials
from pipelines.search.spaces import Domain, Range, as_cell
from pipelines.search.trial import Stage, Task, Trials


def run(task: Task, stage: Stage, workers: int, address: str, advance: Callable[[int, str], None]) -> None:
    """Run the trials of a stage that are still missing, in several processes of this machine.

    Args:
        task: what trials have in common.
        stage: what to try.
        workers: number of processes.
        address: unused: Optuna has no cluster.
        advance: called with every trial that ended.
    """
    study = _open(task, stage)
    _free(study, task, stage)
    done = len(list_trials(task.search, stage.name))
    if not study.trials:
        for point in stage.points:
            study.enqueue_trial(dict(point))
    make = partial(Slots, task, stage)
    run_jobs(range(done, stage.count), make, workers, make(advance))


class Slots:
    """Runs one trial for every slot, in one process."""

    def __init__(
        self, task: Task, stage: Stage, advance: Callable[[int, str], None] = lambda steps, note: None
    ) -> None:
        self._task, self._stage, self._advance = task, stage, advance
        self._study, self._trials = _open(task, stage), Trials(task, stage.name)
        self._shown = len(list_trials(task.search, stage.name))

    def __call__(self, slot: int) -> None:
        """Ask for a point, try it, and tell what came of it."""
        optuna = load()
        self._study.sampler = optuna.samplers.TPESampler(seed=self._stage.seed + slot)
        asked = self._study.ask({name: distribution(domain) for name, domain in self._stage.domains.items()})

        def report(epochs: int, score: float) -> bool:
            asked.report(score, epochs)
            return bool(asked.should_prune())

        trial = self._trials(asked.number, {name: asked.params[name] for name in self._stage.domains}, report)
        states = {FAILED: optuna.trial.TrialState.FAIL, STOPPED: optuna.trial.TrialState.PRUNED}
        value = trial.ccc if trial.state not in states else None
        self._study.tell(asked.number, value, states.get(trial.state))
        ended = len(list_trials(self._task.search, self._stage.name))
        self._advance(ended - self._shown, f"CCC {trial.ccc:.3f}")
        self._shown = ended


def load() -> Any:
    """The library, quiet.

    Raises:
        SettingError: if it is not installed.
    """
    optuna = import_extra("optuna", "optuna", "The search with Optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def _open(task: Task, stage: Stage) -> Any:
    from sqlalchemy.pool import NullPool

    optuna = load()
    path = folder_of(task.search) / "study.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    closing = {"poolclass": NullPool}  # connections are closed after use, not when they are collected
    return optuna.create_study(
        storage=optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs=closing),
        study_name=stage.name,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=stage.grace, reduction_factor=stage.factor),
    )


def _free(study: Any, task: Task, stage: Stage) -> None:
    """End the trials that a killed search left open: as what they came to, or else failed, with their points to be tried next."""
    optuna = load()
    for left in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        ended = find_trial(task.search, stage.name, left.number)
        if ended is None or ended.state == FAILED:
            study.tell(left.number, state=optuna.trial.TrialState.FAIL)
        elif ended.state == STOPPED:
            study.tell(left.number, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(left.number, ended.ccc)
        if ended is None and left.params:
            study.enqueue_trial(left.params)


def distribution(domain: Domain) -> Any:
    """A domain in Optuna's words."""
    distributions = load().distributions
    if not isinstance(domain, Range):
        return distributions.CategoricalDistribution([as_cell(option) for option in domain.options])
    kind = distributions.IntDistribution if domain.whole else distributions.FloatDistribution
    return kind(domain.low, domain.high, log=domain.log)
