"""Scores as JSON and as text: an unknown figure is null in JSON, and left out or a dash in text."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from cache.documents.documents import Cell, Document, Number, Part, read_document
from cache.errors import MissingFileError, SettingError
from pipelines.console.console import note
from pipelines.project import paths
from pipelines.project.runs import digest_runs

Figures = Mapping[str, float | None]
"""Figures of one metric of one target in `results/scores.json`: mean, std, best, low, high, …"""


class MetricPart(Part):
    """How tables show a metric; see `fusion.scores.metric.Metric`."""

    title: str
    digits: Number
    by_target: bool
    brief: bool


class ScoresDocument(Document):
    """The scores that `evaluate_systems` writes; older versions wrote less.

    Attributes:
        metrics: how tables show each metric, in their order; the first one ranks systems.
        networks: system → digest of its networks.
        predictions: system → sha256 of its file of predictions.
        systems: system → metric → target → figures.
        partition: the part of each fold that was predicted, and scored where it has labels; without any, `systems` is empty.
        asked: the setting `evaluate.partition`, e.g. auto.
        best_folds: the setting of that name, as `window` and `hop`.
        folds: those that were scored.
        postprocess: the steps that all figures come after; `raw` has those before.
        selection: what choosing the best of many systems by validation came to; see `pipelines.stages.matrix`.
    """

    systems: dict[str, dict[str, dict[str, dict[str, float | None]]]]
    metrics: dict[str, MetricPart] | None = None
    partition: str = ""
    asked: str = ""
    best_folds: Number = 0
    window: Cell = ""
    hop: Cell = ""
    postprocess: list[str] = []  # noqa: RUF012 (pydantic copies it)
    raw: dict[str, dict[str, dict[str, dict[str, float | None]]]] | None = None
    seeds: Number = 1
    folds: list[Number] | None = None
    level: float = 0.95
    networks: dict[str, str] | None = None
    predictions: dict[str, str] | None = None
    runs: list[dict[str, Cell]] | None = None
    selection: dict[str, Cell] | None = None

    def check(self) -> None:
        """Check that every system has every metric; a missing section has no systems at all."""
        for metric in ("ccc", *(self.metrics or ())):
            lacking = [name for name, metrics in self.systems.items() if not metrics.get(metric)]
            if lacking:
                raise ValueError(f"systems: no {metric} of {lacking}")


def read_scores(path: Path) -> ScoresDocument:
    """The scores of an evaluation, as `find_scores`.

    Raises:
        MissingFileError: if there are none.
        SettingError: if the file is damaged, naming the command that writes it.
    """
    document = find_scores(path)
    if document is None:
        raise MissingFileError(f"No '{path}', or no systems in it. Run 'evaluate-fusion' first.")
    return document


def find_scores(path: Path) -> ScoresDocument | None:
    """The scores of an evaluation, or None; a warning names systems that have been trained again since.

    Raises:
        SettingError: if the file is damaged, naming the command that writes it.
    """
    document = read_document(path, ScoresDocument, f"Run '{command(path)}' again.", SettingError)
    if document is None or not (document.systems or document.predictions):
        return None
    stale = find_stale(path, document)
    if stale:
        names = ", ".join(f"'{name}'" for name in stale)
        warnings.warn(
            f"'{path}' is older than the networks of {names}, which have been trained again. Run '{command(path)}'.",
            stacklevel=2,
        )
    return document


def find_stale(path: Path, document: ScoresDocument) -> list[str]:
    """Systems that were trained again after they were scored.

    Args:
        path: path of the scores, which decides the folder of the networks.
        document: the scores.
    """
    models = _outputs(path).models
    return [name for name, digest in (document.networks or {}).items() if digest != digest_runs(models, name)]


_ALIKE = ("metrics", "partition", "asked", "best_folds", "window", "hop", "postprocess", "seeds", "folds", "level")


def join_scores(path: Path, document: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The scores of some systems together with those that a file has of others, if they were evaluated in the same way.

    Args:
        path: path of the file.
        document: the scores of some systems, as JSON values.
        names: all systems of params.yaml, in their order.

    Raises:
        SettingError: if the file is damaged, naming the command that writes it.
    """
    found = read_document(path, ScoresDocument, f"Run '{command(path)}' again.", SettingError)
    before: dict[str, Any] = {} if found is None else found.model_dump()
    known = before.get("predictions") or {}
    others = [name for name in names if name in known and name not in document["predictions"]]
    if others and any(before[key] != document[key] for key in _ALIKE):
        note(
            f"The figures of {', '.join(others)} in '{path}' are of another partition or other settings, and are left out. "
            f"Run '{command(path)}' for all systems."
        )
        others = []
    joined = dict(document)
    for part in ("networks", "predictions", "systems", "raw"):
        known = before.get(part) or {}
        both = {**{name: known[name] for name in others if name in known}, **document[part]}
        joined[part] = {name: both[name] for name in names if name in both}
    rows = [*(row for row in before.get("runs") or () if row["system"] in others), *document["runs"]]
    joined["runs"] = sorted(rows, key=lambda row: names.index(row["system"]))
    return joined


def _outputs(path: Path) -> paths.Outputs:
    return paths.MATRIX if path.name == paths.MATRIX.scores.name else paths.PROJECT


def command(path: Path) -> str:
    """The command that writes a file of scores."""
    return "avfusion matrix" if _outputs(path) is paths.MATRIX else "avfusion evaluate"


def figure(value: float | None, digits: int = 3) -> str:
    """A figure with some digits after the point; a dash if it is missing."""
    return "–" if value is None or not isfinite(value) else f"{value:.{digits}f}"


def spread(figures: Figures, digits: int = 3) -> str:
    """Mean ± standard deviation; only the mean for a single run."""
    std = figures.get("std")
    return figure(figures["mean"], digits) + ("" if std is None or not isfinite(std) else f" ± {std:.{digits}f}")


def interval(figures: Figures) -> str:
    """The bootstrap interval in brackets; a dash where there is none: of a single trial every sample is the same."""
    low, high = figures.get("low"), figures.get("high")
    known = low is not None and isfinite(low) and low != high
    return f"[{figure(low)}, {figure(high)}]" if known else figure(None)
