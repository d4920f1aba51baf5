"""Figures as JSON and as text: one that is not known is null there, and left out or a dash here."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from cache.errors import SettingError
from pipelines import paths
from pipelines.runs import digest_runs

Figures = Mapping[str, float | None]
"""What `results/scores.json` has of one metric of one target: mean, std, best, low, high, …"""


def read_scores(path: Path) -> dict[str, Any]:
    """What an evaluation wrote; a warning tells of systems that were trained again since.

    Raises:
        SettingError: if the file is damaged, naming the command that writes it.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not all(figures.keys() for scores in document["systems"].values() for figures in scores["ccc"].values()):
            raise ValueError("a target has no figures")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingError(damaged(path, error)) from error
    outputs = _outputs(path)
    digests = document.get("networks", {})
    stale = [name for name, digest in digests.items() if digest != digest_runs(outputs.models, name)]
    if stale:
        names = ", ".join(f"'{name}'" for name in stale)
        warnings.warn(
            f"'{path}' is older than the networks of {names}, which were trained again since. Run '{_command(path)}'.",
            stacklevel=2,
        )
    return document


def _outputs(path: Path) -> paths.Outputs:
    return paths.MATRIX if path.name == paths.MATRIX.scores.name else paths.PROJECT


def _command(path: Path) -> str:
    return "avfusion matrix" if _outputs(path) is paths.MATRIX else "avfusion evaluate"


def damaged(path: Path, error: Exception) -> str:
    """Says that a file of scores cannot be read, and how it is written again."""
    return f"'{path}' is damaged ({error!r}). Run '{_command(path)}' again."


def as_json(value: Any) -> Any:
    """The same with null in the place of nan and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def figure(value: float | None) -> str:
    """Three digits behind the point; a dash where there is no figure."""
    return "–" if value is None or not isfinite(value) else f"{value:.3f}"


def spread(figures: Figures) -> str:
    """Mean ± standard deviation; the mean alone of a single run, whose deviation nobody knows."""
    std = figures.get("std")
    return figure(figures["mean"]) + ("" if std is None or not isfinite(std) else f" ± {std:.3f}")


def interval(figures: Figures) -> str:
    """The bootstrap interval in brackets."""
    return f"[{figure(figures.get('low'))}, {figure(figures.get('high'))}]"
