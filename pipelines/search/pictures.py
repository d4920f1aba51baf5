"""Pictures of a search: which settings went with which score, and which of them mattered. Drawn by Optuna, whatever the engine was."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cache.documents.documents import write_file
from pipelines.search.optuna_engine import distribution, load
from pipelines.search.records import Trial
from pipelines.search.spaces import Domains, Range

FEWEST = 10  # trials of different CCC that say anything about importance


def draw_coordinates(trials: Sequence[Trial], domains: Domains, path: Path) -> None:
    """Draw every trial as a line through its settings, coloured by its validation CCC.

    Args:
        trials: of one stage.
        domains: its parameters.
        path: path of the PNG.
    """
    optuna = load()
    domains_of = {_short(name): domain for name, domain in domains.items()}
    names = list(domains_of)
    with _drawing():
        from matplotlib.ticker import MaxNLocator

        axes = optuna.visualization.matplotlib.plot_parallel_coordinate(
            _study(trials, domains), params=names, target_name="CCC"
        )
        axes.set_title("")
        axes.collections[0].set_cmap("viridis_r")  # the lowest of Optuna's colours is white on white
        for name, scale in zip(sorted(names), axes.figure.axes[-len(names) :], strict=True):
            domain = domains_of[name]
            if isinstance(domain, Range) and domain.whole and not domain.log:
                scale.yaxis.set_major_locator(MaxNLocator(integer=True))
        _save(axes.figure, path, 2.0 + 1.3 * len(names), 4.5)


def draw_importance(trials: Sequence[Trial], domains: Domains, path: Path) -> None:
    """Draw how much of the variance of the CCC each parameter explains [Hutter2014]; nothing if there are hardly any trials.

    Args:
        trials: of one stage.
        domains: its parameters.
        path: path of the PNG.
    """
    if len({trial.ccc for trial in trials}) < FEWEST:
        return
    optuna = load()
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with _drawing():
        axes = optuna.visualization.matplotlib.plot_param_importances(_study(trials, domains), evaluator=evaluator)
        axes.set_title("")
        axes.set_ylabel("")
        axes.get_legend().remove()
        axes.set_xlabel("share of the variance of the validation CCC")
        _save(axes.figure, path, 7, 1 + 0.35 * len(domains))


def _study(trials: Sequence[Trial], domains: Domains) -> Any:
    """The trials as a study in memory, stopped ones with the CCC that they had."""
    optuna = load()
    study = optuna.create_study(direction="maximize")
    distributions = {_short(name): distribution(domain) for name, domain in domains.items()}
    for trial in trials:
        params = {_short(name): value for name, value in trial.point.items()}
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=trial.ccc))
    return study


def _short(name: str) -> str:
    """A parameter without its section."""
    return name.partition(".")[2] or name


@contextmanager
def _drawing() -> Iterator[None]:
    """Draws into memory, lets the libraries keep their remarks to themselves, and undoes the style that Optuna sets for all figures."""
    import matplotlib

    with warnings.catch_warnings(), matplotlib.rc_context():
        matplotlib.use("Agg")
        warnings.simplefilter("ignore")
        yield


def _save(figure: Any, path: Path, width: float, height: float) -> None:
    from matplotlib import pyplot

    figure.set_size_inches(width, height)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110, bbox_inches="tight")
    pyplot.close(figure)
    write_file(path, content.getvalue())
