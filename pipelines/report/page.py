"""The report as one HTML page, with everything inside: it needs no network and opens from a disk.

Jinja2 fills the template and escapes all text; Bokeh's script draws what `page.js` chooses. A policy in the page allows only
these scripts, by their digests, and nothing from outside.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest
from cache.documents.documents import write_file
from cache.errors import counted
from cache.places.folders import Where
from cache.store.receipt import Receipt
from pipelines.console.escaping import printable
from pipelines.project import paths
from pipelines.project.params import Params
from pipelines.project.runs import Row
from pipelines.project.scores import ScoresDocument
from pipelines.report import timelines
from pipelines.report.page_plots import CELLS, GAPS, look_of, make_plots, plane
from pipelines.report.page_tables import errors, origin_rows, pivot, remake, system_rows
from pipelines.report.predictions import Predicted

PAGE = paths.RESULTS / "report.html"
_HERE = Path(__file__).parent / "html"
_MOST_RUNS = 300  # whose epochs have a line of their own


def write_page(
    params: Params,
    document: ScoresDocument,
    manifest: Manifest,
    predicted: Predicted,
    histories: Mapping[str, Sequence[Row]],
    stale: Sequence[str],
    features: Where = paths.FEATURES,
) -> Path:
    """Write `results/report.html`.

    Args:
        params: all settings.
        document: the scores.
        manifest: the corpus.
        predicted: labels and predictions of the evaluated partition.
        histories: heading → the epochs of all networks, of training and of fine-tuning.
        stale: systems whose networks have been trained again since.
        features: folder or URL of all features.
    """
    missing, receipts = timelines.find_missing(params, features, [trial for trial, _ in predicted.trials])
    rows = system_rows(params, document)
    systems = [printable(name, keep="") for name in predicted.systems]
    wrong = errors(predicted)
    places = timelines.choose_trials(wrong["trials"])
    trials = timelines.make_timelines(predicted, places, missing, manifest, params)
    content = {
        "targets": [
            {"name": printable(target.name, keep=""), "middle": target.middle, "half": target.half}
            for target in predicted.targets
        ],
        "systems": systems,
        "looks": [look_of(number) for number in range(len(systems))],
        "trials": trials,
        "places": places,
        "gaps": {modality: called for modality, (called, _, _) in GAPS.items()},
        "errors": wrong,
        "curves": {title: _curves(history, predicted.systems) for title, history in histories.items() if history},
        "planes": _planes(predicted),
        "cells": CELLS,
        "plots": make_plots(predicted),
    }
    shown = {
        "title": printable(params.corpus.name, keep=""),
        "partition": printable(document.partition, keep=""),
        "level": f"{100 * document.level:g}",
        "counts": _counts(predicted, document),
        "stale": [printable(name, keep="") for name in stale],
        "untrained": _untrained(params, receipts),
        "rows": rows,
        "targets": list(dict.fromkeys(target for row in rows for target, _ in row["targets"])),
        "pivot": pivot(rows),
        "origins": origin_rows(receipts),
        "remake": remake(),
        "bounds": timelines,
        "left_out": len(predicted.trials) - len(trials),
    }
    write_file(PAGE, _render(shown, content).encode())
    return PAGE


def _render(shown: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """Fill the template; its scripts may run and nothing else."""
    from bokeh.resources import INLINE
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    scripts = [*INLINE.js_raw[:1], (_HERE / "page.js").read_text(encoding="utf-8")]
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}  # keys stay in order, on which Bokeh relies
    template = environment.get_template("page.html.j2")
    return template.render(
        **shown,
        content=content,
        scripts=[Markup(script) for script in scripts],
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        policy=f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:",
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _untrained(params: Params, receipts: Mapping[str, Receipt]) -> tuple[list[str], list[str]] | None:
    """Feature sets with random weights, and the systems that read them; None if there are none."""
    random = {name for name, receipt in receipts.items() if receipt.recipe.weights_sha256.startswith("random:")}
    systems = params.fusion.systems
    sets = dict.fromkeys(name for system in systems.values() for name in system.modalities.values() if name in random)
    readers = [name for name, system in systems.items() if random & set(system.modalities.values())]
    return (
        ([printable(name, keep="") for name in sets], [printable(name, keep="") for name in readers]) if sets else None
    )


def _counts(predicted: Predicted, document: ScoresDocument) -> dict[str, str]:
    trials = [trial for trial, _ in predicted.trials]
    numbers = {
        "system": len(document.predictions or ()),
        "trial": len(trials),
        "subject": len({trial.subject for trial in trials}),
        "frame": sum(trial.clock.num_frames for trial in trials),
        "seed": int(document.seeds),
        "fold": len(document.folds or ()),
    }
    return {f"{name}s": counted(number, name) for name, number in numbers.items()}


def _curves(history: Sequence[Row], systems: Sequence[str]) -> dict[str, Any]:
    """Figures by epoch: of each network, and the mean of each system's up to the end of the shortest."""
    kinds = [
        key for key in dict.fromkeys(key for row in history for key in row) if key.startswith("ccc") or key == "loss"
    ]
    kinds.sort(key=lambda kind: (kind != "ccc", kind == "loss"))
    runs: dict[str, dict[str, list[Row]]] = {}
    for row in history:
        targets = f", {row['targets']}" if row.get("targets") else ""
        run = printable(f"fold {row['fold']}, seed {row['seed']}{targets}", keep="")
        runs.setdefault(row["system"], {}).setdefault(run, []).append(row)
    others = [name for name in runs if name not in systems]
    order = {name: number for number, name in enumerate([*systems, *others])}
    alone = sum(map(len, runs.values())) <= _MOST_RUNS
    lines = []
    for name, own in runs.items():
        common = min(map(len, own.values()))
        together = [[rows[epoch] for rows in own.values()] for epoch in range(common)]
        means = {"epochs": [rows[0]["epoch"] for rows in together]} | {
            kind: [_known(np.mean([rows.get(kind, np.nan) for rows in same])) for same in together] for kind in kinds
        }
        lines += [
            {
                "epochs": [row["epoch"] for row in rows],
                **{kind: [_known(row.get(kind)) for row in rows] for kind in kinds},
            }
            | _named(name, run, order[name])
            for run, rows in own.items()
            if alone and len(own) > 1
        ]
        lines.append(
            means
            | _named(name, "mean of the networks" if len(own) > 1 else next(iter(own)), order[name])
            | {"mean": True}
        )
    titles = {"ccc": "validation CCC, mean of targets", "loss": "training loss"}
    return {
        "kinds": [[kind, titles.get(kind) or printable(f"validation CCC, {kind[4:]}", keep="")] for kind in kinds],
        "lines": lines,
    }


