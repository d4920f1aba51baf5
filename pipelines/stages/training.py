"""Stage `train`: train every system in `params.yaml`, once per fold and seed, on stored features."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from cache.corpus.folds import Fold, load_folds, make_folds, save_folds
from cache.corpus.manifest import Manifest
from cache.documents.documents import write_file
from cache.errors import AvFusionError, CorpusError, MissingFileError, SettingError, with_full_stop
from cache.places.folders import Where, is_file
from cache.settings import expected_one_of
from cache.store.feature_sets import find_set, list_sets
from cache.store.receipt import Receipt, open_receipt
from cache.store.store import FeatureStore
from cache.targets import require_targets
from pipelines.console import trackers
from pipelines.console.console import note, progress, warn
from pipelines.project import networks, paths
from pipelines.project.corpus_files import load_corpus
from pipelines.project.finetuned import refuse_leak
from pipelines.project.jobs import available_cores, run_jobs
from pipelines.project.params import AUTO, FoldParams, FusionParams, SystemParams
from pipelines.project.partitions import choose_partition, say_unscored
from pipelines.project.runs import Digests, Job, Row, best_epoch, find_run, gather_history, read_history

if TYPE_CHECKING:
    from fusion.bank.bank import Bank
    from fusion.settings import TrainConfig
    from fusion.training.fitting import EpochRecord


def choose_folds(params: FoldParams, manifest: Manifest) -> tuple[Fold, ...]:
    """The folds to train.

    Raises:
        SettingError: if there is no fold with this number.
        AvFusionError: whatever dividing the corpus or reading a file of folds raises.
    """
    if params.path:
        folds = load_folds(Path(params.path), manifest)
    else:
        folds = make_folds(manifest, params.kind, params.count, params.seed, params.disjoint)
    if not -1 <= params.number < len(folds):
        raise SettingError(
            f"fusion.folds.number is {params.number}, expected 0 to {len(folds) - 1}, or -1 for all. Change params.yaml."
        )
    return folds if params.number == -1 else (folds[params.number],)


def open_stores(
    features: Where, modalities: Mapping[str, str], manifest: Manifest, fold: Fold
) -> dict[str, FeatureStore]:
    """The stores of a system's modalities, checked against their receipts and the manifest.

    Args:
        features: folder or URL of all features.
        modalities: the system's name for a modality → feature set.
        manifest: of the corpus.
        fold: whose features are wanted, where the weights behind them belong to folds.

    Raises:
        MissingFileError: if there is no such feature set, or a trial of the manifest is missing.
        FingerprintError: if a store differs from its receipt.
    """
    stores = {}
    for modality, name in modalities.items():
        path = find_set(features, name).receipt
        if not is_file(path):
            expected = expected_one_of(name, sorted({found.name for found in list_sets(features)}))
            raise MissingFileError(
                f"Modality '{modality}' of a system reads feature set '{name}', which does not exist (no '{path}'); "
                f"{with_full_stop(expected)} Run 'extract-features --backbone {name}', or import it with "
                "this name."
            )
        store, receipt = open_receipt(path, fold.index)
        absent = [trial.id for trial in manifest.trials if trial.id not in receipt.trials]
        if absent:
            raise MissingFileError(
                f"{len(absent)} of {len(manifest.trials)} trials are not in receipt '{path}' (first: '{absent[0]}'). "
                f"Run 'extract-features --backbone {name}'."
            )
        stores[modality] = store
    return stores


def refuse_leaks(
    systems: Mapping[str, SystemParams], folds: Sequence[Fold], manifest: Manifest, features: Where
) -> None:
    """Check that no fold keeps trials apart that the backbones behind a system's features have seen.

    Raises:
        LeakError: names the feature set, the fold and the first of these trials.
        StoreError: if a receipt is damaged.
    """
    for name in dict.fromkeys(name for system in systems.values() for name in system.modalities.values()):
        path = find_set(features, name).receipt
        if not is_file(path):  # reported where it is opened
            continue
        receipt = Receipt.load(path)
        for fold in folds:
            own = receipt.of_fold(fold.index)
            what = f"the backbone of feature set '{name}'"
            refuse_leak(own.recipe.provenance, fold, manifest, partial(_source_of, own), what)


def _source_of(receipt: Receipt, trial_id: str) -> str:
    """Digest of what the backbone read of a trial; "" if it is not in the receipt."""
    return receipt.trials[trial_id].source if trial_id in receipt.trials else ""


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
    shown = ("system", "fold", "seed", "targets", "epoch", *_ccc_columns(rows))
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
            while missing:
                done = run_jobs(missing, make, params.workers, make(advance))
                missing = [job for job, trained in zip(missing, done, strict=True) if not trained]
                if missing:
                    networks.wait_for([job.digest for job in missing])
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


class Banks:
    """The bank of a system's features in each fold, with all trials; folds of the same features share one."""

    def __init__(self, system: SystemParams, manifest: Manifest, params: FusionParams, features: Where) -> None:
        self._system, self._manifest, self._params, self._features = system, manifest, params, features
        self._made: tuple[list[str], Bank] | None = None

    def of_fold(self, fold: Fold) -> Bank:
        """The bank of a fold; the last one is kept."""
        stores = open_stores(self._features, self._system.modalities, self._manifest, fold)
        found = [store.recipe.fingerprint for store in stores.values()]
        if self._made is None or self._made[0] != found:
            self._made = found, self._load(stores)
        return self._made[1]

    def _load(self, stores: Mapping[str, FeatureStore]) -> Bank:
        from extract.engine.devices import choose_device
        from fusion.bank.bank import Bank

        trial_ids = [trial.id for trial in self._manifest.trials]
        device, memory_gb = str(choose_device(self._params.device)), self._params.bank.memory_gb
        ahead = self._params.workers * self._params.threads < available_cores()
        return Bank.from_stores(stores, self._manifest, trial_ids, device, memory_gb, ahead=ahead)


