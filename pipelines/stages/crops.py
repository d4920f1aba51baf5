"""Stage `crops`: find, follow, align and store the face of every trial, once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cache.corpus.manifest import Manifest, Trial
from cache.documents.documents import Document, Values, write_document
from cache.names import encode_trial_id
from cache.store.locks import free
from extract.engine.cropping import Cropper, by_video, croppable, crops_folder
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

_OFTEN = 2  # times as many frames as of the followed face in which another one is seen, to be worth a hint
_MOST_WORKERS = 4  # each needs half a gigabyte
_FRAMES_EACH = 2_000  # what a process makes while another one starts


class Remedies(NamedTuple):
    """What to do about a face that was lost or is the wrong one.

    Attributes:
        lost: where cuts end tracks.
        wrong: where another face is seen far more often.
    """

    lost: str
    wrong: str


IN_PROJECT = Remedies(
    "Set crops.identity, as to foamliu, to follow the person over cuts.",
    "Set corpus.settings.face to centre or all, or give a picture of the person.",
)


def make_crops(
    manifest: Manifest,
    config: CropConfig,
    crops: Path,
    device: str | torch.device = "auto",
    redo: bool = False,
    told: Told | None = None,
    workers: int = 0,
    cluster: Cluster | None = None,
    remedies: Remedies = IN_PROJECT,
) -> Outcome:
    """Make the crops of all trials of a manifest, and show progress; warns of lost faces and of others seen more often. See `extract.engine.cropping.crop_trials` for the rest.

    Args:
        told: receives the progress; a progress bar by default.
        workers: processes that share the trials; 0 for one per core of a CPU, at most four, where there is enough to do.
        cluster: makes them instead, if any.
        remedies: what the warnings advise.
    """
    trials = croppable(manifest.trials)
    cropper = Cropper(manifest, config, crops_folder(crops, config), device, redo)
    if cluster is not None:
        outcome = _crop_in(cluster, cropper, trials)
        _warn(cropper, [trial for trial in trials if trial.id in outcome.computed], remedies)
        return outcome
    missing = [trial for trial in trials if redo or not (cropper.folder / f"{encode_trial_id(trial.id)}.zip").exists()]
    made = Outcome()
    total = sum(trial.clock.num_frames for trial in trials)
    with tell(told, "crops", total) as advance:
        groups = by_video(manifest, missing)
        if len(groups) > 1 and told is None and (workers := workers or _choose_workers(missing, device)) > 1:
            made = _share(cropper, groups, workers, advance)
        done = set(made.computed)
        left = [trial for trial in trials if trial.id not in done]
        outcome = cropper.crop(left, advance)
    outcome.add(replace(made, failures={}))  # those were tried again
    _warn(cropper, [trial for trial in trials if trial.id in outcome.computed], remedies)
    return outcome


def _warn(cropper: Cropper, trials: list[Trial], remedies: Remedies) -> None:
    """Say what is remarkable of new crops: the first trial, and how many more there are."""
    found: dict[str, list[str]] = {}
    for trial in trials:
        record = read_crop_record(cropper.folder / f"{encode_trial_id(trial.id)}.zip") or {}
        for kind, remark in remarks(trial, record).items():
            found.setdefault(kind, []).append(f"Trial '{trial.id}': {remark}")
    for kind, texts in found.items():
        more = f" ({len(texts) - 1} more trials likewise.)" if len(texts) > 1 else ""
        warn(f"{texts[0]} {getattr(remedies, kind)}{more}")


def remarks(trial: Trial, record: dict[str, Any]) -> dict[str, str]:
    """What is remarkable of a trial's crops, by the remedy that it takes; see `Remedies`."""
    present, elsewhere, other = (record.get(name, 0) for name in ("present", "elsewhere", "other"))
    found = {}
    if elsewhere:
        found["lost"] = (
            f"{record['cuts']} cuts end tracks, so the face is followed in one shot, {present} of {record['num_frames']} frames; "
            f"{elsewhere} frames of other shots show a face, and nobody knows whose."
        )
    if other >= _OFTEN * present and trial.face in ("largest", "centre") and other:
        found["wrong"] = f"another face is seen in {other} frames, the followed one ({trial.face}) in {present}."
    return found


