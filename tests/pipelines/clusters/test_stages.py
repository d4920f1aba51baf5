"""Stage one through Dask: crops, features and receipts are those of a local run, byte for byte."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from cache.places.folders import join_place, split_place
from cache.store.receipt import open_receipt
from extract.engine.outcome import Outcome

pytest.importorskip("distributed", reason="distributed is not installed: pip install 'avfusion[dask]'")

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
