"""Tables of the page: systems, errors by trial and subject, and what made the results."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.documents.documents import digest_bytes
from cache.errors import AvFusionError
from cache.store.receipt import Receipt
from cache.targets import MEAN
from pipelines.console.escaping import printable
from pipelines.project import networks, paths
from pipelines.project.params import Params, SystemParams
from pipelines.project.params_file import MATRIX
from pipelines.project.runs import count_parameters, digest_of, saved_runs
from pipelines.project.scores import ScoresDocument, figure, find_scores, interval, spread
from pipelines.report.predictions import Predicted

_LIBRARIES = ("avfusion", "torch", "numpy", "zarr")


def system_rows(params: Params, document: ScoresDocument) -> list[dict[str, Any]]:
    """One row per scored system of `params.yaml`, then of the matrix; each group best first.

    A row has the names of the system, its model and its modalities, the figures of each target and of their mean as text,
    the number of parameters of a network, and the seconds of an epoch of its training; None where one is not known.
    """
    rows = []
    matrix = find_scores(paths.MATRIX.scores) if params.matrix else None
    for scores, systems, outputs in (
        (document, params.fusion.systems, paths.PROJECT),
        (matrix, params.matrix.systems if params.matrix else {}, paths.MATRIX),
    ):
        found = list(scores.systems.items()) if scores else []
        found.sort(key=lambda item: -(item[1]["ccc"][MEAN]["mean"] or -2))
        rows += [_system_row(name, figures, systems.get(name), outputs) for name, figures in found]
    return rows


def _system_row(
    name: str, scores: Mapping[str, Mapping[str, Any]], system: SystemParams | None, outputs: paths.Outputs
) -> dict[str, Any]:
    ccc = scores["ccc"]
    return {
        "name": printable(name, keep=""),
        "group": "systems" if outputs is paths.PROJECT else "matrix",
        "model": "" if system is None else system.model,
        "modalities": "" if system is None else " + ".join(sorted(system.modalities)),
        "sets": "" if system is None else ", ".join(printable(each, keep="") for each in system.modalities.values()),
        "targets": [(printable(target, keep=""), spread(ccc[target])) for target in ccc if target != MEAN],
        "ccc": spread(ccc[MEAN]),
        "mean": figure(ccc[MEAN]["mean"]),
        "interval": interval(ccc[MEAN]),
        "ensemble": figure(ccc[MEAN].get("ensemble")),
        "parameters": _count_parameters(outputs.models, name),
        "seconds": _seconds(outputs.models, name),
    }


def _count_parameters(models: Path, name: str) -> int | None:
    """Parameters of a run: of its network, or of all its networks for single targets."""
    try:
        run = next(iter(saved_runs(models, name)))
        folder = run if run.name.startswith("seed") else run.parent
        return count_parameters(folder)
    except (AvFusionError, StopIteration):
        return None


def _seconds(models: Path, name: str) -> float | None:
    """Median over the networks of a system of the seconds that an epoch took."""
    digests = [digest_of(folder) for folder in saved_runs(models, name)]
    known = [found for digest in digests if digest and (found := networks.read_seconds(digest)) is not None]
    return median(known) if known else None


def pivot(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[tuple[str, list[list[Mapping[str, Any]]]]]]:
    """Models x modalities: the headings of the columns, and for each model its cells, each with its systems."""
    known = [row for row in rows if row["model"]]
    columns = sorted({row["modalities"] for row in known}, key=lambda name: (name.count("+"), name))
    models = list(dict.fromkeys(row["model"] for row in known))
    return columns, [
        (model, [[row for row in known if (row["model"], row["modalities"]) == (model, each)] for each in columns])
        for model in models
    ]


def errors(predicted: Predicted) -> dict[str, Any]:
    """Root mean square error by trial and by subject, in halves of each target's range, and CCC by trial.

    Returns:
        `trials` and `subjects`: one entry per system, with a row per trial or subject: the error of each target, of all of
        them together, and the mean CCC; None where there is no label or no prediction. `names` of the subjects; `ids` of the trials, each with its subject.
    """
    half = np.array([target.half for target in predicted.targets])
    subjects = list(dict.fromkeys(trial.subject for trial, _ in predicted.trials))
    by_trial, by_subject = [], []
    for system in predicted.systems:
        pairs: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {subject: [] for subject in subjects}
        rows = []
        for trial, predictions in predicted.trials:
            assert trial.labels is not None
            if system in predictions:
                pair = predictions[system] / half, trial.labels / half
                pairs[trial.subject].append(pair)
                rows.append(_errors_of(*pair))
            else:
                rows.append([None] * (len(half) + 2))
        by_trial.append(rows)
        by_subject.append(
            [
                _errors_of(*(np.concatenate(side) for side in zip(*own, strict=True)))
                if own
                else [None] * (len(half) + 2)
                for own in pairs.values()
            ]
        )
    return {
        "trials": by_trial,
        "subjects": by_subject,
        "names": [printable(each, keep="") for each in subjects],
        "ids": [[printable(trial.id, keep=""), printable(trial.subject, keep="")] for trial, _ in predicted.trials],
    }


def _errors_of(prediction: NDArray[Any], label: NDArray[Any]) -> list[float | None]:
    """Error of each target, their root mean square, and the mean CCC."""
    squares, scores = [], []
    for column in range(label.shape[1]):
        known = np.isfinite(label[:, column])
        own, true = prediction[known, column].astype(float), label[known, column].astype(float)
        squares.append(float(((own - true) ** 2).mean()) if known.any() else np.nan)
        scores.append(_ccc(own, true) if known.any() else np.nan)
    found = [*np.sqrt(squares), np.sqrt(np.mean(squares)), np.mean(scores)]
    return [round(float(value), 4) if isfinite(value) else None for value in found]


def _ccc(prediction: NDArray[Any], label: NDArray[Any]) -> float:
    """CCC with population moments, as `fusion.scores.ccc`; nan where neither varies and the means agree."""
    below = prediction.var() + label.var() + (prediction.mean() - label.mean()) ** 2
    return 2 * float(((prediction - prediction.mean()) * (label - label.mean())).mean()) / below if below else np.nan


def origin_rows(receipts: Mapping[str, Receipt]) -> list[dict[str, str]]:
    """The feature sets that the systems read: backbone, weights, licence, and digests."""
    return [_origin_row(name, receipt) for name, receipt in receipts.items()]


def _origin_row(name: str, receipt: Receipt) -> dict[str, str]:
    recipe = receipt.recipe
    known = recipe.provenance
    random = recipe.weights_sha256.startswith("random:")
    ours = random or (bool(known.parents) and all(parent.startswith("random:") for parent in known.parents))
    tuned = f"trained here on {len(known.trials)} trials, from {_parents(known.parents)}" if known.trials else ""
    row = {
        "set": name,
        "backbone": recipe.name,
        "modality": recipe.modality,
        "dim": str(recipe.dim),
        "weights": tuned or ("random, untrained" if random else known.weights),
        "origin": known.origin,
        "licence": known.licence or ("none: nothing from outside" if ours else "not known"),
        "sha256": recipe.weights_sha256 if random else recipe.weights_sha256[:12],
        "recipe": recipe.fingerprint[:12],
    }
    return {key: printable(value, keep="") for key, value in row.items()}


def _parents(parents: Sequence[str]) -> str:
    return ", ".join(parent if parent.startswith("random:") else parent[:12] for parent in parents) or "unknown weights"


def remake() -> dict[str, str]:
    """What it takes to make the results again: command, commit, digests of the settings, and versions."""
    files = [path for path in (paths.PARAMS, Path(MATRIX)) if path.is_file()]
    staged = Path("dvc.yaml").is_file()
    return {
        "command": "dvc repro" if staged else "avfusion train && avfusion evaluate && avfusion report",
        "commit": _commit(),
        **{str(path): f"sha256 {digest_bytes(path.read_bytes())}" for path in files},
        **{name: _version(name) for name in _LIBRARIES},
        "Python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Commit of the project's folder, and whether files that Git tracks differ from it; in words where there is none."""
    git = shutil.which("git")
    if git is None:
        return "unknown, as Git is not installed"

    def ask(*arguments: str) -> str:
        done = subprocess.run([str(git), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = ask("rev-parse", "HEAD")
    if not commit:
        return "none yet" if ask("symbolic-ref", "HEAD") else "not in a Git repository"
    changed = bool(ask("status", "--porcelain", "--untracked-files=no"))
    return f"{commit}{', with changes that are not committed' * changed}"
