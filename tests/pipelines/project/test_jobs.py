"""Workers, memory budget and principal components change how systems are trained, not what comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.errors import SettingError
from pipelines.project.jobs import run_jobs


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
