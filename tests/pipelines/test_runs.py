"""A killed training goes on where it stopped; whatever decides the weights makes it train anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines import runs

ROOT = Path(__file__).parents[2]
OUTPUTS = ("results/history.csv", "work/models/folds.json")


def files(project: Path) -> dict[str, bytes]:
    found = [*project.glob("work/models/**/*"), *(project / name for name in OUTPUTS)]
    return {path.relative_to(project).as_posix(): path.read_bytes() for path in found if path.is_file()}


def times(project: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in project.glob("work/models/**/model.safetensors")}


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
    first = min(project.glob("work/models/**/run.json"), key=lambda path: path.stat().st_mtime_ns)
    for name in undisturbed:
        (project / name).unlink()

    command = [sys.executable, "-c", "from pipelines.cli import avfusion; avfusion(['train'])"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=project, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as p:
        while not first.is_file() and p.poll() is None:
            time.sleep(0.002)
        p.send_signal(signal.SIGKILL)
    finished = {path.parent for path in project.glob("work/models/**/run.json")}
    if len(finished) == 6:
        pytest.skip("it was done before it could be killed")
    kept = {path: stamp for path, stamp in times(project).items() if path.parent in finished}
    assert kept
    again = run("train", "--json")
    assert again.exit_code == 0, again.output
    assert f"{len(kept)} of 6 networks are trained already; --redo trains them anew." in again.stderr
    assert json.loads(again.stdout) == json.loads(whole.stdout)
    assert files(project) == undisturbed
    assert {path: times(project)[path] for path in kept} == kept
    assert run("evaluate").exit_code == 0


def edit_labels(project: Path) -> None:
    labels = np.load(project / "work/corpus/labels.npy")
    np.save(project / "work/corpus/labels.npy", labels * np.float32(0.5))


def edit_code(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("cache", "fusion"):
        (project / "code" / package).mkdir(parents=True)
    (project / "code/fusion/model.py").write_text("changed", encoding="utf-8")
    monkeypatch.setattr(runs, "ROOT", project / "code")
    runs.digest_code.cache_clear()


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
        weights.write_bytes(weights.read_bytes()[:-1])
        before = times(project)
    elif what == "folds":
        edit_params(lambda params: params["fusion"].update(folds={"kind": "rotated", "count": 2, "number": 1}))
    elif what == "threads":
        edit_params(lambda params: params["fusion"].update(threads=2))
    second = run("train")
    runs.digest_code.cache_clear()
    assert second.exit_code == 0, second.output
    kept = what == "nothing"
    assert ("1 of 1 networks are trained already" in second.stderr) == kept
    assert (times(project) == before) == kept
    assert run("train", "--redo").stderr == ""


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
