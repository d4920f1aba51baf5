"""Stage `finetune`: backbones trained under a fusion model, once per fold, from the weights of feature sets."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cache.corpus.folds import Fold
from cache.corpus.manifest import Manifest
from cache.errors import AvFusionError
from cache.places.folders import Where
from cache.recipe import Seen, fingerprint
from cache.targets import require_targets
from extract.backbones.contract import Backbone, load_backbone
from extract.engine.cropping import crops_folder
from extract.engine.devices import choose_device, keep_big_buffers
from extract.engine.embedding import EngineOptions
from extract.inputs.contract import open_source
from extract.weights.finetuned import Lineage
from fusion.bank.bank import Bank
from fusion.settings import TrainConfig
from fusion.training import checkpoint
from pipelines.console import trackers
from pipelines.console.console import note, warn
from pipelines.console.watching import Shown
from pipelines.endtoend.checks import require_gradient, require_items
from pipelines.endtoend.fronts import Fronts
from pipelines.endtoend.items import ItemReader
from pipelines.endtoend.settings import MEMORY, FinetuneConfig, FinetuneParams
from pipelines.endtoend.state_file import StateFile
from pipelines.endtoend.training import Finetuned, finetune
from pipelines.project import paths
from pipelines.project.corpus_files import load_corpus
from pipelines.project.finetuned import (
    claimed,
    find_weights,
    fusion_folder,
    name_finetuning,
    place,
    refuse_leak,
    resolve_weights,
    run_folder,
    wait_for,
    weights_folder,
)
from pipelines.project.params import FeatureSetParams, Params
from pipelines.project.runs import (
    DOCUMENT,
    Digests,
    Row,
    best_epoch,
    digest_finetuning,
    find_run,
    save_run,
    say_changes,
)
from pipelines.stages.extraction import extract, raise_failed
from pipelines.stages.request import Selection, open_job, project_jobs
from pipelines.training.features import open_stores
from pipelines.training.folds import choose_folds, refuse_copies
from pipelines.training.history import history_rows


def finetune_all(
    params: Params,
    only: Sequence[str] = (),
    features: Where = paths.FEATURES,
    redo: bool = False,
    device: str = "auto",
    root: Path = paths.FINETUNED,
) -> list[Row]:
    """Run the fine-tunings of params.yaml, once per fold; what was made of just the same is kept.

    Args:
        params: all of params.yaml.
        only: names of fine-tunings; all by default.
        features: folder or URL of all features, of modalities whose backbones are not trained.
        redo: train again what is already there.
        device: auto, cpu, cuda or cuda:N.
        root: folder that names what was made, by links.

    Returns:
        One row per fine-tuning and fold: the epoch that it kept and its validation CCC.

    Raises:
        UnknownNameError: if there is no such fine-tuning, feature set or target.
        LeakError: if a fold keeps copies of trials apart that it learns from.
        AvFusionError: whatever loading or training raises.
    """
    chosen = params.pick_finetunings(only)
    manifest = load_corpus()
    for name, run in chosen.items():
        require_targets(run.train.targets, manifest.targets, f"finetune.{name}.train.targets")
    folds = choose_folds(params.fusion.folds, manifest)
    refuse_copies(folds, manifest)
    trackers.prepare(params.fusion.tracker)
    if not only:
        _forget_other_runs(root, params)
    rows = []
    for name, run in chosen.items():
        _extract_beside(params, run, features, device)
        for fold in folds:
            job = replace(_open(params, name, fold, manifest, features, device), root=root)
            rows.append({**best_epoch(_have(job, redo)), "system": name})
        _forget_other_folds(root / name, folds)
    return rows


def _have(job: _Job, redo: bool) -> list[Row]:
    """Have a fine-tuning, made now or before, by this process or another one; its history."""
    while True:
        with claimed(job.digest) as ours:
            if ours:
                if not redo and (history := _find_finished(job, job.folder) or _take_kept(job)) is not None:
                    note(
                        f"Fine-tuning '{job.name}' of fold {job.fold.index} is finished already; --redo trains it again."
                    )
                    return history
                if not redo and (fusion_folder(place(job.digest)) / DOCUMENT).exists():
                    warn(
                        f"What fine-tuning '{job.name}' left in '{place(job.digest)}' was damaged; it is trained again."
                    )
                elif not redo and (changed := say_changes(fusion_folder(job.folder), job.parts)):
                    note(
                        f"Fine-tuning '{job.name}' of fold {job.fold.index} is trained again, as these changed: {changed}."
                    )
                history = _finetune_one(job)
                name_finetuning(job.digest, job.folder)
                if job.run.release == "two-stage" and best_epoch(history)["stage"] == 0:
                    warn(
                        f"Fine-tuning '{job.name}' of fold {job.fold.index} was best in epoch {best_epoch(history)['epoch']}, before its "
                        "backbones were released: their weights are those that it started from. Try more epochs or another released_lr."
                    )
                return history
        wait_for(job.digest)
        redo = False


def _take_kept(job: _Job) -> list[Row] | None:
    """The history of the fine-tuning that was kept under its digest, which the run's folder now holds."""
    history = _find_finished(job, place(job.digest))
    if history is not None:
        name_finetuning(job.digest, job.folder)
    return history


