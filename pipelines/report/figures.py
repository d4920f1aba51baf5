"""Figures of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.manifest import Trial
from pipelines.report.wording import drawable

LABEL, COLOURS = "#222222", ("#0072b2", "#e69f00", "#009e73", "#cc79a7")  # colour-blind safe [Okabe and Ito]


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 130})
    pyplot.rcParams["text.parse_math"] = False  # names may hold dollar signs
    return pyplot


def _label(system: str) -> str:
    """Of a line: one that starts with an underscore would be left out of the legend."""
    name = drawable(system, 30)
    return f" {name}" if name.startswith("_") else name


def draw_trial(
    trial: Trial, predictions: Mapping[str, NDArray[np.float32]], targets: Sequence[str], path: Path
) -> None:
    """Prediction against label over time, one panel per target; gaps where a frame is not annotated.

    Args:
        trial: with labels (T, C).
        predictions: system → (T, C).
        targets: names of the C columns.
        path: of the PNG.
    """
    assert trial.labels is not None
    pyplot = _pyplot()
    figure, panels = pyplot.subplots(len(targets), 1, sharex=True, figsize=(8, 1.9 * len(targets) + 0.6), squeeze=False)
    times = trial.clock.times_s()
    for column, (panel, target) in enumerate(zip(panels[:, 0], targets, strict=True)):
        panel.axhline(0, color="#dddddd", linewidth=0.8, zorder=0)
        panel.plot(times, trial.labels[:, column], color=LABEL, linewidth=1.8, label="label")
        for (system, values), colour in zip(predictions.items(), COLOURS, strict=False):
            panel.plot(times, values[:, column], color=colour, linewidth=1.2, label=_label(system))
        panel.set_ylim(-1.05, 1.05)
        panel.set_ylabel(drawable(target, 24))
    panels[-1, 0].set_xlabel("time, s")
    panels[0, 0].legend(ncol=1 + len(predictions), loc="lower center", bbox_to_anchor=(0.5, 1.16), frameon=False)
    panels[0, 0].set_title(
        f"trial {drawable(trial.id)}, {float(trial.clock.rate):.5g} frames/s", loc="left", fontsize=9
    )
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def draw_history(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Validation CCC by epoch, one thin line per network, one colour per system."""
    pyplot = _pyplot()
    figure, panel = pyplot.subplots(figsize=(6, 3))
    runs: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        runs.setdefault(tuple(row[key] for key in ("system", "fold", "seed", "targets")), []).append(row)
    systems = list(dict.fromkeys(row["system"] for row in rows))
    colours = dict(zip(systems, COLOURS * len(systems), strict=False))
    named: set[str] = set()
    for (system, *_), own in runs.items():
        name = None if system in named else _label(system)
        marker = "o" if len(own) == 1 else None  # a model that is solved has one epoch
        epochs, scores = [int(r["epoch"]) for r in own], [float(r["ccc"]) for r in own]
        panel.plot(epochs, scores, color=colours[system], linewidth=1, label=name, marker=marker)
        named.add(system)
    panel.set_xlabel("epoch")
    panel.set_ylabel("validation CCC, mean of targets")
    panel.legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)
