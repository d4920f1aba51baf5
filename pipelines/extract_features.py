"""Stage `extract`: run backbones over a corpus, or over loose media, into feature stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from cache.errors import AvFusionError, CorpusError, TrialsFailedError
from cache.manifest import Manifest, Trial
from cache.receipt import Receipt
from cache.store import FeatureStore
from extract.backbone import Backbone, load_backbone
from extract.engine import EngineOptions, Outcome, extract_features
from extract.executors import keep_big_buffers
from extract.sources import media_clock
from pipelines import paths
from pipelines.build_corpus import build_corpus
from pipelines.console import progress, warn
from pipelines.params import BackboneParams, Params
from pipelines.write_crops import crop_config, crops_folder, make_crops, save_crops_receipt


@dataclass(frozen=True)
class Extraction:
    """One backbone over some trials: what became of them, and where the features are."""

    backbone: Backbone
    outcome: Outcome
    store: Path | str

    def row(self) -> dict[str, Any]:
        """As a row of the summary."""
        outcome = self.outcome
        return {
            "backbone": self.backbone.name,
            "fingerprint": self.backbone.spec().fingerprint[:12],
            "computed": len(outcome.computed),
            "kept": len(outcome.kept),
            "failed": len(outcome.failures),
            "frames": outcome.frames,
            "frames_per_s": round(outcome.frames / outcome.seconds) if outcome.computed else 0,
            "store": str(self.store),
        }


def extract_project(names: Sequence[str], params: Params, options: EngineOptions) -> list[Extraction]:
    """Extract every trial of the project's corpus; corpus and crops are made first where they are missing.

    Raises:
        TrialsFailedError: if a trial failed; all others are finished and kept.
    """
    manifest = Manifest.load(paths.CORPUS) if paths.CORPUS.exists() else build_corpus(params.corpus, paths.CORPUS)
    backbones = [_load(name, params.backbone(name)) for name in names]
    crops = None
    if any(backbone.source == "crops" for backbone in backbones):
        config = crop_config(params.crops)
        made = make_crops(manifest, manifest.trials, config, paths.CROPS, options.device)
        raise_failures("crops", made, paths.CROPS / "failures.json")
        save_crops_receipt(manifest, config, paths.CROPS, paths.CROPS_RECEIPT)
        crops = crops_folder(paths.CROPS, config)
    done = [_extract_one(b, params.backbone(b.name).dtype, manifest, crops, paths.FEATURES, options) for b in backbones]
    for extraction in done:
        receipt = paths.receipt_path(paths.FEATURES, extraction.backbone.modality, extraction.backbone.name)
        raise_failures(extraction.backbone.name, extraction.outcome, receipt.with_suffix(".failures.json"))
    return done


def extract_loose(
    names: Sequence[str], media: Sequence[Path], weights: str, out: Path, rate: Fraction, options: EngineOptions
) -> list[Extraction]:
    """Extract loose media files into `out`; a trial is named after its file.

    Raises:
        CorpusError: if two files have the same name.
        TrialsFailedError: if a file failed; all others are finished and kept.
    """
    backbones = [_load(name, BackboneParams(weights)) for name in names]
    manifest, unread = _loose_manifest(media, rate)
    done, config = [], crop_config({})
    for backbone in backbones:
        outcome = Outcome(failures=dict(unread))
        crops = None
        if backbone.source == "crops":
            made = make_crops(manifest, manifest.trials, config, out / "crops", options.device)
            outcome.failures |= made.failures
            crops = crops_folder(out / "crops", config)
        fit = Manifest(manifest.root, tuple(trial for trial in manifest.trials if trial.id not in outcome.failures))
        extraction = _extract_one(backbone, "float16", fit, crops, out, options, partial=True)
        extraction.outcome.failures |= outcome.failures
        done.append(extraction)
    for extraction in done:
        receipt = paths.receipt_path(out, extraction.backbone.modality, extraction.backbone.name)
        raise_failures(extraction.backbone.name, extraction.outcome, receipt.with_suffix(".failures.json"))
    return done


def raise_failures(what: str, outcome: Outcome, path: Path) -> None:
    """List failed trials in a file and refuse to go on; remove the file where none failed.

    Raises:
        TrialsFailedError: naming every failed trial.
    """
    if outcome.failures:
        path.parent.mkdir(parents=True, exist_ok=True)
    outcome.save_failures(path)
    if outcome.failures:
        total = len(outcome.failures) + len(outcome.computed) + len(outcome.kept)
        reasons = "\n".join(f"  {trial_id}: {reason}" for trial_id, reason in sorted(outcome.failures.items()))
        raise TrialsFailedError(
            f"{what}: {len(outcome.failures)} of {total} trials failed; the others are finished and kept. Mend them and run "
            f"again, only they are redone (list: '{path}').\n{reasons}"
        )


def _load(name: str, params: BackboneParams) -> Backbone:
    backbone = load_backbone(name, params.weights, params.settings)
    if backbone.weights.seed is not None:
        warn(
            f"Backbone '{name}' has random weights (seed {backbone.weights.seed}): its features are untrained, good for trying "
            "the pipeline only. Set trained weights in params.yaml or with --weights."
        )
    return backbone


def _extract_one(
    backbone: Backbone,
    dtype: str,
    manifest: Manifest,
    crops: Path | None,
    features: Path,
    options: EngineOptions,
    partial: bool = False,
) -> Extraction:
    keep_big_buffers()
    receipt = paths.receipt_path(features, backbone.modality, backbone.name)
    store = FeatureStore.create(receipt.with_suffix(".zarr"), backbone.spec(dtype))
    total = sum(trial.clock.num_frames for trial in manifest.trials)
    with progress(backbone.name, total) as advance:
        outcome = extract_features(
            backbone,
            store,
            manifest,
            manifest.trials,
            crops,
            options,
            lambda trial_id, frames: advance(frames, trial_id),
        )
    finished = outcome.computed + outcome.kept
    if partial or len(finished) == len(manifest.trials):
        Receipt.of(store, finished).save(receipt)
    else:
        receipt.unlink(missing_ok=True)
    return Extraction(backbone, outcome, store.path)


def _loose_manifest(media: Sequence[Path], rate: Fraction) -> tuple[Manifest, dict[str, str]]:
    names = [path.stem for path in media]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CorpusError(f"Two files are named '{twice[0]}'; a trial is named after its file. Rename one of them.")
    trials, unread = [], {}
    for path in media:
        try:
            clock = media_clock(path, rate)
        except AvFusionError as error:
            unread[path.stem] = str(error)
            continue
        place = path.resolve().as_posix()
        trials.append(Trial(path.stem, path.stem, "", clock, {"video": place, "audio": place}))
    return Manifest(Path("/"), tuple(trials)), unread
