"""Figures show what their data holds: whole epochs, folds and seeds apart, and the same bytes every time."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.clock import FrameClock
from cache.corpus.manifest import Trial
from cache.targets import AFFECT
from pipelines.report import figures
from pipelines.report.figures import draw_history, draw_trial


def history(
    systems: Sequence[str] = ("a",), folds: int = 1, seeds: int = 1, epochs: int = 2, targets: Sequence[str] = ("v+a",)
) -> list[dict[str, Any]]:
    return [
        {"system": system, "fold": fold, "seed": seed, "targets": target, "epoch": epoch, "ccc": 0.01 * (epoch + seed)}
        for system in systems
        for fold in range(folds)
        for seed in range(seeds)
        for target in targets
        for epoch in range(1, epochs + 1)
    ]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures in the place of files."""
    kept: list[Any] = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: kept.append(figure))
    return kept


@pytest.mark.parametrize("count", [1, 4, 6, 20])
def test_every_system_is_drawn_beside_the_label(count: int, drawn: list[Any]) -> None:
    labels = np.zeros((10, 2), np.float32)
    trial = Trial("a", "a", "test", FrameClock(Fraction(25), 10), {}, labels)
    draw_trial(trial, {f"s{i}": labels + i / count for i in range(count)}, AFFECT, Path("unused.png"))
    for panel in drawn[0].axes:
        curves = [line for line in panel.lines if len(line.get_xdata()) == 10]
        assert len({str(line.get_color()) for line in curves}) == 1 + count
    texts = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert texts == ["label", *(f"s{i}" for i in range(count))]


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 30])
def test_epochs_are_whole_numbers(epochs: int, drawn: list[Any]) -> None:
    draw_history(history(("a", "b"), epochs=epochs), Path("unused.png"))
    drawn[0].canvas.draw()
    for panel in drawn[0].axes:
        low, high = panel.get_xlim()
        ticks = [tick for tick in panel.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(float(tick).is_integer() for tick in ticks)


def test_systems_folds_seeds_and_targets_are_told_apart(drawn: list[Any]) -> None:
    names = ("valence", "arousal")
    draw_history(history(("a", "b"), folds=3, seeds=4, epochs=5, targets=names), Path("unused.png"))
    (figure,) = drawn
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["a", "b"]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["one seed", "mean of seeds", *names, "fold 0", "fold 1", "fold 2"]
    for panel in figure.axes:
        means = {(line.get_color(), line.get_linestyle()) for line in panel.lines if line.get_linewidth() > 1}
        assert len(means) == 3 * len(names)
        assert len(panel.lines) == 3 * len(names) * (4 + 1)
        mean = next(line for line in panel.lines if line.get_linewidth() > 1)
        assert mean.get_ydata() == pytest.approx([0.025, 0.035, 0.045, 0.055, 0.065])


def test_many_folds_keep_colours_of_their_own_and_a_short_legend(drawn: list[Any]) -> None:
    draw_history(history(folds=40), Path("unused.png"))
    (panel,) = drawn[0].axes
    assert len({line.get_color() for line in panel.lines}) == 40
    assert len(drawn[0].legends[0].get_texts()) == 10


def test_one_run_needs_no_legend(drawn: list[Any]) -> None:
    draw_history(history(), Path("unused.png"))
    assert not drawn[0].legends