def _named(system: str, run: str, number: int) -> dict[str, Any]:
    return {"system": printable(system, keep=""), "run": run, "number": number, "look": look_of(number), "mean": False}


def _known(value: Any) -> float | None:
    return round(float(value), 4) if value is not None and isfinite(value) else None


def _planes(predicted: Predicted) -> list[list[Any]]:
    """Densities on the plane of two targets: of the label, then of each system's predictions, over frames with both labels.

    Each has the cells that occur and their shares of the frames.
    """
    if len(predicted.targets) < 2:
        return []
    pair = list(plane(predicted.targets))
    middle = np.array([predicted.targets[column].middle for column in pair])
    half = np.array([predicted.targets[column].half for column in pair])
    found: list[list[NDArray[Any]]] = [[] for _ in range(1 + len(predicted.systems))]
    for trial, predictions in predicted.trials:
        assert trial.labels is not None
        both = np.isfinite(trial.labels[:, pair]).all(axis=1)
        for place, values in enumerate([trial.labels, *(predictions.get(name) for name in predicted.systems)]):
            if values is not None:
                scaled = (values[both][:, pair] - middle) / half
                cells = np.clip(((scaled + 1) / 2 * CELLS).astype(int), 0, CELLS - 1)
                found[place].append(cells[:, 0] + CELLS * cells[:, 1])
    planes = []
    for parts in found:
        cells, counts = np.unique(np.concatenate(parts) if parts else np.zeros(0, int), return_counts=True)
        planes.append([cells.tolist(), np.round(counts / max(counts.sum(), 1), 6).tolist()])
    return planes
