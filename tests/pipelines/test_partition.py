"""The partition that is scored: chosen by what the folds have, told before training where they lack what was named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from cache.corpus.folds import load_folds
from cache.corpus.manifest import Manifest
from pipelines.project.params_file import read_params
from pipelines.project.partitions import choose_partition

Run = Callable[..., Result]


def shrink(params: dict) -> None:
    params["fusion"].update(seeds=[0], train={"epochs": 1}, systems={"audio": params["fusion"]["systems"]["audio"]})
    params["evaluate"] = {"draws": 10}


def drop_partitions(project: Path) -> None:
    """A corpus that ships none, and so is divided into grouped folds."""
    manifest = Manifest.load(project / "work/corpus")
    trials = tuple(replace(trial, partition="") for trial in manifest.trials)
    replace(manifest, trials=trials).save(project / "work/corpus")


def scores(project: Path) -> dict:
    return json.loads((project / "results/scores.json").read_text(encoding="utf-8"))


def test_grouped_folds_are_scored_on_their_validation_part(project: Path, run: Run, edit_params: Callable) -> None:
    drop_partitions(project)
    edit_params(shrink)
    edit_params(lambda params: params["fusion"].update(folds={"count": 3, "number": -1}))
    result = run("train")
    assert result.exit_code == 0, result.output
    assert "Warning" not in result.stderr
    result = run("evaluate")
    assert result.exit_code == 0, result.output
    assert (scores(project)["partition"], scores(project)["asked"]) == ("validation", "auto")
    assert run("report").exit_code == 0
    report = (project / "results/report.md").read_text(encoding="utf-8")
    assert "on partition `validation` (chosen by `auto`: " in report
    assert "3 trials" in report
    assert "on the high side" in report


def test_the_test_part_is_scored_where_there_is_one(project: Path, run: Run, edit_params: Callable) -> None:
    edit_params(shrink)
    assert run("train").exit_code == 0
    assert run("evaluate").exit_code == 0
    assert scores(project)["partition"] == "test"
    assert run("report").exit_code == 0
    report = (project / "results/report.md").read_text(encoding="utf-8")
    assert "on partition `test` (chosen by `auto`: every fold has labelled test trials): 1 trial of " in report
    assert "on the high side" not in report
    edit_params(lambda params: params["evaluate"].update(partition="train"))
    assert run("evaluate").exit_code == 0
    assert run("report").exit_code == 0
    assert "on partition `train`: " in (project / "results/report.md").read_text(encoding="utf-8")


def test_a_partition_that_folds_lack_is_told_before_training(project: Path, run: Run, edit_params: Callable) -> None:
    drop_partitions(project)
    edit_params(shrink)

    def ask(params: dict) -> None:
        params["fusion"]["folds"] = {"count": 3, "number": -1}
        params["evaluate"]["partition"] = "test"
        params["matrix"] = params["fusion"]

    edit_params(ask)
    said = (
        "evaluate.partition is 'test', but folds 0, 1, 2 have no trial in it; all have some in train and validation. Set it to "
        "auto or train or validation."
    )
    result = run("train")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith(f"Warning: {said}")
    assert "'evaluate-fusion' will fail" in result.stderr
    result = run("evaluate")
    assert (result.exit_code, said in result.stderr) == (1, True)
    assert f"Warning: {said}" in run("matrix").stderr


def test_labels_that_are_all_missing_are_no_labels(project: Path, run: Run, edit_params: Callable) -> None:
    edit_params(shrink)
    assert run("train").exit_code == 0
    manifest = Manifest.load(project / "work/corpus")
    folds = load_folds(project / "work/models/folds.json", manifest)
    assert choose_partition("auto", folds, manifest) == "test"
    for hidden in (None, np.nan):
        trials = tuple(
            replace(trial, labels=None if hidden is None or trial.labels is None else trial.labels * np.float32(hidden))
            if trial.partition == "test"
            else trial
            for trial in manifest.trials
        )
        assert choose_partition("auto", folds, replace(manifest, trials=trials)) == "validation"


@pytest.mark.parametrize("command", ["train", "evaluate", "plan"])
def test_an_unknown_partition_is_refused_at_once(command: str, project: Path, run: Run, edit_params: Callable) -> None:
    edit_params(lambda params: params["evaluate"].update(partition="tset"))
    result = run(command)
    assert result.exit_code == 1
    assert "'evaluate.partition' is 'tset', expected one of auto, train" in result.stderr
    assert not (project / "work/models").exists()


def test_networks_of_other_folds_are_refused(project: Path, run: Callable[..., Result], edit_params: Callable) -> None:
    def grouped(count: int) -> Callable[[dict], None]:
        return lambda params: params["fusion"].update(
            folds={"kind": "grouped", "count": count}, seeds=[0], train={"epochs": 1}
        )

    drop_partitions(project)
    edit_params(grouped(3))
    assert run("train").exit_code == 0
    assert run("evaluate").exit_code == 0
    edit_params(grouped(2))
    refused = run("evaluate")
    assert refused.exit_code == 1
    assert "fusion.folds in params.yaml" in refused.stderr
    assert "Run 'train-fusion' again." in refused.stderr
    assert run("train", "--system", "audio").exit_code == 0
    assert "'fused' was never trained" in run("evaluate").stderr
    assert run("train").exit_code == 0
    assert run("evaluate").exit_code == 0


def test_the_matrix_is_divided_as_the_systems_are(project: Path, edit_params: Callable) -> None:
    edit_params(lambda params: params["fusion"].update(folds={"kind": "grouped", "count": 2}))
    params = read_params(project / "params.yaml")
    assert params.matrix is not None
    assert params.matrix.folds == params.fusion.folds
    edit_params(lambda params: params["matrix"].update(folds={"count": 3}))
    params = read_params(project / "params.yaml")
    assert params.matrix is not None
    assert params.matrix.folds.count == 3
