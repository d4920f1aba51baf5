"""Sharing among workers of a cluster: what a dead one held goes to others, and what kills two is set aside."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cache.errors import SettingError, StoreError, UnreachableError
from pipelines.clusters import cluster as clusters
from pipelines.clusters import sharing, worker
from pipelines.clusters.cluster import Cluster, open_cluster
from pipelines.clusters.groups import Item
from pipelines.clusters.sharing import share
from pipelines.project.params import ClusterParams

distributed = pytest.importorskip("distributed", reason="distributed is not installed: pip install 'avfusion[dask]'")

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers of this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        patch.setenv("PYTHONPATH", f"{HERE}:{Path(__file__).parents[3]}")
        patch.chdir(tmp_path_factory.mktemp("cluster"))
        with open_cluster(ClusterParams(workers=2)) as opened:
            assert opened is not None
            yield opened


@pytest.fixture
def open_runner(cluster: Cluster) -> Any:
    """What the workers run, and an empty folder to run in."""
    faults = importlib.import_module("faults")
    for path in Path("opened").glob("*"):
        path.unlink()
    return faults.open_runner


def items(*words: str) -> list[Item]:
    return [Item(word, 1, word) for word in words]


def test_everything_is_done_once_in_both_workers(cluster: Cluster, open_runner: Any) -> None:
    """Each worker opens what it needs once, works in the caller's folder and takes its device."""
    shared = share(cluster, items(*map(str, range(40))), open_runner, "words", device="cpu")
    words = sorted(word for result in shared.results for word in result["words"])
    assert (words, shared.failures) == (sorted(map(str, range(40))), {})
    assert {result["device"] for result in shared.results} == {"cpu"}
    assert {result["folder"] for result in shared.results} == {os.getcwd()}
    assert len(list(Path("opened").iterdir())) == len({result["pid"] for result in shared.results}) == 2
    assert len(shared.results) > 10


@pytest.mark.slow
def test_one_that_kills_twice_is_set_aside_and_all_others_are_done(
    cluster: Cluster, open_runner: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    released: list[list[str]] = []
    words = ["a", "kill", "b", f"once:{Path.cwd()}/first", "c"]
    shared = share(cluster, items(*words), open_runner, "words", release=lambda names, seat: released.append(names))
    assert list(shared.failures) == ["kill"]
    assert shared.failures["kill"].startswith("2 workers ended while they had it, the last one 'tcp://127.0.0.1:")
    done = [word for result in shared.results for word in result["words"]]
    assert set(done) == set(words) - {"kill"}
    assert sum("kill" in names for names in released) == 2
    errors = capsys.readouterr().err
    assert "'kill'" in errors
    assert "it is set aside" in errors


def test_an_error_in_a_worker_is_that_of_the_command(cluster: Cluster, open_runner: Any) -> None:
    with pytest.raises(StoreError, match="The disk is full"):
        share(cluster, items("a", "full", "b"), open_runner, "words")


def test_without_workers_nothing_waits_for_ever(
    cluster: Cluster, open_runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "PATIENCE_S", 0.5)
    monkeypatch.setattr(Cluster, "look", lambda self: None)
    lonely = Cluster(cluster.client, cluster.address)
    with pytest.raises(UnreachableError, match="no workers"):
        share(lonely, items("a"), open_runner, "words")


@pytest.mark.parametrize(
    ("answer", "threads", "expected"),
    [
        ({"code": {**worker.CODE, "extract": "other"}}, 1, "has other code in extract"),
        ({"python": "3.9.1"}, 1, "runs Python 3.9.1"),
        ({"sees": False}, 1, "does not see the folder"),
        ({}, 4, "has 4 threads"),
        ({"libraries": dict.fromkeys(worker.LIBRARIES, "0")}, 1, ""),
        ({}, 1, ""),
    ],
)
def test_a_worker_that_does_not_fit_is_told_from_one_that_does(
    tmp_path: Path, answer: dict[str, Any], threads: int, expected: str
) -> None:
    (tmp_path / "mark").touch()
    here = worker.describe(str(tmp_path / "mark"))
    assert expected in clusters._misfit(here, replace(here, **answer), threads)
    assert bool(clusters._misfit(here, replace(here, **answer), threads)) == bool(expected)
    assert "cannot run this version" in clusters._misfit(here, ModuleNotFoundError("pipelines"), 1)


class NoClient:
    """A scheduler with the workers that a test wants."""

    dashboard_link = ""

    def __init__(self, nodes: dict[str, Any]) -> None:
        self.nodes = nodes

    status = "running"

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        return {"workers": {address: {"nthreads": 1} for address in self.nodes}}

    def run(self, function: Any, mark: str, workers: list[str], on_error: str) -> dict[str, Any]:
        return {address: self.nodes[address] for address in workers}


def node(tmp_path: Path, **changes: Any) -> worker.Node:
    (tmp_path / "mark").touch()
    return replace(worker.describe(str(tmp_path / "mark")), **changes)


def test_workers_of_a_machine_take_its_gpus_in_turn(tmp_path: Path) -> None:
    """Also where each sees another one first, as dask-cuda arranges; a device with a number is taken as it is."""
    nodes = {f"tcp://a:{number}": node(tmp_path, host="a", devices=2, cores=9) for number in range(3)}
    nodes |= {f"tcp://b:{n}": node(tmp_path, host="b", devices=2, visible=f"{n},{1 - n}", cores=1) for n in range(2)}
    nodes["tcp://c:0"] = node(tmp_path, host="c", devices=0)
    cluster = Cluster(NoClient(nodes), "tcp://there:8786")
    cluster.admit()
    assert [seat.device("auto") for seat in cluster.seats] == ["cuda:0", "cuda:1", "cuda:0", "cuda:0", "cuda:0", "auto"]
    assert {seat.device("cuda:1") for seat in cluster.seats} == {"cuda:1"}
    assert [seat.threads for seat in cluster.seats[:5]] == [3, 3, 3, 1, 1]


def test_a_cluster_that_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingError, match="no workers"):
        Cluster(NoClient({}), "tcp://there:8786").admit()
    nodes: dict[str, Any] = {"tcp://a:1": node(tmp_path), "tcp://a:2": node(tmp_path, sees=False)}
    with pytest.raises(SettingError, match="1 of 2 workers.*'tcp://a:2' does not see"):
        Cluster(NoClient(nodes), "tcp://there:8786").admit()
    nodes = {"tcp://a:1": node(tmp_path)}
    cluster = Cluster(NoClient(nodes), "tcp://there:8786")
    cluster.admit()
    nodes["tcp://a:2"] = node(tmp_path, sees=False)
    cluster.look()
    assert [seat.address for seat in cluster.seats] == ["tcp://a:1"]
    assert "'tcp://a:2' does not see" in capsys.readouterr().err
    nodes["tcp://a:3"] = node(tmp_path)
    del nodes["tcp://a:1"]
    cluster.look()
    assert [seat.address for seat in cluster.seats] == ["tcp://a:3"]


