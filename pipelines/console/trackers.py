"""Hand the epochs of trainings, and scores, to a tracker that follows experiments: DVCLive, MLflow or TensorBoard, none by default.

Each network, and each fold of a fine-tuning, is one run of the tracker, with its settings, a point per epoch, and the figures of the epoch
that it kept; each system has one more run with the scores of its evaluation. The runs lie in `work/tracking/<tracker>`, those of MLflow where MLFLOW_TRACKING_URI says if it is set. Workers are several processes: each opens the
run of the network that it trains, and closes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extract.extras import import_extra

if TYPE_CHECKING:
    from fusion.training.fitting import EpochRecord

FOLDER = Path("work/tracking")
TRACKERS = {"dvclive": "dvclive", "mlflow": "mlflow", "tensorboard": "torch.utils.tensorboard"}
"""Name of a tracker, which is also that of its extra → the module to import."""
_EXPERIMENT = "avfusion"

Figures = Mapping[str, float]
Tell = Callable[[int, Figures], None]
"""Takes an epoch and its figures."""
_Opened = tuple[Tell, Callable[[Figures], None]]
"""The function for epochs, and that for the figures at the end."""


def prepare(tracker: str) -> None:
    """Check that a tracker is installed, before training, and make what its runs share.

    Raises:
        SettingError: if it is not installed.
    """
    if tracker:
        module = _import(tracker)
    if tracker == "mlflow":
        _choose_experiment(module)


@contextmanager
def follow(tracker: str, run: str, settings: Mapping[str, Any]) -> Iterator[Tell]:
    """The run of one network; yields the function that takes its epochs.

    Args:
        tracker: one of `TRACKERS`, or "" for none.
        run: name of the run, with slashes.
        settings: what to show beside it.
    """
    if not tracker:
        yield lambda epoch, figures: None
        return
    told: list[tuple[int, Figures]] = []
    with _open(tracker, run, settings) as (tell, end):

        def keep(epoch: int, figures: Figures) -> None:
            told.append((epoch, figures))
            tell(epoch, figures)

        yield keep
        if told:
            epoch, best = max(told, key=lambda item: (item[1]["ccc"] == item[1]["ccc"], item[1]["ccc"]))
            end({"best/epoch": float(epoch), **{f"best/{name}": value for name, value in best.items()}})


def conclude(tracker: str, run: str, settings: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    """Tell the figures of an evaluation, as a run of its own that has nothing but them.

    Args:
        tracker: one of `TRACKERS`, or "" for none.
        run: name of the run, with slashes.
        settings: what to show beside it.
        figures: nested; those that are not known are left out.
    """
    known = {name.replace(".", "/"): value for name, value in flat(figures).items() if isinstance(value, int | float)}
    if tracker:
        with _open(tracker, run, settings) as (_, end):
            end({name: float(value) for name, value in known.items() if isfinite(value)})


def figures_of(record: EpochRecord) -> dict[str, float]:
    """What is told of an epoch."""
    by_target = {f"ccc_{target}": value for target, value in record.validation.items()}
    return {"loss": record.loss, "lr": record.lr, "ccc": record.score, **by_target}


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names; lists and missing values as text.

    >>> flat({"train": {"lr": 0.1, "targets": ["a", "b"]}})
    {'train.lr': 0.1, 'train.targets': 'a, b'}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            found[f"{prefix}{name}"] = ", ".join(map(str, value))
        else:
            found[f"{prefix}{name}"] = value if isinstance(value, str | int | float | bool) else str(value)
    return found


def _import(tracker: str) -> Any:
    for silence in ("MLFLOW_DISABLE_TELEMETRY", "DVC_NO_ANALYTICS"):  # training tells nobody else
        os.environ.setdefault(silence, "true")
    return import_extra(TRACKERS[tracker], tracker, f"fusion.tracker: {tracker}")


def _open(tracker: str, run: str, settings: Mapping[str, Any]) -> AbstractContextManager[_Opened]:
    return {"dvclive": _dvclive, "mlflow": _mlflow, "tensorboard": _tensorboard}[tracker](run, flat(settings))


@contextmanager
def _dvclive(run: str, settings: Mapping[str, Any]) -> Iterator[_Opened]:
    place = str(FOLDER / "dvclive" / run)
    with _import("dvclive").Live(place, save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False) as live:
        live.log_params(settings)

        def tell(epoch: int, figures: Figures) -> None:
            live.step = epoch
            for name, value in figures.items():
                live.log_metric(name, value)
            live.make_summary()

        def end(figures: Figures) -> None:
            live.summary.update(figures)

        yield tell, end


@contextmanager
def _mlflow(run: str, settings: Mapping[str, Any]) -> Iterator[_Opened]:
    mlflow = _import("mlflow")
    _choose_experiment(mlflow)
    with mlflow.start_run(run_name=run, log_system_metrics=False):
        mlflow.log_params(settings)
        yield (
            lambda epoch, figures: mlflow.log_metrics(dict(figures), step=epoch),
            lambda figures: mlflow.log_metrics(dict(figures)),
        )


def _choose_experiment(mlflow: Any) -> None:
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        place = FOLDER / "mlflow"
        place.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{(place / 'mlflow.db').resolve()}")
        if mlflow.get_experiment_by_name(_EXPERIMENT) is None:
            mlflow.create_experiment(_EXPERIMENT, (place / "artifacts").resolve().as_uri())
    mlflow.set_experiment(_EXPERIMENT)


@contextmanager
def _tensorboard(run: str, settings: Mapping[str, Any]) -> Iterator[_Opened]:
    place = FOLDER / "tensorboard" / run
    with _import("tensorboard").SummaryWriter(str(place)) as writer:

        def tell(epoch: int, figures: Figures) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, epoch)

        yield tell, lambda figures: writer.add_hparams(dict(settings), dict(figures), run_name=".")