def _forget_other_runs(root: Path, params: Params) -> None:
    """Remove the names of fine-tunings that params.yaml no longer has; what they name is kept."""
    for path in root.glob("*"):
        if path.is_dir() and path.name not in (*params.finetune, paths.SETS):
            shutil.rmtree(path)


def _forget_other_folds(run: Path, folds: Sequence[Fold]) -> None:
    """Remove the names of folds of another division; what they name is kept."""
    kept = {f"fold{fold.index}" for fold in folds}
    for path in run.glob("fold*"):
        if path.name not in kept:
            shutil.rmtree(path)


def _extract_beside(params: Params, run: FinetuneParams, features: Where, device: str) -> None:
    """Have the features of the modalities whose backbones are not trained."""
    names = {name for modality, name in run.modalities.items() if modality not in run.tuned}
    if names := names & params.extract.keys():
        for job in project_jobs(tuple(sorted(names)), params, EngineOptions(device=device), Selection(), features):
            raise_failed(extract(open_job(job)))


@dataclass(frozen=True)
class _Job:
    """One fine-tuning of one fold, ready to run.

    Attributes:
        backbones: modality → the backbone that is trained, with the weights that it starts from.
        readers: modality → what its backbone reads.
        bank: labels, and the features of the other modalities.
        parts: what decides the weights → its digest.
        root: folder that names it.
    """

    name: str
    run: FinetuneParams
    fold: Fold
    params: Params
    manifest: Manifest
    backbones: dict[str, Backbone]
    readers: dict[str, ItemReader]
    bank: Bank
    parts: Mapping[str, str] = field(default_factory=dict)
    root: Path = paths.FINETUNED

    @property
    def digest(self) -> str:
        """Digest of all that decides the weights."""
        return fingerprint(dict(self.parts))

    @property
    def folder(self) -> Path:
        """The folder that names it."""
        return run_folder(self.name, self.fold.index, self.root)

    @property
    def config(self) -> TrainConfig:
        """The settings of training, with the seed."""
        return replace(self.run.train, seed=self.run.seed)

    @property
    def how(self) -> dict[str, Any]:
        """The settings of fine-tuning as plain values."""
        known = asdict(self.run)
        return {each.name: known[each.name] for each in fields(FinetuneConfig)}

    def section(self, modality: str) -> FeatureSetParams:
        """The feature set that a modality starts from."""
        return self.params.extract[self.run.modalities[modality]]


def _open(params: Params, name: str, fold: Fold, manifest: Manifest, features: Where, device: str) -> _Job:
    run = params.finetune[name]
    params.feature_sets([run.modalities[modality] for modality in run.tuned])
    crops = crops_folder(paths.CROPS, params.crops)
    backbones = {}
    for modality in run.tuned:
        start = run.modalities[modality]
        section = params.extract[start]
        backbone = load_backbone(section.backbone, resolve_weights(params, start, fold.index), section.settings)
        read = partial(_digest_media, backbone, manifest, crops)
        what = f"the weights that finetune.{name} starts '{modality}' from"
        refuse_leak(backbone.recipe().provenance, fold, manifest, read, what)
        backbones[modality] = backbone
    trials = [manifest.trial(trial_id) for trial_id in (*fold.train, *fold.validate)]
    readers = {modality: ItemReader(each.input, manifest, trials, crops) for modality, each in backbones.items()}
    beside = {modality: each for modality, each in run.modalities.items() if modality not in backbones}
    stores = open_stores(features, beside, manifest, fold)
    chosen = str(choose_device(device))
    if stores:
        ids = [trial.id for trial in trials]
        bank = Bank.from_stores(stores, manifest, ids, chosen, params.fusion.bank.memory_gb)
    else:
        bank = Bank.of_labels(trials, manifest.targets, chosen)
    job = _Job(name, run, fold, params, manifest, backbones, readers, bank)
    return replace(job, parts=_digest(job, Digests(params.fusion, manifest, lambda names, fold: stores)))


def _digest_media(backbone: Backbone, manifest: Manifest, crops: Path | None, trial_id: str) -> str:
    """Digest of what a backbone reads of a trial; "" if that cannot be read."""
    try:
        return open_source(backbone.input, manifest, manifest.trial(trial_id), crops).digest()
    except AvFusionError:
        return ""


