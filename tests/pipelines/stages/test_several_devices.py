"""Several devices: a process each on one store; whichever is killed, the features and their receipt are the same."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

import extract.engine.devices
import extract.media.timeline
import pipelines.stages.request
from cache.corpus.manifest import Manifest
from cache.store.feature_sets import store_of
from cache.store.receipt import Receipt, open_receipt
from extract.engine.embedding import EngineOptions
from pipelines.project.params_file import read_params
from pipelines.stages.request import Job, LooseMedia, Selection, open_job

ROOT = Path(__file__).parents[3]
AUDIO = Path("features/receipts/conv1d.json")
Run = Callable[..., Result]


def start(*more: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "pipelines",
        "extract",
        "--backbone",
        "conv1d",
        "--device",
        "cpu,cpu",
        "--json",
        *more,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def workers_of(process: subprocess.Popen[str]) -> Iterator[int]:
    """Process ids of the children that compute; one that ends while it is looked at is none."""
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                yield int(child)


def forget_features() -> Receipt:
    """Remove the features of sound and give what their receipt was."""
    before = Receipt.load(AUDIO)
    for document in store_of(AUDIO).glob("*/*/zarr.json"):
        document.unlink()
    AUDIO.unlink()
    return before


def test_two_processes_share_the_trials(project: Path) -> None:
    before = forget_features()
    process = start()
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    (row,) = json.loads(out)
    assert (row["computed"], row["kept"], row["failed"]) == (3, 0, 0)
    assert Receipt.load(AUDIO) == before
    open_receipt(AUDIO)
    assert errors.count("has random weights") == 1


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in /proc")
@pytest.mark.parametrize("everyone", [False, True])
def test_a_killed_process_loses_at_most_its_trials_in_flight(project: Path, everyone: bool) -> None:
    before = forget_features()
    process, killed = start(), 0
    deadline = time.monotonic() + 120
    while process.poll() is None and killed < 1 + everyone and time.monotonic() < deadline:
        for child in list(workers_of(process)):
            os.kill(child, signal.SIGKILL)
            killed += 1
            if not everyone:
                break
        time.sleep(0.02)
    out, errors = process.communicate(timeout=300)
    assert killed
    assert process.returncode == 0, errors
    assert "The process on cpu ended early (exit code -9); its trials are taken over." in errors
    assert json.loads(out)[0]["failed"] == 0
    assert Receipt.load(AUDIO) == before
    open_receipt(AUDIO)


def test_redo_is_done_once(project: Path) -> None:
    process = start("--redo")
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert (json.loads(out)[0]["computed"], json.loads(out)[0]["kept"]) == (3, 0)


def test_a_bad_trial_fails_once_and_the_exit_code_says_so(project: Path) -> None:
    forget_features()
    manifest = Manifest.load(Path("work/corpus"))
    manifest.path(manifest.trials[1], "video").write_bytes(b"no video")
    process = start()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "conv1d: 1 of 3 trials failed" in errors
    assert "Traceback" not in errors


def test_devices_are_checked_before_anything_starts(project: Path, run: Run) -> None:
    result = run("extract", "--backbone", "conv1d", "--device", "cpu,cuda:77")
    assert (result.exit_code, "Device 'cuda:77' does not exist" in result.stderr) == (1, True)
    result = run("extract", "--backbone", "conv1d", "--device", "cpu,gpu")
    assert (result.exit_code, "Unknown device 'gpu'" in result.stderr) == (2, True)


def test_jobs_can_be_sent(project: Path) -> None:
    params = read_params()
    sets = params.feature_sets(["all"])
    for media in (params.corpus, LooseMedia((Path("a.wav"),))):
        job = Job(sets, media, params.crops, Path("features"), EngineOptions(), Selection(("a*",), 3))
        assert pickle.loads(pickle.dumps(job)) == job
        assert len(pickle.dumps(job)) < 20_000


def test_once_is_enough(project: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is resolved once, a device chosen once, and the timeline of a video read once."""
    calls: dict[str, int] = {}

    def count(module: object, name: str) -> None:
        whole = getattr(module, name)

        def counted(*arguments: object, **more: object) -> object:
            calls[name] = calls.get(name, 0) + 1
            return whole(*arguments, **more)

        monkeypatch.setattr(module, name, counted)

    count(extract.engine.devices, "_find_device")
    count(extract.media.timeline, "check_end")  # of each scan
    count(pipelines.stages.request, "load_backbone")
    manifest = Manifest.load(Path("work/corpus"))
    video = manifest.path(manifest.trials[0], "video")
    names = ("--backbone", "conv1d", "--backbone", "mobilefacenet")
    weights = ("--weights", "conv1d=random", "--weights", "mobilefacenet=random")
    result = run("extract", *names, *weights, "--out", tmp_path / "out", video)
    assert result.exit_code == 0, result.output
    assert calls == {"_find_device": 1, "check_end": 1, "load_backbone": 2}


def test_the_project_opens_its_corpus_once(project: Path) -> None:
    params = read_params()
    sets = params.feature_sets(["conv1d"])
    job = Job(sets, params.corpus, params.crops, "features", EngineOptions(device="cpu"), Selection(limit=1))
    request = open_job(job)
    assert (len(request.corpus.trials), len(request.chosen.trials)) == (3, 1)
    assert request.options.device != "cpu"
