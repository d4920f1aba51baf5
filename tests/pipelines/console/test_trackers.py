"""A tracker is told every epoch of every network that is trained, by any worker; without one nothing is."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cache.errors import SettingError
from pipelines.console import trackers
from pipelines.console.trackers import FOLDER, conclude, follow, prepare
from pipelines.project import runs


def _tell(tracker: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.chdir(folder)
    prepare(tracker)
    for seed in (0, 1):
        with follow(
            tracker, f"fused/fold0/seed{seed}", {"model": "rnn", "train": {"lr": 0.5, "targets": ["a", "b"]}}
        ) as tell:
            for epoch, ccc in enumerate((0.1, 0.75, 0.25)):
                tell(epoch, {"ccc": ccc, "loss": 1.0 - ccc})


def test_no_tracker_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _tell("", monkeypatch, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tracker_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", "no_such_library")
    with pytest.raises(
        SettingError, match=r"fusion.tracker: mlflow.*no_such_library.*pip install 'avfusion\[mlflow\]'"
    ):
        prepare("mlflow")


def test_tensorboard_shows_every_epoch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    _tell("tensorboard", monkeypatch, tmp_path)
    for seed in (0, 1):
        assert _scalars(f"fused/fold0/seed{seed}", "ccc") == [(0, 0.1), (1, 0.75), (2, 0.25)]
        assert _scalars(f"fused/fold0/seed{seed}", "best/loss") == [(0, 0.25)]


@pytest.mark.slow
def test_workers_tell_tensorboard_of_every_network(project: Path, run: Callable, edit_params: Callable) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    edit_params(lambda params: params["fusion"].update(tracker="tensorboard", workers=2))
    result = run("train", "--system", "visual", "--system", "audio")
    assert result.exit_code == 0, result.output
    for name in ("visual", "audio"):
        for seed in (0, 1):
            history = runs.read_history(project / f"work/models/{name}/fold0/seed{seed}")
            told = _scalars(f"{name}/fold0/seed{seed}", "ccc")
            assert told == [(row["epoch"], pytest.approx(row["ccc"], abs=1e-6)) for row in history]


@pytest.mark.slow
def test_scores_are_told_for_every_system(trained: Path, run: Callable) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["fusion"].update(tracker="tensorboard", systems={"fused": params["fusion"]["systems"]["fused"]})
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    result = run("evaluate")
    assert result.exit_code == 0, result.output
    found = json.loads(Path("results/scores.json").read_text())["systems"]["fused"]
    assert _scalars("fused/evaluation", "ccc/valence/mean") == [
        (0, pytest.approx(found["ccc"]["valence"]["mean"], abs=1e-6))
    ]
    assert _scalars("fused/evaluation", "rmse/arousal/low") == [
        (0, pytest.approx(found["rmse"]["arousal"]["low"], abs=1e-6))
    ]
    assert [path.name for path in (FOLDER / "tensorboard").iterdir()] == ["fused"]


def test_figures_that_are_not_known_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    monkeypatch.chdir(tmp_path)
    conclude(
        "tensorboard", "fused/evaluation", {}, {"ccc": {"valence": {"mean": 0.5, "std": None, "low": float("nan")}}}
    )
    assert _scalars("fused/evaluation", "ccc/valence/mean") == [(0, 0.5)]
    assert _names("fused/evaluation") == ["ccc/valence/mean"]


def _names(run: str) -> list[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(FOLDER / "tensorboard" / run))
    found.Reload()
    return list(found.Tags()["scalars"])


def _scalars(run: str, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(FOLDER / "tensorboard" / run))
    found.Reload()
    return [(event.step, pytest.approx(event.value)) for event in found.Scalars(name)]


def test_dvclive_shows_every_epoch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("dvclive", reason="the extra 'dvclive' is not installed")
    _tell("dvclive", monkeypatch, tmp_path)
    for seed in (0, 1):
        place = FOLDER / f"dvclive/fused/fold0/seed{seed}"
        metrics = json.loads((place / "metrics.json").read_text())
        assert (metrics["ccc"], metrics["best/ccc"], metrics["best/epoch"]) == (0.25, 0.75, 1)
        rows = (place / "plots/metrics/ccc.tsv").read_text().splitlines()
        assert [row.split("\t")[-2:] for row in rows[1:]] == [["0", "0.1"], ["1", "0.75"], ["2", "0.25"]]
        assert "train.targets: a, b" in (place / "params.yaml").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_mlflow_shows_every_epoch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="the extra 'mlflow' is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    _tell("mlflow", monkeypatch, tmp_path)
    with sqlite3.connect(FOLDER / "mlflow/mlflow.db") as database:
        names = [name for (name,) in database.execute("select name from runs order by name")]
        points = database.execute("select value from metrics where key = 'ccc' order by run_uuid, step").fetchall()
    assert names == ["fused/fold0/seed0", "fused/fold0/seed1"]
    assert [value for (value,) in points] == [0.1, 0.75, 0.25] * 2