def test_there_is_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "_TIMEOUT_S", 1)
    with (
        pytest.raises(UnreachableError, match=r"no scheduler at 'tcp://127.0.0.1:9'"),
        open_cluster(ClusterParams(scheduler="tcp://127.0.0.1:9")),
    ):
        pass


@pytest.mark.slow
def test_a_scheduler_that_dies_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HERE))
    faults = importlib.import_module("faults")
    file = ["--scheduler-file", str(tmp_path / "scheduler.json"), "--no-dashboard"]
    here = {"env": {**os.environ, "PYTHONPATH": f"{HERE}:{ROOT}"}, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-m", "dask"]
    scheduler = subprocess.Popen([*command, "scheduler", "--host", "127.0.0.1", "--port", "0", *file], **here)
    workers = subprocess.Popen([*command, "worker", *file, "--nthreads", "1", "--no-nanny"], **here)
    try:
        with open_cluster(ClusterParams(scheduler=wait_for_worker(tmp_path / "scheduler.json"))) as cluster:
            assert cluster is not None
            threading.Timer(1, scheduler.kill).start()
            with pytest.raises(UnreachableError, match=r"The scheduler at .* was lost"):
                share(cluster, [Item("a", 1, "wait")], faults.open_runner, "")
    finally:
        for process in (workers, scheduler):
            process.kill()
            process.wait()


def wait_for_worker(file: Path) -> str:
    """The address of a scheduler, once it has a worker."""
    deadline = time.monotonic() + 60
    while not file.is_file():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    address = str(json.loads(file.read_text())["address"])
    with distributed.Client(address) as client:
        client.wait_for_workers(1, timeout=60)
    return address


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1", "tcp://127.0.0.1:99999", "tcp://h:0", "http://h:8786", "h:8786", "tcp://h:8786:x"]
)
def test_an_address_that_cannot_be_one_is_refused_at_once(address: str) -> None:
    with pytest.raises(SettingError, match="expected an address such as tcp://host:8786"):
        ClusterParams(scheduler=address)


def test_progress_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    progress = worker._Progress("key", told.append)
    lines: list[str] = []
    monkeypatch.setattr(worker.log, "info", lambda text, *values: lines.append(text % values))
    monkeypatch.setattr(worker, "_EVERY_S", 1e6)
    for _ in range(3):
        progress("conv1d", 5, "trial 1")
    progress("conv1d", 5, "")  # only looked at
    assert told == []
    assert lines == ["conv1d 'trial 1'"]
    monkeypatch.setattr(worker, "_EVERY_S", -1)
    progress("conv1d", 5, "trial 2")
    assert told == [{"key": "key", "frames": 25, "note": "conv1d trial 2"}]
    progress.flush()
    assert len(told) == 1
