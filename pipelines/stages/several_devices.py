"""Extraction by several processes on one store, sharing the trials through claims: one per device, or the workers of a cluster.

A process that dies, even by SIGKILL, only loses the trials that it was working on. The other processes, or this one at the
end, take over those. Workers of a cluster get trials in groups, and the process that sends them computes nothing.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from cache.corpus.manifest import Trial
from cache.errors import AvFusionError
from cache.names import encode_trial_id
from cache.recipe import Recipe
from cache.store.feature_sets import locate_set
from cache.store.locks import free
from cache.store.store import FeatureStore
from extract.engine.cropping import Cropper, croppable
from extract.engine.outcome import Outcome, join_outcomes
from extract.engine.runtimes import choose_for
from extract.faces.crop_records import read_crop_record
from pipelines.clusters.cluster import Cluster, Seat
from pipelines.clusters.groups import Item
from pipelines.clusters.sharing import share
from pipelines.clusters.worker import Runner
from pipelines.console.console import Told, progress, warn
from pipelines.stages.extraction import (
    Extraction,
    compute,
    extract,
    extract_set,
    load_sets,
    read_crops,
    write_receipt,
)
from pipelines.stages.request import Job, LooseMedia, Request, Selection, open_job

FAULT = "fault"
"""Sent as title by a process that ends with an error."""


def extract_on(job: Job, devices: Sequence[str], cluster: Cluster | None = None) -> list[Extraction]:
    """As `extract`, in a cluster, or in one process per device; for a single device, in this process.

    Args:
        job: what to extract.
        devices: names of devices, which may repeat; of each worker of a cluster if there is one.
        cluster: the cluster, if any.

    Raises:
        SettingError: if a device does not exist, before anything is started.
        AvFusionError: as `extract`.
    """
    if cluster is not None:
        return _extract_in(cluster, replace(job, options=replace(job.options, device=devices[0])))
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


def _extract_in(cluster: Cluster, job: Job) -> list[Extraction]:
    """As `extract`, computed by the workers of a cluster."""
    request = open_job(replace(job, options=replace(job.options, device="cpu")))
    loads = load_sets(request)
    stores = [FeatureStore.create(locate_set(job.features, load.name).store, load.recipe) for load in loads]

    def release(names: list[str], seat: Seat) -> None:
        own = {store.path: [store.lock_name(name) for name in names] for store in stores}
        for place, locks in {**own, request.crops: [encode_trial_id(name) for name in names]}.items():
            free(place, locks, seat.node.host, seat.node.pid)

    names = tuple(load.name for load in loads)
    of_crops = tuple(load.name for load in loads if "crops" in load.backbone.input.media)
    parting = _Parting(request.crops, of_crops)
    shared = share(
        cluster,
        [parting.item(_Part(replace(trial, labels=None), names)) for trial in request.chosen.trials],
        _Extracting(_without_trials(request, job), {load.name: (load.recipe, load.faults) for load in loads}),
        "frames",
        str(job.options.device),
        release,
        parting.divide,
    )
    groups: list[list[Extraction]] = shared.results
    cropped = join_outcomes(crops for group in groups for crops in [part.crops for part in group if part.crops][:1])
    cropped.failures |= {
        item.name: why
        for item, why in shared.set_aside
        if not _has_crops(request.crops, item.name) and set(of_crops) & set(item.content.sets)
    }
    done = []
    for number, (load, store) in enumerate(zip(loads, stores, strict=True)):
        outcome = join_outcomes(
            _one_after_another(group[number].outcome for group in own) for own in shared.by_worker.values()
        )
        outcome.failures |= load.faults
        outcome.failures |= {item.name: why for item, why in shared.set_aside if load.name in item.content.sets}
        own = cropped if "crops" in load.backbone.input.media else None
        done.append(Extraction(locate_set(job.features, load.name), outcome, store.recipe.fingerprint, own))
        write_receipt(request, done[-1])
    return done


def _without_trials(request: Request, job: Job) -> Request:
    """The request as workers get it, each group with its own trials."""
    media = LooseMedia(()) if request.is_loose else job.media
    nothing = replace(request.corpus, trials=())
    return replace(
        request, job=replace(job, media=media, selection=Selection()), corpus=nothing, chosen=nothing, faults={}
    )


def _has_crops(folder: Path, trial_id: str) -> bool:
    return read_crop_record(folder / f"{encode_trial_id(trial_id)}.zip") is not None


def _one_after_another(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of one process on several groups, of which the seconds add up."""
    each = list(outcomes)
    return replace(join_outcomes(each), seconds=sum(outcome.seconds for outcome in each))


class _Part(NamedTuple):
    """What a worker takes: a trial, and the names of the feature sets to make of it."""

    trial: Trial
    sets: tuple[str, ...]


@dataclass(frozen=True)
class _Parting:
    """Cuts trials by feature sets, so that a network that ends its worker over a trial takes no other set of it along.

    Attributes:
        folder: of the crops.
        of_crops: names of the sets that are made of crops; they stay together until there are some, which may be what ends workers.
    """

    folder: Path
    of_crops: tuple[str, ...]

    def item(self, part: _Part, of: str = "") -> Item:
        """The item of a part; crops are told as frames, too."""
        steps = len(part.sets) + any(name in self.of_crops for name in part.sets)
        return Item(part.trial.id, steps * part.trial.clock.num_frames, part, of)

    def divide(self, item: Item) -> list[Item]:
        """The item's sets, one by one."""
        trial, sets = item.content
        lacks_crops = croppable([trial]) and not _has_crops(self.folder, trial.id)
        together = tuple(name for name in sets if lacks_crops and name in self.of_crops)
        parts = [together] if together else []
        parts += [(name,) for name in sets if name not in together]
        return [self.item(_Part(trial, part), ", ".join(part)) for part in parts]


@dataclass(frozen=True)
class _Extracting:
    """Opens what a worker needs for a request.

    Attributes:
        request: without its trials.
        sets: feature set → its recipe, and the trials that have a fault already.
    """

    request: Request
    sets: dict[str, tuple[Recipe, dict[str, str]]]

    def __call__(self, device: str) -> Runner:
        """Load the networks, and return what works on some trials: crops first, then every feature set."""
        options = self.request.job.options
        options = replace(options, device=choose_for(options.runtime, device))
        opened = replace(self.request, options=options)
        loads = [opened.load_again(name, recipe, faults) for name, (recipe, faults) in self.sets.items()]
        cropper = Cropper(opened.corpus, opened.job.config, opened.crops, options.device, False)

        def run(parts: list[_Part], told: Told) -> list[Extraction]:
            """What became of each feature set, of which every part takes some; crops are made once for all."""
            of = {load.name: [part.trial for part in parts if load.name in part.sets] for load in loads}
            cropped = {trial.id: trial for load in loads if read_crops([load]) for trial in of[load.name]}
            made = cropper.crop(list(cropped.values()), partial(told, "crops")) if read_crops(loads) else None
            done = []
            for load in loads:
                chosen = replace(opened.corpus, trials=tuple(of[load.name]))
                done.append(extract_set(replace(opened, chosen=chosen), load, made, told))
                names, outcome = {trial.id for trial in chosen.trials}, done[-1].outcome
                outcome.failures = {name: why for name, why in outcome.failures.items() if name in names}
            return done

        return run
