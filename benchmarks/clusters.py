"""Stage one on a Dask cluster: how much faster two workers are than one, and whether anything is lost when processes are killed.

    python benchmarks/clusters.py speed                 # two workers of one thread against one, interleaved
    python benchmarks/clusters.py kills [--s3]          # workers, scheduler and client killed ten times at random

`kills` extracts a small demo corpus through a scheduler and three workers that are started with the commands of docs/clusters.md. It kills
one of them at random, starts it again, and so on; then it compares crops, features and receipts with those of a local run, byte for byte,
and counts how often a finished trial was written again. With --s3 the features lie on an S3 server on loopback (moto).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from cache.places.folders import join_place, open_folder, split_place
from cache.store.feature_sets import store_of
from cache.store.receipt import Receipt
from extract.engine.embedding import EngineOptions
from pipelines.clusters.cluster import Cluster, open_cluster
from pipelines.project.params import ClusterParams
from pipelines.project.params_file import read_params
from pipelines.stages.request import Selection, project_jobs
from pipelines.stages.several_devices import extract_on

ROOT = Path(__file__).parents[1]
SETS = ("mobilefacenet", "conv1d")
WORKERS = 3
KILLS = 10
ROUNDS = 2
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
DASK = [str(Path(sys.executable).with_name("dask"))]
EXTRACT = [sys.executable, "-m", "pipelines", "extract", "--device", "cpu"]


def make_project(folder: Path, trials: int, seconds: float) -> None:
    """A project on the demo corpus, with a built corpus."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    del params["finetune"]
    params["extract"] = {name: {"weights": "random"} for name in SETS}
    params["extract"]["conv1d"]["settings"] = {"window_s": 0.1}
    systems = params["fusion"]["systems"]
    params["fusion"]["systems"] = {name: systems[name] for name in ("fused", "visual", "audio")}
    params["corpus"]["settings"] = {"num_trials": trials, "num_subjects": 4, "min_s": seconds, "max_s": 2 * seconds}
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "pipelines", "corpus", "build"], cwd=folder, env=ENVIRONMENT, check=True)


def speed(folder: Path) -> None:
    """Extract the same trials with one and with two workers, each of one thread, in turns."""
    make_project(folder, 24, 6.0)
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(ROOT)
    (job,) = project_jobs(SETS[:1], read_params(), EngineOptions(device="cpu"), Selection(), "features")
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with ExitStack() as stack:
        clusters: dict[int, Cluster] = {}
        for count in seconds:
            cluster = stack.enter_context(open_cluster(ClusterParams(count)))
            assert cluster is not None
            cluster.seats = [replace(seat, threads=1) for seat in cluster.seats]
            clusters[count] = cluster
        for number in range(1 + ROUNDS):  # the first one makes crops and loads the networks
            for count, cluster in clusters.items():
                shutil.rmtree("features", ignore_errors=True)
                start = time.perf_counter()
                (done,) = extract_on(job, ["cpu"], cluster)
                if number:
                    seconds[count].append(time.perf_counter() - start)
                assert not done.outcome.failures
    ratios = [one / two for one, two in zip(*seconds.values(), strict=True)]
    print({count: [round(value, 2) for value in values] for count, values in seconds.items()})
    print(
        f"one worker / two, best {min(seconds[1]) / min(seconds[2]):.2f}, median of rounds {statistics.median(ratios):.2f}"
    )


