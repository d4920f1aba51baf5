"""Searches with both engines on a small project: every trial is a kept network, killed ones go on, labels of test trials do not matter."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from cache.corpus.manifest import Manifest
from cache.errors import SettingError
from fusion.training import trainer
from fusion.training.trainer import TrainResult
from pipelines.cli.commands import avfusion
from pipelines.project import networks, paths
from pipelines.project.corpus_files import load_corpus
from pipelines.project.params_file import read_params
from pipelines.search.records import Trial, list_trials
from pipelines.search.search import Options, tune
from pipelines.search.trial import Task, Trials
from pipelines.training.folds import choose_folds

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra 'ray'")
ENGINES = ["optuna", pytest.param("ray", marks=[needs_ray, pytest.mark.slow])]
SPACE = {
    "architecture": {"model": ["rnn", "self_attention"]},
    "models": {
        "rnn": {
            "settings": {"d_model": [8, 16], "d_hidden": [8, 16]},
            "train": {"lr": {"low": 1e-5, "high": 1e-2, "log": True}},
        },
        "self_attention": {
            "settings": {"d_model": [8, 16], "n_layers": {"low": 1, "high": 2}, "n_heads": [2]},
            "train": {"lr": {"low": 1e-5, "high": 1e-2, "log": True}},
        },
    },
}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(avfusion, list(arguments))


@pytest.fixture
def space(project: Path) -> Path:
    """A small space in two stages, in a project as the current folder."""
    path = project / "space.yaml"
    path.write_text(yaml.safe_dump(SPACE), encoding="utf-8")
    return path


def search(engine: str, *more: str) -> list[dict]:
    arguments = ["--system", "fused", "--space", "space.yaml", "--engine", engine, "--epochs", "3", "--grace", "1"]
    result = run("tune", *arguments, "--workers", "1", "--json", *more)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("engine", ENGINES)
def test_trials_are_networks_like_any_other(engine: str, space: Path) -> None:
    rows = search(engine, "--trials", "6")
    trials = [*list_trials("fused", "architecture"), *list_trials("fused", "parameters")]
    assert [trial.name[:-5] for trial in trials] == ["architecture"] * 2 + ["parameters"] * 4
    assert {trial.point["model"] for trial in trials[:2]} == {"rnn", "self_attention"}
    assert all(trial.state in ("finished", "stopped") and networks.is_kept(trial.network) for trial in trials)
    assert [row["ccc"] for row in rows] == sorted((row["ccc"] for row in rows), reverse=True)
    for name in ("trials.csv", "coordinates.png"):
        assert (Path("results/search/fused") / name).stat().st_size > 100, name

    before = {path.name for path in paths.NETWORKS.iterdir() if path.is_dir() and not path.name.startswith(".")}
    best = "results/search/fused/best.yaml"
    trained = run("train", "--system", "fused", "--params", best)
    assert trained.exit_code == 0, trained.output
    assert "1 of 2 networks are trained already" in trained.stderr  # seed 0 is the trial, seed 1 is new
    assert run("evaluate", "--system", "fused", "--partition", "validation", "--params", best).exit_code == 0
    assert run("models", "prune", "--yes").exit_code == 0
    assert before <= {path.name for path in paths.NETWORKS.iterdir()}
    again = search(engine, "--trials", "6")
    assert again == rows


def test_as_people_type_it(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an engine, with a table on the screen whose stages have other columns, and again in a smaller form."""
    monkeypatch.setattr("pipelines.search.search.find_spec", lambda name: name != "ray")
    arguments = ["--system", "fused", "--space", "space.yaml", "--epochs", "1", "--workers", "1"]
    result = run("tune", *arguments, "--trials", "5")
    assert result.exit_code == 0, result.output
    assert "best.yaml'" in result.stderr
    header, *rows = result.stdout.splitlines()
    assert (len(rows), {"model", "d_model", "lr"} <= set(header.split())) == (5, True)
    assert "None" not in result.stdout
    (Path("results/search/fused") / "importance.png").write_bytes(b"of an older search")
    result = run("tune", *arguments, "--trials", "2", "--redo")
    assert result.exit_code == 0, result.output
    assert not (Path("results/search/fused") / "importance.png").exists(), "of fewer than ten"


