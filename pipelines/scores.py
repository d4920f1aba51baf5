"""Figures as JSON and as text: one that is not known is null there, and left out or a dash here."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

Figures = Mapping[str, float | None]
"""What `results/scores.json` has of one metric of one target: mean, std, best, low, high, …"""


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
