"""The report itself: figures and tables of the evaluated systems."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import MissingFileError
from cache.manifest import Manifest
from cache.names import encode_trial_id
from cache.receipt import Receipt, write_text
from pipelines import paths
from pipelines.params import FusionParams
from pipelines.report.figures import draw_history, draw_trial


def write_report(params: FusionParams) -> Path:
    """Write `results/report.md` and its figures from what `evaluate` left.

    Raises:
        MissingFileError: if nothing was evaluated yet.
    """
    metrics = paths.RESULTS / "metrics.json"
    if not metrics.is_file():
        raise MissingFileError(f"No '{metrics}'. Run 'evaluate-fusion' first.")
    document = json.loads(metrics.read_text(encoding="utf-8"))
    manifest = Manifest.load(paths.CORPUS)
    figures = paths.RESULTS / "figures"
    with (paths.MODELS / "history.csv").open(encoding="utf-8", newline="") as file:
        draw_history(list(csv.DictReader(file)), figures / "history.png")
    drawn = _draw_trials(document, manifest, figures)
    path = paths.RESULTS / "report.md"
    write_text(path, _page(document, manifest, params, drawn))
    return path


def _draw_trials(document: dict[str, Any], manifest: Manifest, figures: Path) -> list[tuple[str, str]]:
    """A figure for each trial of the evaluated partition; (trial id, file name)."""
    systems = list(document["systems"])
    drawn = []
    with np.load(paths.PREDICTIONS / f"{systems[0]}.npz") as first:
        names = set(first.files)
    archives = {system: np.load(paths.PREDICTIONS / f"{system}.npz") for system in systems}
    targets = [t for t in document["systems"][systems[0]]["ccc"] if t != "mean"]
    for trial in manifest.trials:
        key = encode_trial_id(trial.id)
        if key in names:
            draw_trial(
                trial, {system: archive[key] for system, archive in archives.items()}, targets, figures / f"{key}.png"
            )
            drawn.append((trial.id, f"{key}.png"))
    for archive in archives.values():
        archive.close()
    return drawn


def _page(document: dict[str, Any], manifest: Manifest, params: FusionParams, drawn: list[tuple[str, str]]) -> str:
    systems = document["systems"]
    trials = [trial for trial in manifest.trials if trial.partition == document["partition"]]
    lines = [
        "# Report",
        "",
        f"{len(systems)} systems on partition `{document['partition']}`: {len(trials)} trials of "
        f"{len({trial.subject for trial in trials})} subjects, {sum(trial.clock.num_frames for trial in trials)} frames. "
        f"Each figure is the mean ± standard deviation of {document['seeds']} seeds over all labelled frames concatenated; "
        "CCC with population moments.",
        "",
        *_untrained(params),
        *_table(systems),
        "",
        "![Validation CCC by epoch](figures/history.png)",
        "",
        "## Prediction against label",
        "",
        "Mean of the seeds. A gap in the label is a stretch that nobody annotated.",
        "",
    ]
    lines += [f"![Trial {trial_id}](figures/{name})" for trial_id, name in drawn]
    return "\n".join(lines) + "\n"


def _table(systems: dict[str, Any]) -> list[str]:
    targets = list(next(iter(systems.values()))["ccc"])
    columns = [
        (metric, target)
        for metric in ("ccc", "pcc", "rmse")
        for target in targets
        if metric == "ccc" or target != "mean"
    ]
    rows = [
        "| system | " + " | ".join(f"{metric.upper()} {target}" for metric, target in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for name, scores in systems.items():
        cells = (scores[metric][target] for metric, target in columns)
        rows.append(f"| {name} | " + " | ".join(f"{cell['mean']:.3f} ± {cell['std']:.3f}" for cell in cells) + " |")
    return rows


def _untrained(params: FusionParams) -> list[str]:
    """A warning that names the backbones with random weights."""
    used = {(modality, name) for system in params.systems.values() for modality, name in system.modalities.items()}
    random = [
        name
        for modality, name in sorted(used)
        if Receipt.load(paths.receipt_path(paths.FEATURES, modality, name)).spec.weights_sha256.startswith("random:")
    ]
    if not random:
        return []
    return [
        f"**Untrained features:** {', '.join(random)} ran with random weights. The figures show that the pipeline works, no more.",
        "",
    ]
