"""Stage `train`: train every system in `params.yaml`, once per fold and seed, on stored features."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from cache.corpus.folds import Fold, load_folds, save_folds
from cache.corpus.manifest import Manifest
from cache.errors import AvFusionError, CorpusError, SettingError
from cache.places.folders import Where
from cache.targets import require_targets
from pipelines.console import trackers
from pipelines.console.console import note, progress, warn
from pipelines.project import networks, paths
from pipelines.project.corpus_files import load_corpus
from pipelines.project.jobs import run_jobs
from pipelines.project.params import AUTO, FusionParams
from pipelines.project.partitions import choose_partition, say_unscored
from pipelines.project.runs import Digests, Job, Row, best_epoch, find_run, gather_history, read_history
from pipelines.training.features import open_stores
from pipelines.training.folds import choose_folds, refuse_leaks
from pipelines.training.history import ccc_columns, write_history
from pipelines.training.runner import Runner


def train_systems(
    params: FusionParams,
    only: Sequence[str] = (),
    outputs: paths.Outputs = paths.PROJECT,
    features: Where = paths.FEATURES,
    redo: bool = False,
    partition: str = AUTO,
) -> list[Row]:
    """Train the systems: one run per fold and seed, each with one checkpoint, or one per target.

    Networks trained with the same settings, features, labels and code are kept (`pipelines.project.networks`), also across
    changes of settings, and simultaneous trainings share the work. Also writes the folds, and the history of all epochs of all systems.

    Args:
        params: section `fusion`.
        only: names of the systems to train; all by default.
        outputs: paths of checkpoints and history.
        features: folder or URL of all features.
        redo: whether to train finished networks again.
        partition: partition to be scored later; a warning before training says which folds have no labels in it.

    Returns:
        One row per network: system, fold, seed, targets, best epoch and its validation CCC.

    Raises:
        UnknownNameError: if a system of `only` is not in `params.yaml`.
        AvFusionError: whatever loading or training raises.
    """
    systems = params.pick(only)
    if not params.seeds or not params.systems:
        raise SettingError(
            "Section 'fusion' of params.yaml names no seeds or no systems; expected at least one of each."
        )
    manifest = load_corpus()
    folds = choose_folds(params.folds, manifest)
    _warn_of(partition, folds, manifest)
    configs = {
        name: [part for seed in params.seeds for part in replace(system.train, seed=seed).networks()]
        for name, system in systems.items()
    }
    refuse_leaks(systems, folds, manifest, features)
    jobs = [Job(n, systems[n], fold, config) for n in systems for fold in folds for config in configs[n]]
    rows = train_jobs(jobs, params, manifest, outputs.models, features, redo)
    _remove_other_runs(jobs, params, outputs.models, _are_saved(folds, outputs.models, manifest))
    save_folds(folds, outputs.models / "folds.json", manifest)
    write_history(outputs.history, gather_history(outputs.models, params.systems))
    shown = ("system", "fold", "seed", "targets", "epoch", *ccc_columns(rows))
    return [{key: row.get(key, "") for key in shown} for row in rows]


def train_jobs(
    jobs: Sequence[Job], params: FusionParams, manifest: Manifest, models: Path, features: Where, redo: bool
) -> list[Row]:
    """Train missing networks, or all; returns the epoch that each one kept, in the order of the jobs."""
    for job in jobs:
        require_targets(job.config.targets, manifest.targets, f"{job.name}.train.targets")
    digest = Digests(params, manifest, lambda names, fold: open_stores(features, names, manifest, fold))
    jobs = [replace(job, digest=digest(job)) for job in jobs]
    missing = [job for job in jobs if redo or not _is_there(job, models)]
    if len(missing) < len(jobs):
        note(f"{len(jobs) - len(missing)} of {len(jobs)} networks are trained already; --redo trains them again.")
    if missing:
        trackers.prepare(params.tracker)
        networks.take_over(models)
        with progress("training", sum(job.config.epochs for job in missing)) as advance:
            make = partial(Runner, params, manifest, features, redo)
            has_waited = False
            while missing:
                done = run_jobs(missing, make, params.workers, make(advance))
                missing = [job for job, trained in zip(missing, done, strict=True) if not trained]
                if missing:
                    networks.wait_for([job.digest for job in missing], is_told=has_waited)
                    has_waited = True
    for job in jobs:
        _name_network(job, models)
    return [{**best_epoch(read_history(job.folder(models))), "system": job.name} for job in jobs]


def _warn_of(partition: str, folds: Sequence[Fold], manifest: Manifest) -> None:
    """Warn before training of a partition that cannot be predicted or scored later."""
    try:
        said = say_unscored(choose_partition(partition, folds, manifest), folds, manifest)
    except CorpusError as error:
        said = f"{error} Until then 'evaluate-fusion' will fail."
    if said:
        warn(said)


def _is_there(job: Job, models: Path) -> bool:
    """Whether a job's network is kept, or the folder of its run has a copy, as after `dvc pull`."""
    if networks.is_kept(job.digest):
        return True
    damaged = networks.remove_damaged(job.digest)
    has_copy = find_run(job.folder(models), job.digest) is not None
    if damaged:
        then = f"the copy in '{job.folder(models)}' is used" if has_copy else "it is trained again"
        warn(f"The network in '{networks.place(job.digest)}' was damaged and has been removed; {then}.")
    return has_copy


def _name_network(job: Job, models: Path) -> None:
    """Put the network of a job into the folder of its run."""
    folder = job.folder(models)
    if networks.is_named(job.digest, folder) or find_run(folder, job.digest) is not None:
        return
    if job.config.per_target:
        for path in folder.parent.glob("*.*"):  # left by a network for all targets
            path.unlink(missing_ok=True)
    networks.name(job.digest, folder)


def _are_saved(folds: Sequence[Fold], models: Path, manifest: Manifest) -> bool:
    """Whether all existing runs were trained on these folds."""
    try:
        return tuple(load_folds(models / "folds.json", manifest)) == tuple(folds)
    except AvFusionError:
        return False


def _remove_other_runs(jobs: Sequence[Job], params: FusionParams, models: Path, same_folds: bool) -> None:
    """Delete runs of removed systems and other folds, and leftovers of current ones, once all networks are saved."""
    needed = {path for job in jobs for path in (job.folder(models), *job.folder(models).parents)}
    trained = {job.name for job in jobs}
    kept = params.systems if same_folds else trained
    gone = [path for path in models.iterdir() if path.is_dir() and path.name not in kept]
    for name in trained:
        for pattern in ("*", "*/*", "*/*/*"):
            gone += [path for path in (models / name).glob(pattern) if path.is_dir() and path not in needed]
    if gone:
        networks.take_over(models)
    for folder in gone:
        if folder.exists():  # it may have been removed with its parent
            shutil.rmtree(folder)