def _digest(job: _Job, digests: Digests) -> dict[str, str]:
    """Digests of all that decides the weights, apart from rounding: `pipelines.endtoend.settings.MEMORY` does not count."""
    trial_ids = (*job.fold.train, *job.fold.validate)
    beside = sorted(job.run.modalities.keys() - job.backbones.keys())
    document = {
        "model": [job.run.model, asdict(job.run.settings)],
        "training": asdict(job.config),
        "how": {name: value for name, value in job.how.items() if name not in MEMORY},
        "fold": asdict(job.fold),
        "start": {modality: _start(job, modality) for modality in sorted(job.backbones)},
        "media": {m: [reader.trial(each).digest for each in trial_ids] for m, reader in sorted(job.readers.items())},
        "features": {
            modality: digests.features(modality, job.run.modalities[modality], trial_ids, job.fold)
            for modality in beside
        },
        **digests.common(trial_ids),
        "code": digest_finetuning(job.run.model),
    }
    return {name: fingerprint({name: value}) for name, value in document.items()}


def _start(job: _Job, modality: str) -> str:
    """Fingerprint of the rows that a backbone makes before it is trained."""
    backbone = job.backbones[modality]
    return backbone.recipe(upstream=backbone.input.upstream(job.manifest, job.params.crops)).fingerprint


def _find_finished(job: _Job, folder: Path) -> list[Row] | None:
    """History of the fine-tuning in a folder, if it was made of just the same and is whole."""
    history = find_run(fusion_folder(folder), job.digest)
    if history is None:
        return None
    expected = checkpoint.load(fusion_folder(folder)).recipes
    try:
        for modality, backbone in job.backbones.items():
            path = find_weights(folder, modality)
            if path is None:
                return None
            found = load_backbone(backbone.name, str(path), job.section(modality).settings)
            if found.weights.sha256 != expected[modality].weights_sha256:
                return None
    except AvFusionError:  # damaged: it is trained again
        return None
    return history


def _finetune_one(job: _Job) -> list[Row]:
    keep_big_buffers()
    for modality, backbone in job.backbones.items():
        require_items(modality, job.readers[modality], job.fold)
        require_gradient(modality, backbone)
    state = place(job.digest) / "state"
    settings = {"model": job.run.model, "modalities": job.run.modalities, "train": asdict(job.config), **job.how}
    with (
        trackers.follow(job.params.fusion.tracker, f"finetune/{job.name}/fold{job.fold.index}", settings) as track,
        Shown(f"{job.name} fold {job.fold.index}", job.config.epochs, track) as watch,
    ):
        result = finetune(
            job.backbones,
            job.readers,
            job.bank,
            job.fold,
            job.run.model,
            job.run.settings,
            job.config,
            job.run,
            lambda number, batches: StateFile(state / f"{number}.pt", batches, watch.restore),
            watch,
            _fronts(job, watch),
        )
    rows = history_rows(job.name, job.fold, job.config, result.history)
    _save(job, result, rows)
    shutil.rmtree(state, ignore_errors=True)
    return rows


def _fronts(job: _Job, watch: Shown) -> Fronts:
    """Fronts of the fold's trials, which runs and folds share."""
    trials = [job.manifest.trial(trial_id) for trial_id in (*job.fold.train, *job.fold.validate)]
    return Fronts(
        paths.FRONTS, job.manifest, trials, lambda kind: kind.upstream(job.manifest, job.params.crops), watch.tell
    )


def _save(job: _Job, result: Finetuned, rows: Sequence[Row]) -> None:
    """Leave the weights of every trained backbone, the fusion model, and last the document that makes them finished."""
    bank = job.bank.select_targets(job.config.targets)
    recipes = dict(bank.recipes)
    for modality, backbone in result.backbones.items():
        path = backbone.cpu().save(weights_folder(place(job.digest)) / modality, _lineage(job, modality, backbone))
        section = job.section(modality)
        trained = load_backbone(backbone.name, str(path), section.settings)
        recipes[modality] = trained.recipe(
            section.dtype, upstream=trained.input.upstream(job.manifest, job.params.crops)
        )
    folder = fusion_folder(place(job.digest))
    checkpoint.Checkpoint(
        result.fusion.cpu(),
        result.moments,
        recipes,
        job.fold,
        job.config,
        result.history[result.best_epoch].validation,
        {"torch": str(torch.__version__)},
        bank.targets,
        reading=result.reading,
        fitted=result.fitted,
    ).save(folder)
    save_run(folder, job.digest, rows, job.parts)


def _lineage(job: _Job, modality: str, backbone: Backbone) -> Lineage:
    before, reader = backbone.recipe().provenance, job.readers[modality]

    def seen(trial_ids: Sequence[str]) -> set[Seen]:
        return {Seen(each, job.manifest.trial(each).labels_digest, reader.trial(each).digest) for each in trial_ids}

    training = {
        "model": job.run.model,
        "settings": asdict(job.run.settings),
        "training": asdict(job.config),
        "how": job.how,
    }
    return Lineage(
        backbone.name,
        backbone.settings(),
        before.origin,
        before.licence,
        (backbone.weights.sha256, *before.parents),
        tuple(sorted({*before.trials, *seen(job.fold.train)})),
        tuple(sorted({*before.selection, *seen(job.fold.validate)})),
        training,
    )
