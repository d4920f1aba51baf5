"""Stage one through Dask: crops, features and receipts are those of a local run, byte for byte."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from cache.places.folders import join_place, split_place
from cache.store.receipt import open_receipt
from extract.engine.cropping import Cropper
from extract.engine.outcome import Outcome
from pipelines.stages import several_devices
from pipelines.stages.extraction import Extraction

pytest.importorskip("distributed", reason="distributed is not installed: pip install 'avfusion[dask]'")

HERE = Path(__file__).parent
Run = Callable[..., Result]
RECEIPTS = ("receipts/mobilefacenet.json", "receipts/conv1d.json")
SETS = ("--backbone", "mobilefacenet", "--backbone", "conv1d", "--device", "cpu")


@pytest.mark.slow
def test_the_store_is_that_of_a_local_run(
    project: Path, run: Run, edit_params: Callable[..., None], s3: str, tmp_path: Path
) -> None:
    """Also on an object store, with a cluster named in params.yaml, and after a trial failed."""
    shutil.move("features", tmp_path / "local")
    shutil.move("work/crops", tmp_path / "crops")
    crops = Path("work/crops.json").read_bytes()
    edit_params(lambda params: params.update(cluster={"workers": 2}))
    result = run("crops", "--json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[0]["computed"] == 3
    assert Path("work/crops.json").read_bytes() == crops
    video = next(Path("work/corpus").rglob("*.mp4"))
    content = video.read_bytes()
    video.write_bytes(b"no video")
    there = f"{s3}/cluster"
    result = run("extract", *SETS, "--features", there)
    assert result.exit_code == 1
    assert "1 of 3 trials failed" in result.stderr
    assert "Traceback" not in result.output
    video.write_bytes(content)
    result = run("extract", *SETS, "--features", there, "--json")
    assert result.exit_code == 0, result.output
    assert [(row["computed"], row["kept"]) for row in json.loads(result.stdout)] == [(1, 2), (1, 2)]
    assert "dashboard: http" in result.stderr
    assert result.stderr.count("has random weights") == 2
    for name in RECEIPTS:
        folder, file = split_place(join_place(there, name))
        assert folder.read(file) == (tmp_path / "local" / name).read_bytes()
        open_receipt(join_place(there, name))


def test_a_cluster_that_is_not_there_is_refused(project: Path, run: Run, edit_params: Callable[..., None]) -> None:
    """Before anything is computed; a wrong address or two clusters are wrong usage."""
    for command in (("crops",), ("extract", "--backbone", "conv1d"), ("transcribe",)):
        result = run(*command, "--scheduler", "there:8786")
        assert (result.exit_code, "tcp://host:8786" in result.stderr) == (2, True)
        result = run(*command, "--scheduler", "tcp://127.0.0.1:9", "--workers", "2")
        assert (result.exit_code, "Both --workers 2" in result.stderr) == (1, True), result.stderr
    edit_params(lambda params: params.update(cluster={"scheduler": "there"}))
    result = run("crops")
    assert (result.exit_code, "cluster.scheduler" in result.stderr) == (1, True), result.stderr
    edit_params(lambda params: params.update(cluster={"scheduler": "tcp://127.0.0.1:9"}))
    assert run("crops", "--workers", "0").exit_code == 0
    result = run("extract", "--backbone", "conv1d", "--device", "cpu,cpu")
    assert (result.exit_code, "Several devices" in result.stderr) == (2, True), result.stderr


def test_crops_take_no_dask_for_processes_of_their_own(
    project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is not installed, the commands that need it say so."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    asked = []
    monkeypatch.setattr(
        "pipelines.stages.crops._share", lambda cropper, trials, workers, advance: asked.append(workers) or Outcome()
    )
    result = run("crops", "--workers", "3", "--redo", "--device", "cpu", "--json")
    assert (result.exit_code, asked) == (0, [3]), result.output
    assert json.loads(result.stdout)[0]["computed"] == 3
    result = run("extract", *SETS, "--workers", "2")
    assert (result.exit_code, "--workers, --scheduler" in result.stderr, "avfusion[dask]" in result.stderr) == (
        1,
        True,
        True,
    )


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of a cluster whose workers die, which commands take for the one that they ask for."""
    monkeypatch.syspath_prepend(str(HERE))
    module = importlib.import_module("mortal")
    module.cluster = module.MortalCluster()
    monkeypatch.setattr(
        "pipelines.clusters.cluster.open_cluster", lambda where, device="cpu": nullcontext(module.cluster)
    )
    return module


@pytest.mark.parametrize("killer", ["mobilefacenet", "conv1d", "crops"])
def test_a_trial_fails_only_where_it_kills(
    killer: str, project: Path, run: Run, mortal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its other feature sets are finished, and as they were."""
    before = {name: Path("features", name).read_bytes() for name in RECEIPTS}
    shutil.rmtree("features")
    whole, crop = several_devices.extract_set, Cropper.crop

    def extract_set(request: Any, load: Any, made: Any, told: Any) -> Extraction:
        done = whole(request, load, made, told)
        if load.name == killer and any(trial.id == victim for trial in request.chosen.trials):
            raise mortal.Died
        return done

    def crop_all(cropper: Cropper, trials: Any, *more: Any) -> Outcome:
        if killer == "crops" and any(trial.id == victim for trial in trials):
            raise mortal.Died
        return crop(cropper, trials, *more)

    monkeypatch.setattr(several_devices, "extract_set", extract_set)
    monkeypatch.setattr(Cropper, "crop", crop_all)
    victim = sorted(json.loads(Path("work/crops.json").read_text())["trials"])[1]
    if killer == "crops":
        shutil.rmtree("work/crops")
    result = run("extract", *SETS, "--workers", "2", "--json")
    assert (result.exit_code, mortal.cluster.deaths) == (1, 2), result.output
    failed = "mobilefacenet" if killer == "crops" else killer
    rows = {row["features"]: row for row in json.loads(result.stdout)}
    assert {name: row["failed"] for name, row in rows.items()} == {"mobilefacenet": 0, "conv1d": 0, failed: 1}
    assert f"had 1 trial ('{victim}' ({failed})) again; it is set aside" in result.stderr
    assert f"{failed}: 1 of 3 trials failed" in result.stderr
    assert ("crops: 1 of " in result.stderr) == (killer == "crops")
    for name, content in before.items():
        assert Path("features", name).exists() == (failed not in name)
        assert failed in name or Path("features", name).read_bytes() == content


def test_frames_per_second_are_those_of_all_workers_together(
    project: Path, run: Run, mortal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three trials that take two seconds each, one of two workers takes two."""
    shutil.rmtree("features")
    whole = several_devices.extract_set

    def extract_set(request: Any, load: Any, made: Any, told: Any) -> Extraction:
        done = whole(request, load, made, told)
        done.outcome.seconds = 2.0 * len(request.chosen.trials)
        return done

    monkeypatch.setattr(several_devices, "extract_set", extract_set)
    result = run("extract", "--backbone", "conv1d", "--workers", "2", "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert (row["computed"], row["frames_per_s"]) == (3, round(row["frames"] / 4))
