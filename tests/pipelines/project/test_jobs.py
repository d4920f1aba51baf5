"""Workers, memory budget and principal components change how systems are trained, not what comes out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.errors import SettingError
from pipelines.project.jobs import run_jobs

ROOT = Path(__file__).parents[3]


class Doubler:
    """Doubles; refuses 5."""

    def __call__(self, job: int) -> int:
        if job == 5:
            raise SettingError("Five is not wanted. Take another.")
        return 2 * job


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs(workers: int) -> None:
    assert run_jobs(list(range(5)), Doubler, workers) == [0, 2, 4, 6, 8]
    assert run_jobs([], Doubler, workers) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_of_any_process_is_raised_here(workers: int) -> None:
    with pytest.raises(SettingError, match="Five is not wanted"):
        run_jobs([1, 2, 3, 5, 4], Doubler, workers)


SLEEPER = """
import os, sys, time
from pathlib import Path
from pipelines.project.jobs import run_jobs

class Sleeper:
    def __call__(self, job):
        Path(sys.argv[1], str(os.getpid())).touch()
        time.sleep(300)

if __name__ == "__main__":
    run_jobs([0, 1], Sleeper, 2)
"""


def test_nobody_goes_on_when_the_command_is_killed(tmp_path: Path) -> None:
    program, pids = tmp_path / "sleeper.py", tmp_path / "pids"
    program.write_text(SLEEPER, encoding="utf-8")
    pids.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(program), str(pids)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        for _ in range(600):
            if len(list(pids.iterdir())) == 2 or process.poll() is not None:
                break
            time.sleep(0.1)
        process.kill()
        (other,) = [int(path.name) for path in pids.iterdir() if path.name != str(process.pid)]
        try:
            process.communicate(timeout=60)  # until nobody holds its output any more
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(other, signal.SIGKILL)


def weights(project: Path) -> dict[str, bytes]:
    return {str(path.relative_to(project)): path.read_bytes() for path in project.glob("work/models/**/*.safetensors")}


def test_workers_and_budget_train_the_same_models(project: Path, run: Callable, edit_params: Callable) -> None:
    def reduce(params: dict) -> None:
        params["fusion"]["systems"]["visual"]["pca"] = {"visual": 4}
        params["fusion"]["systems"] = {name: params["fusion"]["systems"][name] for name in ("fused", "visual")}

    edit_params(reduce)
    first = run("train", "--json")
    assert first.exit_code == 0, first.output
    alone = weights(project)
    edit_params(lambda params: params["fusion"].update(workers=2, bank={"memory_gb": 0}))
    second = run("train", "--json", "--redo")
    assert second.exit_code == 0, second.output
    assert json.loads(second.stdout) == json.loads(first.stdout)
    assert weights(project) == alone
    assert len(alone) == 4
    assert run("evaluate").exit_code == 0
    edit_params(lambda params: params["fusion"].update(workers=0))
    assert "'fusion.workers' is 0" in run("train").stderr
