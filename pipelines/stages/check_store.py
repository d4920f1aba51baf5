"""Recompute a sample of trials, in the precision of their recipe, and compare them with the store."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cache.corpus.manifest import Manifest, Trial
from cache.places.folders import Where
from cache.recipe import differences
from cache.store.feature_sets import find_set
from cache.store.receipt import Receipt, open_receipt
from cache.store.store import FeatureStore
from cache.store.verification import Finding
from extract.backbones.contract import load_backbone
from extract.engine.cropping import crops_folder
from extract.engine.embedding import EngineOptions, extract_features
from pipelines.project import paths
from pipelines.project.finetuned import find_folds, resolve_weights
from pipelines.project.params import Params

TOLERANCE = 0.01
"""Largest allowed difference, as a share of the root mean square of the trial's embeddings.

Batch size, threads and device change the last bits, so bytes are never compared.
"""


def check_against_source(
    features: Where, params: Params, names: Sequence[str], number: int, seed: int
) -> list[Finding]:
    """Recompute some trials of each feature set from their media, in a temporary store; of each fold that has weights of its own.

    Args:
        features: folder of all features.
        params: the project's settings.
        names: feature sets.
        number: number of trials of each; all if there are fewer.
        seed: seed for choosing them.

    Raises:
        MissingFileError: if corpus or receipt are missing.
        StoreError: if the store differs from its receipt.
    """
    manifest = Manifest.load(paths.CORPUS)
    config = params.crops
    crops = crops_folder(paths.CROPS, config)
    findings = []
    wanted = [(name, fold) for name in params.feature_sets(names) for fold in find_folds(params, name)]
    for name, fold in wanted:
        section = params.extract[name]
        backbone = load_backbone(section.backbone, resolve_weights(params, name, fold), section.settings)
        where = str(find_set(features, name).receipt)
        store, receipt = open_receipt(where, fold)
        precision = str(receipt.recipe.settings.get("precision", "fp32"))
        asked = backbone.recipe(section.dtype, precision, backbone.input.upstream(manifest, config))
        if receipt.recipe != asked:
            text = f"params.yaml asks for features other than those of the receipt ({differences(receipt.recipe, asked)}); extract again"
            findings.append(Finding(where, receipt.recipe.fingerprint, "", text))
            continue
        trials = _sample(manifest, receipt, number, seed)
        with tempfile.TemporaryDirectory() as folder:
            fresh = FeatureStore.create(Path(folder) / "fresh.zarr", store.recipe)
            outcome = extract_features(backbone, fresh, manifest, trials, crops, EngineOptions(precision=precision))
            for trial in trials:
                if text := outcome.failures.get(trial.id) or _difference(store, fresh, trial.id):
                    findings.append(Finding(str(store.path), store.recipe.fingerprint, trial.id, text))
    return findings


def _sample(manifest: Manifest, receipt: Receipt, number: int, seed: int) -> list[Trial]:
    trials = [trial for trial in manifest.trials if trial.id in receipt.trials]
    chosen = random.Random(seed).sample(range(len(trials)), min(number, len(trials)))
    return [trials[i] for i in sorted(chosen)]


def _difference(store: FeatureStore, fresh: FeatureStore, trial_id: str) -> str:
    """How a stored trial differs from a fresh one; "" if it does not."""
    if store.record(trial_id).source != fresh.record(trial_id).source:
        return "its medium has changed since; extract again"
    kept = store.read(trial_id, check=True)
    made = fresh.read(trial_id)
    if not np.array_equal(kept.valid, made.valid):
        return (
            f"{int((kept.valid != made.valid).sum())} frames are valid in one and not in the other; extract with --redo"
        )
    ours = kept.embeddings.astype(np.float64)
    theirs = made.embeddings.astype(np.float64)
    scale = float(np.sqrt(np.mean(theirs**2)))
    worst = float(np.abs(ours - theirs).max())
    if worst <= TOLERANCE * scale or worst == 0:
        return ""
    return f"differs from a fresh computation by {worst / scale:.2g} of its root mean square, allowed is {TOLERANCE}; extract with --redo"