def _reduce(bank: Bank, system: SystemParams, manifest: Manifest, fold: Fold, features: Where) -> Bank:
    """The bank reduced to principal components of the fold's training trials, if the system asks for them."""
    if not system.pca:
        return bank
    from fusion.bank.projection import fit_projections

    stores = open_stores(features, system.modalities, manifest, fold)
    return bank.projected(fit_projections(stores, fold.train, system.pca))


class Runner:
    """Trains and saves networks one by one, and keeps the bank while system and fold stay the same."""

    def __init__(
        self,
        params: FusionParams,
        manifest: Manifest,
        features: Where,
        redo: bool = False,
        advance: Callable[[int, str], None] | None = None,
    ) -> None:
        from extract.engine.devices import keep_big_buffers

        keep_big_buffers()  # a step of a small model is 1.4 times as fast
        self._params, self._manifest, self._features, self._redo = params, manifest, features, redo
        self._advance = advance or (lambda steps, note: None)
        self._banks: tuple[str, Banks] | None = None
        self._reduced: tuple[str, Fold, Bank] | None = None

    def __call__(self, job: Job) -> bool:
        """Train and keep one network; false if another process is training it."""
        from extract.engine.devices import torch_threads

        with networks.claimed(job.digest) as ours:
            if not ours:
                return False
            if self._redo or not networks.is_kept(job.digest):  # another process may have just finished it
                with torch_threads(self._params.threads):
                    _train_one(job, self.choose_bank(job), self._advance, self._params.tracker)
            return True

    def choose_bank(self, job: Job) -> Bank:
        """The bank of a job's system, reduced to principal components of its fold if it asks for them."""
        if self._banks is None or self._banks[0] != job.name:
            self._banks = job.name, Banks(job.system, self._manifest, self._params, self._features)
        if self._reduced is None or self._reduced[:2] != (job.name, job.fold):
            bank = self._banks[1].of_fold(job.fold)
            reduced = _reduce(bank, job.system, self._manifest, job.fold, self._features)
            self._reduced = job.name, job.fold, reduced
        return self._reduced[2]


def _train_one(job: Job, bank: Bank, advance: Callable[[int, str], None], tracker: str) -> None:
    from fusion.training.trainer import train

    config, fold = job.config, job.fold
    moments = [perf_counter()]
    settings = {**asdict(job.system), "train": asdict(config)}
    with trackers.follow(tracker, job.folder(Path()).as_posix(), settings) as track:

        def tell(record: EpochRecord) -> None:
            moments.append(perf_counter())
            track(record.epoch, {"loss": record.loss, "lr": record.lr, "ccc": record.score, **_by_target(record)})
            advance(1, f"{job.name} fold {fold.index} seed {config.seed} CCC {record.score:.3f}")

        result = train(bank, fold, job.system.model, job.system.settings, config, tell)
    networks.keep(job.digest, result.checkpoint, history_rows(job.name, job.fold, job.config, result.history))
    networks.keep_seconds(job.digest, median(after - before for before, after in pairwise(moments)))
    advance(config.epochs - len(result.history), job.name)


def history_rows(name: str, fold: Fold, config: TrainConfig, history: Sequence[EpochRecord]) -> list[dict[str, Any]]:
    """The epochs of a run as rows of a table."""
    return [
        {
            "system": name,
            "fold": fold.index,
            "seed": config.seed,
            "targets": "+".join(config.targets),
            "epoch": record.epoch,
            "stage": record.stage,
            "lr": record.lr,
            "loss": record.loss,
            **_by_target(record),
            "ccc": record.score,
        }
        for record in history
    ]


def _by_target(record: EpochRecord) -> dict[str, float]:
    return {f"ccc_{target}": value for target, value in record.validation.items()}


def _ccc_columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """All columns of CCC in the rows, the mean last."""
    names = dict.fromkeys(key for row in rows for key in row if key.startswith("ccc_"))
    return [*names, "ccc"]


def write_history(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write epochs as a table for `dvc plots`; without any, only its header."""
    text = io.StringIO()
    columns = ["system", "fold", "seed", "targets", "epoch", "stage", "lr", "loss", *_ccc_columns(rows)]
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue().encode())
