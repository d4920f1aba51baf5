"""A killed training goes on where it stopped; whatever decides the weights makes it train anew."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.corpus.manifest import Manifest
from pipelines.project import runs

ROOT = Path(__file__).parents[3]
OUTPUTS = ("results/history.csv", "work/models/folds.json")


def files(project: Path) -> dict[str, bytes]:
    found = [*project.glob("work/models/**/*"), *(project / name for name in OUTPUTS)]
    return {path.relative_to(project).as_posix(): path.read_bytes() for path in found if path.is_file()}


def times(project: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in project.glob("work/models/**/model.safetensors")}


def networks(project: Path) -> dict[Path, int]:
    """Finished networks, and when their weights were written."""
    finished = project.glob("work/networks/*/run.json")
    return {path.parent: path.with_name("model.safetensors").stat().st_mtime_ns for path in finished}


def keep_two(params: dict) -> None:
    systems = params["fusion"]["systems"]
    systems["audio"]["train"] = {"per_target": True}
    params["fusion"]["systems"] = {name: systems[name] for name in ("audio", "fused")}


def test_a_killed_training_goes_on(project: Path, run: Callable, edit_params: Callable) -> None:
    edit_params(keep_two)
    whole = run("train", "--json")
    assert whole.exit_code == 0, whole.output
    undisturbed = files(project)
    assert len(times(project)) == 6
    assert len(networks(project)) == 6
    for name in undisturbed:
        (project / name).unlink()
    shutil.rmtree(project / "work/networks")

    command = [sys.executable, "-c", "from pipelines.cli.commands import avfusion; avfusion(['train'])"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=project, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as p:
        while not networks(project) and p.poll() is None:
            time.sleep(0.002)
        p.send_signal(signal.SIGKILL)
    kept = networks(project)
    if len(kept) == 6:
        pytest.skip("it was done before it could be killed")
    assert kept
    again = run("train", "--json")
    assert again.exit_code == 0, again.output
    assert f"{len(kept)} of 6 networks are trained already; --redo trains them again." in again.stderr
    assert json.loads(again.stdout) == json.loads(whole.stdout)
    assert files(project) == undisturbed
    assert {path: networks(project)[path] for path in kept} == kept
    assert run("evaluate").exit_code == 0


def edit_labels(project: Path) -> None:
    manifest = Manifest.load(project / "work/corpus")
    halves = [
        replace(trial, labels=trial.labels * np.float32(0.5)) for trial in manifest.trials if trial.labels is not None
    ]
    whole = [trial for trial in manifest.trials if trial.labels is None]
    replace(manifest, trials=(*halves, *whole)).save(project / "work/corpus")


def edit_code(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("cache", "fusion"):
        shutil.copytree(ROOT / package, project / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (project / "code/fusion/layers/heads.py").open("a", encoding="utf-8") as file:
        file.write("\nCHANGED = 1\n")
    monkeypatch.setattr(runs, "ROOT", project / "code")
    runs._digest_training.cache_clear()


@pytest.mark.parametrize(
    "what", ["nothing", "epochs", "model", "labels", "features", "code", "checkpoint", "folds", "threads"]
)
def test_a_change_trains_anew(
    what: str, project: Path, run: Callable, edit_params: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one(params: dict) -> None:
        params["fusion"].update(seeds=[0], systems={"audio": params["fusion"]["systems"]["audio"]})

    edit_params(one)
    first = run("train")
    assert first.exit_code == 0, first.output
    (weights,) = before = times(project)
    if what == "epochs":
        edit_params(lambda params: params["fusion"]["train"].update(epochs=3))
    elif what == "model":
        edit_params(lambda params: params["fusion"]["systems"]["audio"].update(settings={"d_hidden": 32}))
    elif what == "labels":
        edit_labels(project)
    elif what == "features":
        edit_params(lambda params: params["extract"]["conv1d"].update(settings={"window_s": 0.25}))
        assert run("extract", "--backbone", "conv1d").exit_code == 0
    elif what == "code":
        edit_code(project, monkeypatch)
    elif what == "checkpoint":
        weights.write_bytes(weights.read_bytes()[:-1])  # and the kept network with it, by the link
        before = times(project)
    elif what == "folds":
        edit_params(lambda params: params["fusion"].update(folds={"kind": "rotated", "count": 2, "number": 1}))
    elif what == "threads":
        edit_params(lambda params: params["fusion"].update(threads=2))
    second = run("train")
    runs._digest_training.cache_clear()
    assert second.exit_code == 0, second.output
    kept = what == "nothing"
    assert ("was damaged and has been removed; it is trained again" in second.stderr) == (what == "checkpoint")
    assert ("1 of 1 networks are trained already" in second.stderr) == kept
    assert (times(project) == before) == kept
    assert run("train", "--redo").stderr == ""


def test_a_damaged_network_is_reported_and_a_whole_copy_used(
    project: Path, run: Callable, edit_params: Callable
) -> None:
    edit_params(keep_two)
    edit_params(lambda params: params["fusion"].update(seeds=[0]))
    assert run("train").exit_code == 0
    (folder, *_) = sorted(networks(project))
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:-9] + b"x" + content[-8:])
    again = run("train")
    assert again.exit_code == 0
    (warning,) = [line for line in again.stderr.splitlines() if "damaged" in line]
    assert f"work/networks/{folder.name}" in warning
    assert "copy in 'work/models/" in warning
    assert "3 of 3 networks are trained already" in again.stderr
    assert "damaged" not in run("train").stderr
    assert not folder.exists()
    edit_params(lambda params: params["fusion"]["train"].update(epochs=1))
    assert run("train").exit_code == 0
    assert folder.exists()  # the copy was taken over before another network took its place


def test_what_is_no_more_is_removed(project: Path, run: Callable, edit_params: Callable) -> None:
    edit_params(keep_two)
    assert run("train").exit_code == 0
    audio = project / "work/models/audio/fold0/seed0"
    assert sorted(path.name for path in audio.iterdir()) == ["arousal", "valence"]
    edit_params(lambda params: params["fusion"]["systems"]["audio"].pop("train"))
    assert run("train", "--system", "audio").exit_code == 0
    assert sorted(path.name for path in audio.iterdir()) == ["model.json", "model.safetensors", "run.json"]
    edit_params(lambda params: params["fusion"]["systems"]["audio"].update(train={"per_target": True}))
    assert run("train", "--system", "audio").exit_code == 0
    assert sorted(path.name for path in audio.iterdir()) == ["arousal", "valence"]
    assert run("evaluate").exit_code == 0
    edit_params(lambda params: params["fusion"]["systems"].pop("audio"))
    edit_params(lambda params: params["fusion"].update(seeds=[1]))
    assert run("train").exit_code == 0
    assert not (project / "work/models/audio").exists()
    assert [path.name for path in project.glob("work/models/fused/*/*")] == ["seed1"]
    assert "audio" not in (project / "results/history.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("pulled", [False, True])
def test_going_back_trains_nothing(project: Path, run: Callable, edit_params: Callable, pulled: bool) -> None:
    edit_params(keep_two)
    assert run("train").exit_code == 0
    if pulled:  # by `dvc pull`, which brings the runs and not what they were made of
        shutil.rmtree(project / "work/networks")
        assert "6 of 6 networks are trained already" in run("train").stderr
        assert not networks(project)
    before, stamps = files(project), times(project)
    edit_params(lambda params: params["fusion"]["train"].update(epochs=1))
    assert run("train").exit_code == 0
    assert files(project) != before
    edit_params(lambda params: params["fusion"]["train"].update(epochs=2))
    back = run("train")
    assert "6 of 6 networks are trained already" in back.stderr
    assert (files(project), times(project)) == (before, stamps)
    assert run("evaluate").exit_code == 0


def test_systems_of_the_same_settings_share_a_network(project: Path, run: Callable, edit_params: Callable) -> None:
    def twins(params: dict) -> None:
        params["fusion"]["systems"] = {
            "one": params["fusion"]["systems"]["audio"],
            "two": params["fusion"]["systems"]["audio"],
        }

    edit_params(twins)
    rows = json.loads(run("train", "--json").stdout)
    assert [(row["system"], row["seed"]) for row in rows] == [("one", 0), ("one", 1), ("two", 0), ("two", 1)]
    assert len(networks(project)) == 2
    lines = (project / "results/history.csv").read_text(encoding="utf-8").splitlines()
    assert {line.split(",")[0] for line in lines[1:]} == {"one", "two"}
    assert run("evaluate").exit_code == 0


def test_models_that_no_run_names_can_be_removed(project: Path, run: Callable, edit_params: Callable) -> None:
    edit_params(keep_two)
    edit_params(lambda params: params["fusion"].update(seeds=[0]))
    assert run("train").exit_code == 0
    edit_params(lambda params: params["fusion"]["train"].update(epochs=1))
    assert run("train").exit_code == 0
    table = json.loads(run("models", "ls", "--json").stdout)
    assert sorted(row["runs"] for row in table) == [
        "",
        "",
        "",
        "models/audio/fold0/seed0/arousal",
        "models/audio/fold0/seed0/valence",
        "models/fused/fold0/seed0",
    ]
    assert {row["model"] for row in table} == {"rnn"}
    unused = [row for row in table if not row["runs"]]
    assert json.loads(run("models", "prune", "--json").stdout) == unused
    assert "add --yes" in run("models", "prune").stderr
    assert len(networks(project)) == 6
    assert json.loads(run("models", "prune", "--yes", "--json").stdout) == unused
    assert len(networks(project)) == 3
    assert run("train").stderr.startswith("3 of 3 networks are trained already")


def test_two_trainings_at_once_share_the_work(project: Path, run: Callable, edit_params: Callable) -> None:
    edit_params(keep_two)
    edit_params(lambda params: params["fusion"]["train"].update(epochs=4))
    program = "import sys; from pipelines.cli.commands import avfusion; avfusion(['train', '--json'])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=project,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    results = [process.communicate(timeout=300) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], results
    assert json.loads(results[0][0]) == json.loads(results[1][0])
    assert len(networks(project)) == 6
    shared = files(project)
    shutil.rmtree(project / "work/networks")
    shutil.rmtree(project / "work/models")
    assert run("train").exit_code == 0
    assert files(project) == shared
