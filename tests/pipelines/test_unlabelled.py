"""Trials without labels are predicted beside the scored ones; `evaluate` takes systems and a partition."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.corpus.folds import Fold, save_folds
from cache.corpus.manifest import Manifest
from fusion.scores.ccc import CCC

CORPUS = Path("work/corpus")
SYSTEMS = {name: {"model": "linear", "modalities": {"audio": "conv1d"}} for name in ("one", "two")}


@pytest.fixture(autouse=True)
def _two_systems(project: Path, edit_params: Callable) -> None:
    """Solved models, which are trained in no time."""
    edit_params(lambda params: params["fusion"].update(seeds=[0], systems=SYSTEMS))
    edit_params(lambda params: params.update(evaluate={"draws": 10}))


def remove_labels(trial_id: str) -> Manifest:
    manifest = Manifest.load(CORPUS)
    trials = tuple(replace(trial, labels=None) if trial.id == trial_id else trial for trial in manifest.trials)
    replace(manifest, trials=trials).save(CORPUS)
    return manifest


def scores() -> dict:
    return json.loads(Path("results/scores.json").read_text(encoding="utf-8"))


def test_a_partition_without_labels_is_predicted_and_not_scored(run: Callable) -> None:
    manifest = Manifest.load(CORPUS)
    (held_out,) = [trial for trial in manifest.trials if trial.partition == "test"]
    remove_labels(held_out.id)
    assert run("train").exit_code == 0
    result = run("evaluate", "--partition", "test")
    assert result.exit_code == 0, result.output
    assert "Partition 'test' can only be predicted, not scored" in result.stderr
    assert result.stdout.split() == ["system", "scores", "one", "–", "two", "–"]
    assert (scores()["systems"], scores()["runs"], list(scores()["predictions"])) == ({}, [], ["one", "two"])
    (values,) = np.load("work/predictions/one.npz").values()
    assert values.shape == (held_out.clock.num_frames, 2)
    assert np.isfinite(values).all()
    assert Path("results/metrics/one.json").read_text() == "{}\n"
    assert Path("results/systems.csv").read_text() == "system,target,ccc\n"
    assert run("report").exit_code == 0
    report = Path("results/report.md").read_text(encoding="utf-8")
    assert "2 systems on partition `test`, which has no labels" in report
    assert "Validation CCC by epoch" in report
    compared = run("compare")
    assert (compared.exit_code, compared.stdout) == (0, "")
    assert "partition 'test' has no labels" in compared.stderr
    assert run("evaluate").exit_code == 0
    assert scores()["partition"] == "validation", "auto, as before"


def test_in_a_partly_labelled_partition_all_are_predicted_and_some_scored(run: Callable, edit_params: Callable) -> None:
    one, two, three = (trial.id for trial in Manifest.load(CORPUS).trials)
    manifest = remove_labels(three)
    save_folds([Fold(0, (one,), (two, three), ())], Path("f.json"), manifest)
    edit_params(lambda params: params["fusion"].update(folds={"path": "f.json"}))
    assert run("train").exit_code == 0
    result = run("evaluate")
    assert result.exit_code == 0, result.output
    assert "not scored" not in result.stderr
    with np.load("work/predictions/one.npz") as archive:
        assert set(archive) == {two, three}
        assert {name: len(archive[name]) for name in archive} == {
            name: manifest.trial(name).clock.num_frames for name in (two, three)
        }
        values = torch.from_numpy(archive[two])
    labels = torch.from_numpy(np.array(manifest.trial(two).labels))
    expected = CCC.of(values, labels, labels.isfinite()).tolist()
    found = [scores()["systems"]["one"]["ccc"][target]["ensemble"] for target in ("valence", "arousal")]
    assert found == pytest.approx(expected, abs=1e-4)
    assert run("report").exit_code == 0
    assert ": 1 trial of 1 subject" in Path("results/report.md").read_text(encoding="utf-8")


def test_systems_and_partition_can_be_named(run: Callable) -> None:
    assert run("train").exit_code == 0
    assert run("evaluate").exit_code == 0
    whole = scores()
    Path("work/predictions/two.npz").unlink()
    result = run("evaluate", "--system", "one")
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["system", "one"]
    assert scores() == whole, "what was known of the other system is kept"
    assert not Path("work/predictions/two.npz").exists()
    result = run("evaluate", "--system", "two", "--partition", "validation")
    assert "of another partition or other settings, and are left out" in result.stderr
    assert (scores()["partition"], list(scores()["systems"])) == ("validation", ["two"])
    assert {row["system"] for row in scores()["runs"]} == {"two"}
    assert "Unknown system in section 'fusion' of params.yaml 'tow'" in run("evaluate", "--system", "tow").stderr
    assert run("evaluate", "--partition", "tset").exit_code == 2