def _crop_in(cluster: Cluster, cropper: Cropper, trials: list[Trial]) -> Outcome:
    """Make crops in the workers of a cluster."""

    def release(names: list[str], seat: Seat) -> None:
        held = [encode_trial_id(trial.id) for name in names for trial in groups[name]]
        free(cropper.folder, held, seat.node.host, seat.node.pid)

    groups = {group[0].id: group for group in by_video(cropper.manifest, trials)}
    items = [
        Item(name, group[0].clock.num_frames, [replace(trial, labels=None) for trial in group])
        for name, group in groups.items()
    ]
    bare = replace(cropper, manifest=replace(cropper.manifest, trials=()))
    shared = share(cluster, items, partial(_open_cropper, bare), "crops", str(cropper.device), release)
    outcome = join_outcomes(shared.results)
    outcome.failures |= {trial.id: why for name, why in shared.failures.items() for trial in groups[name]}
    return outcome


def _open_cropper(bare: Cropper, device: str) -> Runner:
    """What makes crops in a worker, which loads its networks once."""
    cropper = replace(bare, device=device)
    return lambda groups, told: cropper.crop([trial for group in groups for trial in group], partial(told, "crops"))


def _choose_workers(trials: list[Trial], device: str | torch.device) -> int:
    """How many processes pay; a GPU is shared by none."""
    if device_kind(device) != "cpu":
        return 1
    frames = sum(trial.clock.num_frames for trial in trials)
    return min(available_cores(), _MOST_WORKERS, len(trials), frames // _FRAMES_EACH)


def _share(cropper: Cropper, groups: list[list[Trial]], workers: int, advance: Callable[[int, str], None]) -> Outcome:
    """Make crops in several processes, those of one video in one of them; trials of a process that dies are left."""
    done = multiprocessing.get_context("spawn").Value("q", 0)
    make = partial(_Worker, cropper, max(1, available_cores() // workers), done)
    try:
        return join_outcomes(run_jobs(groups, make, workers, make(advance)))
    except BrokenProcessPool:
        warn("A process that made crops ended early, perhaps for want of memory; its trials are taken over.")
        return Outcome()


class _Worker:
    """Makes the crops of one video after another in a process; in this one, it also shows the progress of all."""

    def __init__(
        self, cropper: Cropper, threads: int, done: Any, advance: Callable[[int, str], None] | None = None
    ) -> None:
        self._cropper, self._threads, self._done, self._advance = cropper, threads, done, advance
        self._shown = 0

    def __call__(self, trials: list[Trial]) -> Outcome:
        with torch_threads(self._threads):
            outcome = self._cropper.crop(trials, waits=False)
        with self._done.get_lock():
            self._done.value += sum(trial.clock.num_frames for trial in trials)
            done = self._done.value
        if self._advance is not None:
            self._advance(done - self._shown, trials[0].id)
            self._shown = done
        return outcome


class _CropsDocument(Document):
    crops: Values
    trials: dict[str, dict[str, Any]]
    remarks: dict[str, list[str]]


def save_crops_receipt(manifest: Manifest, config: CropConfig, crops: Path, path: Path) -> None:
    """Write the receipt of finished crops: settings, digests and counts of every trial, and what is remarkable of some."""
    trials, said = {}, {}
    for trial in croppable(manifest.trials):
        record = read_crop_record(crops_folder(crops, config) / f"{encode_trial_id(trial.id)}.zip")
        assert record is not None
        trials[trial.id] = record
        if found := remarks(trial, record):
            said[trial.id] = [f"{text} {getattr(IN_PROJECT, kind)}" for kind, text in found.items()]
    paths.leave_folder(crops)
    write_document(path, _CropsDocument, {"crops": asdict(config), "trials": trials, "remarks": said}, sort_keys=True)