def test_what_cannot_run_is_refused_before_anything_is_written(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(module: str, extra: str, what: str) -> None:
        raise SettingError(f"{what} needs '{module}'")

    with monkeypatch.context() as without:
        without.setattr("pipelines.search.search.find_spec", lambda name: None)
        without.setattr("pipelines.search.search.import_extra", lacks)
        result = run("tune", "--system", "fused", "--engine", "ray")
        assert (result.exit_code, "The search with --engine ray needs 'ray'" in result.stderr) == (1, True)
    lacking = {**SPACE, "models": {"rnn": SPACE["models"]["rnn"]}}
    space.write_text(yaml.safe_dump(lacking), encoding="utf-8")
    result = run("tune", "--system", "fused", "--engine", "optuna", "--space", "space.yaml")
    assert (result.exit_code, "no parameters of model 'self_attention'" in result.stderr) == (1, True)
    assert not Path("work/search/fused").exists()


def test_a_search_does_not_see_test_trials(space: Path) -> None:
    fold = choose_folds(read_params().fusion.folds, load_corpus())[0]
    assert fold.test
    rows = search("optuna", "--trials", "4", "--name", "before")
    manifest = Manifest.load(paths.CORPUS)
    noise = np.random.default_rng(0)
    changed = [
        replace(trial, labels=noise.uniform(-1, 1, trial.labels.shape).astype(np.float32))
        if trial.id in fold.test
        else trial
        for trial in manifest.trials
        if trial.labels is not None
    ]
    replace(manifest, trials=tuple(changed)).save(paths.CORPUS)
    assert [row["network"] for row in search("optuna", "--trials", "4", "--name", "after")] == [
        row["network"] for row in rows
    ]
    params = read_params().fusion
    task = Task("x", "fused", params.systems["fused"], params, fold, 1, paths.FEATURES)
    assert {trial.id for trial in Trials(task, "parameters").manifest.trials} == {*fold.train, *fold.validate}


def test_a_stopped_trial_is_the_run_with_so_many_epochs(space: Path) -> None:
    params = read_params().fusion
    fold = choose_folds(params.folds, load_corpus())[0]
    task = Task("x", "fused", params.systems["fused"], params, fold, 3, paths.FEATURES)
    stopped = Trials(task, "parameters")(0, {}, lambda epochs, score: epochs == 2)
    whole = Trials(replace(task, epochs=2, search="y"), "parameters")(0, {}, lambda epochs, score: False)
    assert (stopped.state, whole.state, stopped.epochs) == ("stopped", "finished", 2)
    assert stopped.network == whole.network
    weights = {path.name: path.read_bytes() for path in networks.place(stopped.network).iterdir() if path.is_file()}
    networks.remove_network(networks.place(stopped.network))
    Trials(replace(task, epochs=2, search="z"), "parameters")(0, {}, lambda epochs, score: False)
    fresh = {path.name: path.read_bytes() for path in networks.place(stopped.network).iterdir() if path.is_file()}
    assert fresh == weights


def test_seconds_are_those_of_the_trial(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of an engine that is busy with others, or still starting, when it is told of an epoch."""
    now = 0.0

    def wait(epochs: int, score: float) -> bool:
        nonlocal now
        now += 100
        return False

    def train(*arguments: Any) -> TrainResult:
        nonlocal now
        now += 1
        return trainer.train(*arguments)

    monkeypatch.setattr("pipelines.search.trial.perf_counter", lambda: now)
    params = read_params().fusion
    task = Task(
        "x", "fused", params.systems["fused"], params, choose_folds(params.folds, load_corpus())[0], 2, "features"
    )
    trials = Trials(task, "parameters")
    monkeypatch.setattr(trials, "_fit", train)
    assert trials(0, {}, wait).seconds == 1.0
    assert now == 201.0


@needs_ray
@pytest.mark.slow
def test_ray_runs_every_trial_to_its_end_unless_it_stops_it(space: Path) -> None:
    """Also in a process that had another trial before, of which it did not even read the features."""
    space.write_text(yaml.safe_dump({"models": {"rnn": {"train": SPACE["models"]["rnn"]["train"]}}}), encoding="utf-8")
    how = ("--epochs", "2", "--grace", "2")
    search("ray", "--trials", "1", "--name", "first", *how)
    search("ray", "--trials", "3", "--seed", "1", *how)
    trials = list_trials("fused", "parameters")
    assert [(trial.state, trial.epochs) for trial in trials] == [("finished", 2)] * 3
    assert trials[0].network == list_trials("first", "parameters")[0].network


@needs_ray
def test_ray_says_that_it_starts(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*how: Any) -> None:
        raise SettingError("No Ray.")

    monkeypatch.setattr("pipelines.search.ray_engine._connect", fail)
    arguments = ["tune", "--system", "fused", "--engine", "ray", "--space", "space.yaml"]
    assert run(*arguments).stderr.splitlines()[-2:] == ["Starting Ray, which takes some seconds …", "Error: No Ray."]
    result = run(*arguments, "--address", "there:6379")
    assert "Joining the Ray cluster at 'there:6379' …" in result.stderr


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "localhost:70000"])
def test_a_cluster_that_does_not_answer_is_named(space: Path, address: str) -> None:
    result = run("tune", "--system", "fused", "--engine", "ray", "--space", "space.yaml", "--address", address)
    assert (result.exit_code, f"No Ray cluster could be joined at '{address}'" in result.stderr) == (1, True)


def test_a_failed_trial_says_why_and_the_others_go_on(space: Path) -> None:
    Path("space.yaml").write_text(yaml.safe_dump({"models": {"rnn": {"train": {"lr": [1e-3, 1e3]}}}}), encoding="utf-8")
    search("optuna", "--trials", "6")
    trials = list_trials("fused", "parameters")
    assert len(trials) == 6
    failed = [trial for trial in trials if trial.state == "failed"]
    assert all(trial.reason and trial.point["train.lr"] == 1e3 for trial in failed)
    assert any(trial.state != "failed" for trial in trials)


def test_a_search_keeps_to_its_settings(space: Path) -> None:
    search("optuna", "--trials", "2")
    result = run("tune", "--system", "fused", "--engine", "optuna", "--trials", "2")
    assert result.exit_code == 1
    assert "another space" in result.stderr
    assert search("optuna", "--trials", "3", "--redo")
    params = read_params().fusion
    with pytest.raises(SettingError, match="has no cluster"):
        tune(params, "fused", Options(engine="optuna", address="127.0.0.1:6379"))
    each = replace(params.systems["fused"], train=replace(params.systems["fused"].train, per_target=True))
    with pytest.raises(SettingError, match="a network per target"):
        tune(replace(params, systems={"fused": each}), "fused", Options(engine="optuna"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_killed_search_goes_on(engine: str, space: Path) -> None:
    arguments = ["--system", "fused", "--space", "space.yaml", "--engine", engine, "--epochs", "3", "--trials", "8"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "pipelines", "tune", *arguments, "--workers", "1", "--grace", "1"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        for _ in range(3000):
            if len(list(Path("work/search/fused/trials").glob("*.json"))) >= 3 or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done: list[Trial] = list_trials("fused", "parameters")
    assert 1 <= len(done) < 6
    written = {trial.network: (networks.place(trial.network) / "run.json").stat().st_mtime_ns for trial in done}
    search(engine, "--trials", "8")
    trials = list_trials("fused", "parameters")
    assert len(trials) >= 6
    assert trials[: len(done)] == done
    assert all((networks.place(name) / "run.json").stat().st_mtime_ns == moment for name, moment in written.items())
