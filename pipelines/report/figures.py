"""Figures of the report."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.corpus.manifest import Trial
from cache.documents.documents import write_file
from cache.targets import Target
from pipelines.report.wording import drawable, perceived

LABEL, COLOURS = "#222222", ("#0072b2", "#e69f00", "#009e73", "#cc79a7")  # colour-blind safe [Okabe and Ito]
STYLES = ("-", "--", ":", "-.")
_NAMED_FOLDS = 10  # in a legend


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 130})
    pyplot.rcParams["text.parse_math"] = False  # names may hold dollar signs
    return pyplot


def _label(system: str) -> str:
    """Label of a line; matplotlib would leave one that starts with an underscore out of the legend."""
    name = drawable(system, 30)
    return f" {name}" if name.startswith("_") else name


def draw_trial(
    trial: Trial,
    predictions: Mapping[str, NDArray[np.float32]],
    targets: Sequence[Target],
    path: Path,
    stale: Collection[str] = (),
) -> None:
    """Draw prediction and label over time, one panel per target in its own range, with gaps where it is not annotated.

    Args:
        trial: with labels (T, C).
        predictions: system → (T, C).
        targets: the C columns.
        path: path of the PNG.
        stale: systems whose networks have been trained again since these predictions.
    """
    assert trial.labels is not None
    pyplot = _pyplot()
    columns = min(1 + len(predictions), 1 + len(COLOURS))
    height = 1.9 * len(targets) + 0.6 + 0.2 * (len(predictions) // columns)
    figure, panels = pyplot.subplots(len(targets), 1, sharex=True, figsize=(8, height), squeeze=False)
    times = trial.clock.times_s()
    for column, (panel, target) in enumerate(zip(panels[:, 0], targets, strict=True)):
        panel.axhline(target.middle, color="#dddddd", linewidth=0.8, zorder=0)
        panel.plot(times, trial.labels[:, column], color=LABEL, linewidth=1.8, label="label")
        for (system, values), colour in zip(predictions.items(), _colours_of(len(predictions)), strict=True):
            label = _label(system) + (" (earlier networks)" if system in stale else "")
            panel.plot(times, values[:, column], color=colour, linewidth=1.2, label=label)
        panel.set_ylim(target.middle - 1.05 * target.half, target.middle + 1.05 * target.half)
        panel.set_ylabel(drawable(target.name, 24))
    panels[-1, 0].set_xlabel("time, s")
    panels[0, 0].legend(ncol=columns, loc="lower center", bbox_to_anchor=(0.5, 1.16), frameon=False)
    panels[0, 0].set_title(
        f"trial {drawable(trial.id)}, {float(trial.clock.rate):.5g} frames/s", loc="left", fontsize=9
    )
    figure.tight_layout()
    _save(figure, path)


def draw_prediction(
    title: str,
    clock: FrameClock,
    values: NDArray[np.float32],
    spread: NDArray[np.float32],
    targets: Sequence[Target],
    seen: Mapping[str, NDArray[np.bool_]],
    path: Path,
) -> None:
    """Draw a prediction over time, one panel per target in its own range, and below them what the model saw.

    Args:
        title: what was predicted.
        clock: of the T frames.
        values: (T, C).
        spread: (T, C) standard deviation, drawn as a band; nan for none.
        targets: the C columns.
        seen: heading → (T,).
        path: path of the PNG.
    """
    pyplot = _pyplot()
    count, rows = len(targets), len(seen)
    figure, panels = pyplot.subplots(
        count + 1,
        1,
        sharex=True,
        figsize=(8, 1.9 * count + 0.25 * rows + 0.7),
        height_ratios=[1.9] * count + [0.25 * rows],
        layout="constrained",
    )
    times = clock.times_s()
    for column, (panel, target) in enumerate(zip(panels, targets, strict=False)):
        colour, own, band = COLOURS[column % len(COLOURS)], values[:, column], spread[:, column]
        panel.axhline(target.middle, color="#dddddd", linewidth=0.8, zorder=0)
        panel.plot(times, own, color=colour, linewidth=1.2)
        if np.isfinite(band).all():
            panel.fill_between(times, own - band, own + band, color=colour, alpha=0.25, linewidth=0)
        panel.set_ylim(target.middle - 1.05 * target.half, target.middle + 1.05 * target.half)
        panel.set_ylabel(drawable(target.name, 24))
    edges = clock.edges_s()
    for row, found in enumerate(seen.values()):
        panels[-1].stairs(np.where(found, row + 0.4, row - 0.4), edges, baseline=row - 0.4, fill=True, color="#888888")
    panels[-1].set_yticks(range(rows), [perceived(name) for name in seen])
    panels[-1].set_ylim(-0.6, rows - 0.4)
    panels[-1].set_xlabel("time, s")
    panels[0].set_title(drawable(title), loc="left", fontsize=9)
    _save(figure, path)


def draw_history(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw validation CCC by epoch: a panel per system, a colour per fold, thin lines for networks, thick ones for means of seeds.

    Networks for single targets have a line style per target. A mean ends with the shortest of its runs.

    Args:
        rows: one per network and epoch: system, fold, seed, targets, epoch, ccc.
        path: path of the PNG.
    """
    pyplot = _pyplot()
    systems = list(dict.fromkeys(row["system"] for row in rows))
    folds = sorted({int(row["fold"]) for row in rows})
    targets = list(dict.fromkeys(row["targets"] for row in rows))
    colours = dict(zip(folds, _colours_of(len(folds)), strict=True))
    styles = {target: STYLES[place % len(STYLES)] for place, target in enumerate(targets)}
    entries = _history_legend(rows, colours, styles)
    across = min(len(systems), 3)
    down = -(-len(systems) // across)
    columns = 6 if across == 3 else 4
    height = 2.2 * down + 0.5 + 0.2 * -(-len(entries) // columns)
    figure, panels = pyplot.subplots(
        down,
        across,
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
        figsize=(max(6, 2.7 * across), height),
    )
    for panel in panels.flat[len(systems) :]:
        panel.set_visible(False)
    for panel, system in zip(panels.flat, systems, strict=False):
        panel.set_title(drawable(system, 34), loc="left", fontsize=9)
        for (fold, target), runs in _runs_of(rows, system).items():
            _draw_runs(panel, runs, colours[fold], styles[target], 1.8 if len(folds) <= len(COLOURS) else 1.0)
        panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        panel.xaxis.set_tick_params(labelbottom=True)
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel("validation CCC, mean of targets", fontsize=9)
    if entries:
        figure.legend(handles=entries, ncol=columns, loc="outside upper left", frameon=False)
    _save(figure, path)


def _colours_of(count: int) -> list[Any]:
    """Distinct colours, or for many the steps of a colour scale."""
    import matplotlib

    scale = matplotlib.colormaps["viridis"]
    return list(COLOURS[:count]) if count <= len(COLOURS) else [scale(0.92 * i / (count - 1)) for i in range(count)]


_Runs = dict[tuple[int, str], list[list[tuple[int, float]]]]


def _runs_of(rows: Sequence[Mapping[str, Any]], system: str) -> _Runs:
    """(fold, targets) → for each seed its epochs and CCC."""
    found: dict[tuple[int, str], dict[Any, list[tuple[int, float]]]] = {}
    for row in rows:
        if row["system"] == system:
            seeds = found.setdefault((int(row["fold"]), row["targets"]), {})
            seeds.setdefault(row["seed"], []).append((int(row["epoch"]), float(row["ccc"])))
    return {key: list(seeds.values()) for key, seeds in found.items()}


def _draw_runs(panel: Any, runs: Sequence[Sequence[tuple[int, float]]], colour: Any, style: Any, width: float) -> None:
    """The networks of a fold, and their mean where there are several."""
    for run in runs:
        epochs, scores = zip(*run, strict=True)
        marker = "o" if len(run) == 1 else None  # a solved model has one epoch
        alone = {"linewidth": 0.7 * width} if len(runs) == 1 else {"linewidth": 0.35 * width, "alpha": 0.5}
        panel.plot(epochs, scores, color=colour, linestyle=style, marker=marker, markersize=3, **alone)
    length = min(map(len, runs))
    if len(runs) > 1 and length > 1:
        means = np.array([[score for _, score in run[:length]] for run in runs]).mean(axis=0)
        panel.plot([epoch for epoch, _ in runs[0][:length]], means, color=colour, linestyle=style, linewidth=width)


def _history_legend(
    rows: Sequence[Mapping[str, Any]], colours: Mapping[int, Any], styles: Mapping[str, Any]
) -> list[Any]:
    """Entries for lines, colours and styles if there are several; for many folds only some."""
    from matplotlib.lines import Line2D

    entries = []
    if len({row["seed"] for row in rows}) > 1:
        entries += [
            Line2D([], [], color=LABEL, linewidth=0.6, label="one seed"),
            Line2D([], [], color=LABEL, linewidth=1.8, label="mean of seeds"),
        ]
    if len(styles) > 1:
        entries += [
            Line2D([], [], color=LABEL, linestyle=style, label=drawable(target, 24) or "one network")
            for target, style in styles.items()
        ]
    if len(colours) > 1:
        step = -(-len(colours) // _NAMED_FOLDS)
        named = list(colours.items())[::step]
        entries += [Line2D([], [], color=colour, linewidth=1.8, label=f"fold {fold}") for fold, colour in named]
    return entries


def _save(figure: Any, path: Path) -> None:
    """Save a figure as PNG, without date or version, so that equal figures give equal files."""
    from matplotlib import pyplot

    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    pyplot.close(figure)
    write_file(path, content.getvalue())
