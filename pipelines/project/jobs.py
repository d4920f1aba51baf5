"""Run independent jobs in several processes.

The calling process works too, so two workers need one more process. Whichever is free takes the next job, and every job gives
the same result as alone.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from threading import Thread
from typing import Any, TypeVar

J = TypeVar("J")
R = TypeVar("R")

_shared: dict[str, Any] = {}  # in a worker process: the counter, the jobs and how to run them


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(
    jobs: Sequence[J],
    make_runner: Callable[[], Callable[[J], R]],
    workers: int,
    own_runner: Callable[[J], R] | None = None,
) -> list[R]:
    """Run jobs, results in the order of the jobs.

    Args:
        jobs: the jobs; must be picklable if there are several workers.
        make_runner: called once in each process, must be picklable; returns the function that runs a job.
        workers: number of processes including this one, at least one.
        own_runner: runs the jobs of this process instead, e.g. with progress.

    Raises:
        AvFusionError: whatever a job raises; jobs that were not started are then dropped.
    """
    own = own_runner or make_runner()
    others = min(workers, len(jobs)) - 1
    if others < 1:
        return [own(job) for job in jobs]
    context = multiprocessing.get_context("spawn")
    following = context.Value("l", 0)
    results: dict[int, R] = {}
    with ProcessPoolExecutor(others, context, _start, (following, jobs, make_runner)) as pool:
        futures = [pool.submit(_work) for _ in range(others)]
        try:
            results |= _take(following, jobs, own)
            for future in futures:
                results |= future.result()
        finally:
            following.value = len(jobs)
    return [results[index] for index in range(len(jobs))]


def _start(following: Any, jobs: Sequence[Any], make_runner: Callable[[], Callable[[Any], Any]]) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    _shared.update(following=following, jobs=jobs, make_runner=make_runner)


def _end_with_parent() -> None:
    """End this process when the one that started it is killed: it would do all that is left, unseen, and then never end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work() -> dict[int, Any]:
    return _take(_shared["following"], _shared["jobs"], _shared["make_runner"]())


def _take(following: Any, jobs: Sequence[J], run: Callable[[J], R]) -> dict[int, R]:
    """Take the next job until none is left; index → result."""
    results: dict[int, R] = {}
    while True:
        with following.get_lock():
            index = following.value
            following.value = index + 1
        if index >= len(jobs):
            return results
        results[index] = run(jobs[index])
