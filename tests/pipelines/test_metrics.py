"""A metric is one file and one table line: a toy one appears wherever figures are shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import Result
from torch import Tensor

from cache.corpus.manifest import Manifest
from fusion.scores import METRICS
from fusion.scores.metric import MeanMetric


class Mae(MeanMetric):
    """Mean absolute error."""

    title = "Mean |error|"
    higher_is_better = False
    digits = 5
    in_unit = True

    def frame(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Absolute errors."""
        return (prediction - target).abs()


def test_a_toy_metric_appears_in_evaluate_compare_and_the_report(
    project: Path, run: Callable[..., Result], edit_params: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_params(lambda params: params["fusion"].update(systems={"audio": params["fusion"]["systems"]["audio"]}))
    assert run("train").exit_code == 0
    before = run("train").stderr
    assert "2 of 2 networks are trained already" in before
    module = ModuleType("toy_metric")
    module.Mae = Mae  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_metric", module)
    monkeypatch.setitem(METRICS, "mae", "toy_metric:Mae")
    assert run("train").stderr == before, "no network is trained again for a metric"

    shown = run("evaluate")
    assert shown.exit_code == 0, shown.output
    assert "mae arousal" in shown.stdout.splitlines()[0]
    document = json.loads((project / "results/scores.json").read_text(encoding="utf-8"))
    figures = document["systems"]["audio"]["mae"]["valence"]
    assert figures["low"] <= figures["mean"] <= figures["high"]
    assert figures["best"] < figures["mean"], "lower is better"
    manifest = Manifest.load(project / "work/corpus")
    with np.load(project / "work/predictions/audio.npz") as archive:
        pairs = [(archive[name][:, 0], manifest.trial(name).labels) for name in archive]
    errors = np.concatenate([np.abs(own - labels[:, 0]) for own, labels in pairs if labels is not None])
    assert figures["ensemble"] == pytest.approx(np.nanmean(errors), abs=1e-4)

    lines = run("compare").stdout.splitlines()
    assert "Mean |error|" in lines[0]
    mean = document["systems"]["audio"]["mae"]["mean"]["mean"]
    assert f"{mean:.5f}" in lines[1]
    assert json.loads(run("compare", "--json").stdout)[0]["metrics"]["mae"]["mean"] == mean
    assert run("report").exit_code == 0
    report = (project / "results/report.md").read_text(encoding="utf-8")
    assert "Mean \\|error\\| arousal" in report
    assert f"{figures['mean']:.5f}" in report
