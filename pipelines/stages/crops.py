"""Stage `crops`: find, follow, align and store the face of every trial, once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.corpus.manifest import Manifest, Trial
from cache.documents.documents import Document, Values, write_document
from cache.names import encode_trial_id
from cache.store.locks import free
from extract.engine.cropping import Cropper, croppable, crops_folder
from extract.engine.devices import device_kind, torch_threads
from extract.engine.outcome import Outcome, join_outcomes
from extract.faces.crop_records import read_crop_record
from extract.faces.settings import CropConfig
from pipelines.clusters.cluster import Cluster, Seat
from pipelines.clusters.groups import Item
from pipelines.clusters.sharing import share
from pipelines.clusters.worker import Runner
from pipelines.console.console import Told, tell, warn
from pipelines.project import paths
from pipelines.project.jobs import available_cores, run_jobs

if TYPE_CHECKING:
    import torch

_MOST_WORKERS = 4  # each needs half a gigabyte
_FRAMES_EACH = 2_000  # what a process makes while another one starts


def make_crops(
    manifest: Manifest,
    config: CropConfig,
    crops: Path,
    device: str | torch.device = "auto",
    redo: bool = False,
    told: Told | None = None,
    workers: int = 0,
    cluster: Cluster | None = None,
) -> Outcome:
    """Make the crops of all trials of a manifest, and show progress; see `extract.engine.cropping.crop_trials` for the rest.

    Args:
        told: receives the progress; a progress bar by default.
        workers: processes that share the trials; 0 for one per core of a CPU, at most four, where there is enough to do.
        cluster: makes them instead, if any.
    """
    trials = croppable(manifest.trials)
    cropper = Cropper(manifest, config, crops_folder(crops, config), device, redo)
    if cluster is not None:
        return _crop_in(cluster, cropper, trials)
    missing = [trial for trial in trials if redo or not (cropper.folder / f"{encode_trial_id(trial.id)}.zip").exists()]
    made = Outcome()
    total = sum(trial.clock.num_frames for trial in trials)
    with tell(told, "crops", total) as advance:
        if len(missing) > 1 and told is None and (workers := workers or _choose_workers(missing, device)) > 1:
            made = _share(cropper, missing, workers, advance)
        done = set(made.computed)
        left = [trial for trial in trials if trial.id not in done]
        outcome = cropper.crop(left, advance)
    outcome.add(replace(made, failures={}))  # those were tried again
    return outcome


def _crop_in(cluster: Cluster, cropper: Cropper, trials: list[Trial]) -> Outcome:
    """Make crops in the workers of a cluster."""

    def release(names: list[str], seat: Seat) -> None:
        free(cropper.folder, [encode_trial_id(name) for name in names], seat.node.host, seat.node.pid)

    items = [Item(trial.id, trial.clock.num_frames, replace(trial, labels=None)) for trial in trials]
    bare = replace(cropper, manifest=replace(cropper.manifest, trials=()))
    shared = share(cluster, items, partial(_open_cropper, bare), "crops", 1, str(cropper.device), release)
    outcome = join_outcomes(shared.results)
    outcome.failures |= shared.failures
    return outcome


def _open_cropper(bare: Cropper, device: str) -> Runner:
    """What makes crops in a worker, which loads its networks once."""
    cropper = replace(bare, device=device)
    return lambda trials, told: cropper.crop(trials, partial(told, "crops"))


def _choose_workers(trials: list[Trial], device: str | torch.device) -> int:
    """How many processes pay; a GPU is shared by none."""
    if device_kind(device) != "cpu":
        return 1
    frames = sum(trial.clock.num_frames for trial in trials)
    return min(available_cores(), _MOST_WORKERS, len(trials), frames // _FRAMES_EACH)


def _share(cropper: Cropper, trials: list[Trial], workers: int, advance: Callable[[int, str], None]) -> Outcome:
    """Make crops in several processes; trials of a process that dies are left."""
    done = multiprocessing.get_context("spawn").Value("q", 0)
    make = partial(_Worker, cropper, max(1, available_cores() // workers), done)
    try:
        return join_outcomes(run_jobs(trials, make, workers, make(advance)))
    except BrokenProcessPool:
        warn("A process that made crops ended early, perhaps for want of memory; its trials are taken over.")
        return Outcome()


class _Worker:
    """Makes the crops of one trial after another in a process; in this one, it also shows the progress of all."""

    def __init__(
        self, cropper: Cropper, threads: int, done: Any, advance: Callable[[int, str], None] | None = None
    ) -> None:
        self._cropper, self._threads, self._done, self._advance = cropper, threads, done, advance
        self._shown = 0

    def __call__(self, trial: Trial) -> Outcome:
        with torch_threads(self._threads):
            outcome = self._cropper.crop([trial], waits=False)
        with self._done.get_lock():
            self._done.value += trial.clock.num_frames
            done = self._done.value
        if self._advance is not None:
            self._advance(done - self._shown, trial.id)
            self._shown = done
        return outcome


class _CropsDocument(Document):
    crops: Values
    trials: dict[str, dict[str, Any]]


def save_crops_receipt(manifest: Manifest, config: CropConfig, crops: Path, path: Path) -> None:
    """Write the receipt of finished crops: settings, and digests and counts of every trial."""
    trials = {}
    for trial in croppable(manifest.trials):
        record = read_crop_record(crops_folder(crops, config) / f"{encode_trial_id(trial.id)}.zip")
        assert record is not None
        trials[trial.id] = record
    paths.leave_folder(crops)
    write_document(path, _CropsDocument, {"crops": asdict(config), "trials": trials}, sort_keys=True)
