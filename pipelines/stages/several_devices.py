"""Extraction on several devices: one process per device, all on one store, sharing the trials through claims.

A process that dies, even by SIGKILL, only loses the trials that it was working on. The other processes, or this one at the
end, take over those.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import traceback
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

from cache.errors import AvFusionError
from extract.engine.outcome import Outcome
from extract.engine.runtimes import choose_for
from pipelines.console.console import progress, warn
from pipelines.stages.extraction import Extraction, compute, extract
from pipelines.stages.request import Job, open_job

FAULT = "fault"
"""Sent as title by a process that ends with an error."""


def extract_on(job: Job, devices: Sequence[str]) -> list[Extraction]:
    """As `extract`, in one process per device; for a single device, in this process.

    Args:
        job: what to extract.
        devices: names of devices, which may repeat.

    Raises:
        SettingError: if a device does not exist, before anything is started.
        AvFusionError: as `extract`.
    """
    for device in devices[1:]:
        choose_for(job.options.runtime, device)
    jobs = [replace(job, options=replace(job.options, device=device)) for device in devices]
    request = open_job(jobs[0])
    if len(jobs) == 1:
        return extract(request)
    frames = sum(trial.clock.num_frames for trial in request.chosen.trials)
    return extract(request, _run_all(jobs, frames * len(job.sets)))


def _run_all(jobs: Sequence[Job], total: int) -> dict[str, Outcome]:
    """Start a process per job and wait for them; returns feature set → what they computed."""
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, tuple[str, Any]] = {}
    for number, job in enumerate(jobs):
        ours, theirs = context.Pipe(duplex=False)
        part = replace(job.selection, part=(number, len(jobs))) if job.options.redo else job.selection
        process = context.Process(target=_work, args=(replace(job, selection=part), theirs), daemon=True)
        process.start()
        theirs.close()
        workers[ours] = (str(job.options.device), process)
    made: dict[str, Outcome] = {}
    with progress("frames", total) as advance:
        while workers:
            for connection in wait(list(workers)):
                assert isinstance(connection, Connection)
                try:
                    title, frames, what = connection.recv()
                except EOFError:
                    device, process = workers.pop(connection)
                    process.join()
                    if process.exitcode:
                        warn(
                            f"The process on {device} ended early (exit code {process.exitcode}); its trials are taken over."
                        )
                    continue
                if title == FAULT:
                    warn(f"The process on {workers[connection][0]} failed: {what}")
                elif isinstance(what, Outcome):
                    made.setdefault(title, Outcome()).add(what)
                elif title != "crops":
                    advance(frames, f"{title} {what}")
    return made


def _work(job: Job, parent: Connection) -> None:
    """Body of a process: compute a share of the trials and report progress to the parent."""

    def tell(title: str, frames: int, trial_id: str) -> None:
        parent.send((title, frames, trial_id))

    with contextlib.redirect_stderr(io.StringIO()):  # the parent shows the same warnings
        try:
            for extraction in compute(open_job(job), tell):
                parent.send((extraction.place.name, 0, extraction.outcome))
        except AvFusionError as error:
            parent.send((FAULT, 0, str(error)))
        except Exception:
            parent.send((FAULT, 0, traceback.format_exc()))
