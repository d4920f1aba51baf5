"""Ray Tune as the engine of a search: random points, stopped by ASHA, on this machine or an existing cluster.

What Ray keeps is not needed to go on after a kill: the same seed draws the same points, and trials that ended only tell their epochs
again. On other machines the project must lie in the same folder, on a disk that all share.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from cache.errors import SettingError
from extract.extras import import_extra
from pipelines.console.console import note
from pipelines.search.records import FAILED, Trial, find_trial, folder_of, keep_trial
from pipelines.search.spaces import Domain, Range, as_cell
from pipelines.search.trial import Stage, Task, Trials

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported over the network
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "600",  # a stopped trial keeps its network before its process ends
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_PATIENCE_S = 10  # until a cluster's machine answers
_STORE_BYTES = 100 * 2**20  # of Ray's object store: features are not in it


def run(task: Task, stage: Stage, workers: int, address: str, advance: Callable[[int, str], None]) -> None:
    """Run the trials of a stage, as many at a time as there are workers, or as a cluster takes.

    Args:
        task: what trials have in common.
        stage: what to try.
        workers: number of processes; on a cluster at most so many.
        address: of an existing cluster; "" to start one on this machine for the search.
        advance: called with every trial that ended.

    Raises:
        SettingError: if Ray is not installed, or there is no cluster at the address.
    """
    note(f"Joining the Ray cluster at '{address}' …" if address else "Starting Ray, which takes some seconds …")
    ray = import_extra("ray", "ray", "The search with Ray Tune")
    import_extra("ray.tune", "ray", "The search with Ray Tune")
    os.environ.update(_QUIET)
    _connect(ray, workers, task.params.threads, address)
    try:
        results = list(_tuner(task, stage, workers, advance).fit())
    finally:
        ray.shutdown()
    _complete(task, stage, results)


def _connect(ray: Any, workers: int, threads: int, address: str) -> None:
    own: dict[str, Any] = {"num_cpus": workers * threads, "object_store_memory": _STORE_BYTES}
    own |= {"include_dashboard": False}
    try:
        _reach(address)
        ray.init(
            address=address or "local",
            runtime_env={"env_vars": {**_QUIET, "PYTHONPATH": os.pathsep.join(_import_paths())}},
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else own),
        )
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise SettingError(
            f"No Ray cluster could be joined at '{address or 'this machine'}' ({' '.join(str(error).split())[:200]}). "
            "Start one with 'ray start', give its token, or leave out --address."
        ) from error


def _reach(address: str) -> None:
    """Raise OSError where nothing listens at an address, where Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()


def _import_paths() -> list[str]:
    """Where this code lies, first, then what was given."""
    return [str(Path(__file__).parents[2]), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


class _Teller:
    """Calls a function with progress; copies of it, which Ray makes of everything, are silent."""

    def __init__(self, advance: Callable[[int, str], None] | None = None) -> None:
        self._advance = advance

    def __call__(self, text: str) -> None:
        if self._advance is not None:
            self._advance(1, text)

    def __reduce__(self) -> tuple[type[_Teller], tuple[()]]:
        return _Teller, ()


def _tuner(task: Task, stage: Stage, workers: int, advance: Callable[[int, str], None]) -> Any:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    told = _Teller(advance)

    class Watch(tune.Callback):
        """Shows the trials that end."""

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            told(f"CCC {trial.last_result.get('ccc', float('nan')):.3f}")

    scheduler = ASHAScheduler(
        time_attr="training_iteration",
        max_t=task.epochs + 1,  # the last epoch's report is not a reason to stop the trial before it is kept
        grace_period=stage.grace,
        reduction_factor=stage.factor,
    )
    points = [dict(point) for point in stage.points[: stage.count]]
    drawn = BasicVariantGenerator(points_to_evaluate=points, max_concurrent=workers, random_state=stage.seed)
    resources = {"cpu": task.params.threads, "gpu": _gpu_share(task, workers)}
    folder = folder_of(task.search).absolute() / "ray"
    return tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_make_trainable(tune), task=task, stage=stage, project=str(Path.cwd())), resources
        ),
        param_space={name: _distribution(tune, domain) for name, domain in stage.domains.items()},
        tune_config=tune.TuneConfig(
            metric="ccc",
            mode="max",
            num_samples=stage.count,
            scheduler=scheduler,
            search_alg=drawn,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=stage.name,
            storage_path=str(folder),
            verbose=0,
            callbacks=[Watch()],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )


def _gpu_share(task: Task, workers: int) -> float:
    from extract.engine.devices import choose_device

    return 1 / workers if choose_device(task.params.device).type == "cuda" else 0


def _make_trainable(tune: Any) -> Any:
    """The class whose objects run trials as Ray wants them, an epoch at a step, in a process of their own."""

    class Steps(tune.Trainable):
        """The trial runs in a thread that waits after every epoch; one that Ray stops keeps its network first."""

        def setup(self, config: dict[str, Any], task: Task, stage: Stage, project: str) -> None:
            if not Path(project).is_dir():
                raise SettingError(
                    f"This machine has no folder '{project}'. Share the project's folder with the cluster."
                )
            self._project = project
            self._thread: Thread | None = None
            os.chdir(project)
            self._trials = Trials(task, stage.name)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.cleanup()
            os.chdir(self._project)  # Ray has just gone to a folder of its own
            return True

        def step(self) -> dict[str, Any]:
            if self._thread is None:  # not sooner: a process that is slow to start may be given up for another one
                self._start(self.config)
            else:
                self._orders.put(False)
            told = self._told.get()
            if isinstance(told, BaseException):
                raise told
            return {"ccc": told.ccc, "done": True} if isinstance(told, Trial) else {"ccc": told, "done": False}

        def cleanup(self) -> None:
            if self._thread is not None:
                self._orders.put(True)
                self._thread.join()
                self._thread = None

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Nothing: what counts is in the trial's network and record."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Nothing."""

        def _start(self, config: dict[str, Any]) -> None:
            self._told: SimpleQueue[Any] = SimpleQueue()
            self._orders: SimpleQueue[bool] = SimpleQueue()
            self._thread = Thread(target=self._work, args=(_number(self.trial_id), dict(config)), daemon=True)
            self._thread.start()

        def _work(self, number: int, point: dict[str, Any]) -> None:
            def report(epochs: int, score: float) -> bool:
                self._told.put(score)
                return self._orders.get()

            try:
                self._told.put(self._trials(number, point, report))
            except BaseException as error:
                self._told.put(error)

    return Steps


def _complete(task: Task, stage: Stage, results: Iterable[Any]) -> None:
    """Keep the networks of stopped trials whose process ended before it could, and the reasons of those that it did not survive."""
    here: Trials | None = None
    for result in results:
        number = _number(result.metrics["trial_id"])
        if find_trial(task.search, stage.name, number) is not None:
            continue
        if result.error is not None:
            reason = " ".join(str(result.error).split())[-300:]
            keep_trial(task.search, Trial(stage.name, number, dict(result.config), FAILED, reason))
            continue
        here = here or Trials(task, stage.name)
        here(number, result.config, partial(_is_last, result.metrics["training_iteration"]))


def _is_last(last: int, epochs: int, score: float) -> bool:
    return epochs >= last


def _number(trial_id: str) -> int:
    """Number of a trial from Ray's name for it."""
    return int(trial_id.rpartition("_")[2])


def _distribution(tune: Any, domain: Domain) -> Any:
    """A domain in Ray's words."""
    if not isinstance(domain, Range):
        return tune.choice([as_cell(option) for option in domain.options])
    if domain.whole:
        return (tune.lograndint if domain.log else tune.randint)(domain.low, domain.high + 1)
    return (tune.loguniform if domain.log else tune.uniform)(domain.low, domain.high)