@dataclass
class Processes:
    """The scheduler, the workers and the client of a run, and what was killed."""

    folder: Path
    features: str
    port: int
    environment: dict[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Of the scheduler."""
        return f"tcp://127.0.0.1:{self.port}"

    def keep_up(self) -> bool:
        """Start what does not run; whether the client has finished well."""
        for name in ("scheduler", *(f"worker{number}" for number in range(WORKERS)), "client"):
            process = self.running.get(name)
            if process is not None and process.poll() is None:
                continue
            if name == "client" and process is not None:
                self.codes.append(process.returncode)
                if process.returncode == 0:
                    return True
            self.start(name)
        return False

    def start(self, name: str) -> None:
        """Start one of them, in a group of its own."""
        command = {
            "scheduler": [*DASK, "scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"],
            "client": [*EXTRACT, *self.sets(), "--features", self.features, "--scheduler", self.address],
        }.get(name, [*DASK, "worker", self.address, "--nthreads", "1", "--memory-limit", "0", "--no-dashboard"])
        with open(self.folder.parent / f"{name}.log", "ab") as log:
            self.running[name] = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        if name == "scheduler":
            wait_for(self.port)
        elif name == f"worker{WORKERS - 1}":
            time.sleep(8)  # until they are there; a client refuses a cluster without workers

    def sets(self) -> list[str]:
        """Options that name the feature sets."""
        return [word for name in SETS for word in ("--backbone", name)]

    def kill(self, name: str) -> None:
        """Kill one, without warning; of a worker only the process that computes, in every second case."""
        process = self.running[name]
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        victims = [int(child) for child in children.read_text().split()] if name[:6] == "worker" else []
        self.killed.append(name if not victims else f"{name}'s process" if random.random() < 0.5 else name)
        with contextlib.suppress(ProcessLookupError):
            if self.killed[-1].endswith("process"):
                for child in victims:
                    os.kill(child, signal.SIGKILL)
            else:
                os.killpg(process.pid, signal.SIGKILL)
        if name == "scheduler":
            for each in [each for each in self.running if each[:6] == "worker"]:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.running[each].pid, signal.SIGKILL)
                self.running[each].wait()

    def stop(self) -> None:
        """End all of them."""
        for process in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    """Wait until something listens there."""
    for _ in range(300):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


@contextlib.contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """An S3 server on loopback with an empty bucket; yields the environment to reach it."""
    import boto3

    port = free_port()
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        os.environ.update(settings)
        boto3.client("s3").create_bucket(Bucket="avfusion")
        yield settings
    finally:
        server.kill()


def versions_of(features: str, seen: dict[str, set[str]]) -> None:
    """Note the commit records that are there: a trial that was written again has another one."""
    for name in SETS:
        store = open_folder(join_place(features, f"{name}.zarr"))
        for path in [path for path in store.sizes() if path.count("/") == 2 and path.endswith("zarr.json")]:
            stamp = store.stamp(path)
            seen.setdefault(f"{name}/{path}", set()).add(str(stamp or store.read(path)))


def kills(folder: Path, remote: bool, seed: int) -> None:
    """Kill processes at random while a corpus is extracted, and compare with a local run."""
    random.seed(seed)
    local, shared = folder / "local", folder / "shared"
    make_project(local, 16, 4.0)
    shutil.copytree(local, shared)
    with ExitStack() as stack:
        own = stack.enter_context(s3_server()) if remote else {}
        features = "s3://avfusion/features" if remote else str(shared / "features")
        processes = Processes(shared, features, free_port(), {**ENVIRONMENT, **own})
        stack.callback(processes.stop)
        subprocess.run([*EXTRACT, *processes.sets()], cwd=local, env=ENVIRONMENT, check=True)
        seen: dict[str, set[str]] = {}
        following = time.monotonic() + 15
        while not processes.keep_up():
            with contextlib.suppress(OSError):
                versions_of(features, seen)
            if len(processes.killed) < KILLS and time.monotonic() > following:
                processes.kill(random.choice([*processes.running]))
                following = time.monotonic() + random.uniform(1, 8)
            time.sleep(0.2)
        versions_of(features, seen)
        report(local, features, processes, seen)


def report(local: Path, features: str, processes: Processes, seen: dict[str, set[str]]) -> None:
    """Compare, and print."""
    print("killed:", ", ".join(processes.killed))
    print("exit codes of the clients:", processes.codes)
    for name in SETS:
        place = join_place(features, f"receipts/{name}.json")
        folder, file = split_place(place)
        ours, theirs = (local / f"features/receipts/{name}.json").read_bytes(), folder.read(file)
        trials = Receipt.load(place).trials
        store, other = open_folder(store_of(place)), open_folder(local / f"features/{name}.zarr")
        same = {path for path in other.sizes() if other.read(path) == store.read(path)}
        chunks = [path for path in other.sizes() if not path.endswith("zarr.json")]
        print(
            f"{name}: {len(trials)} trials, receipt {'equal' if ours == theirs else 'DIFFERS'}, "
            f"{len(same & set(chunks))} of {len(chunks)} chunks equal"
        )
    again = sum(len(versions) - 1 for versions in seen.values())
    crops = [(root / "work/crops.json").read_bytes() for root in (local, processes.folder)]
    print(f"crops {'equal' if crops[0] == crops[1] else 'DIFFER'}; finished trials that were written again: {again}")


def main() -> Any:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "kills"])
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="avfusion-clusters-") as place:
        if arguments.what == "speed":
            speed(Path(place) / "project")
        else:
            kills(Path(place), arguments.s3, arguments.seed)


if __name__ == "__main__":
    main()
