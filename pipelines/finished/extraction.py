"""Crops and extractions of the project's corpus that have nothing to do, found without loading a network or reading media."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cache.corpus.manifest import Manifest
from cache.errors import AvFusionError
from cache.places.folders import LocalFolder, open_folder
from cache.store.feature_sets import locate_set
from cache.store.receipt import Receipt
from extract.weights.cards import weights_folder
from pipelines.console.console import warn
from pipelines.finished.state import Watch
from pipelines.project import paths
from pipelines.project.finetuned import find_folds, resolve_weights
from pipelines.project.params import Params
from pipelines.project.runs import Row


def warn_of_random(backbone: str, seed: int) -> None:
    """Warn of features that are good for nothing but a try."""
    warn(
        f"Backbone '{backbone}' has random weights (seed {seed}); its features are only good for trying out "
        "the pipeline. Set trained weights in params.yaml or with --weights."
    )


def watch_crops(params: Params) -> Watch | None:
    """The watch of the crops of the whole corpus; None where there is no corpus yet."""
    try:
        manifest = Manifest.load(paths.CORPUS)
    except AvFusionError:  # reported where it is needed
        return None
    reads = [*_corpus(manifest), Path(params.crops.reference_weights).expanduser(), weights_folder()]
    return Watch("crops", asdict(params.crops), reads, [paths.CROPS, paths.CROPS_RECEIPT])


def _corpus(manifest: Manifest) -> list[Path]:
    """The files of a manifest, and all media that it names."""
    root = manifest.root.expanduser()
    media = [root / medium for trial in manifest.trials for medium in trial.media.values()]
    return [paths.CORPUS / "manifest.json", paths.CORPUS / "labels.npy", *media]


def watch_sets(params: Params, names: Sequence[str], features: str, precision: str) -> dict[str, Watch]:
    """Feature set → the watch of its extraction over the whole corpus; none where that cannot be known.

    Args:
        params: of the project.
        names: feature sets, or "all".
        features: folder of all features; a URL cannot be watched.
        precision: of the networks.
    """
    if not isinstance(open_folder(features), LocalFolder):
        return {}
    try:
        manifest = Manifest.load(paths.CORPUS)
        return {name: _watch(params, manifest, name, features, precision) for name in params.feature_sets(names)}
    except AvFusionError:  # reported where it is needed
        return {}


def _watch(params: Params, manifest: Manifest, name: str, features: str, precision: str) -> Watch:
    section, place = params.extract[name], locate_set(features, name)
    weights = [Path(resolve_weights(params, name, fold)).expanduser() for fold in find_folds(params, name)]
    settings = [asdict(section), list(map(str, weights)), asdict(params.crops), precision, features]
    reads = [*_corpus(manifest), *weights, *(each.with_suffix(".lineage.json") for each in weights), weights_folder()]
    writes = [Path(str(place.store)), Path(str(place.receipt)), paths.CROPS, paths.CROPS_RECEIPT]
    return Watch(f"extract-{name}", settings, reads, writes)


def recall_rows(watches: Mapping[str, Watch], features: str) -> list[Row]:
    """The rows of a summary if none of some extractions has anything to do, with the warnings that belong to them; else nothing."""
    found: list[Row] = []
    for watch in watches.values():
        rows = watch.rows()
        if rows is None:
            return []
        found += rows
    for name in watches:
        recipe = Receipt.load(locate_set(features, name).receipt).recipe
        kind, _, seed = recipe.weights_sha256.partition(":")
        if kind == "random":
            warn_of_random(recipe.name, int(seed))
    return found


def keep_rows(watches: Mapping[str, Watch], rows: Sequence[dict[str, Any]]) -> None:
    """Note which extractions have finished.

    Args:
        watches: of feature sets.
        rows: those of the summary, of which a set may have several.
    """
    for name, watch in watches.items():
        own = [row for row in rows if row["features"] == name]
        done = [
            {**row, "computed": 0, "kept": row["computed"] + row["kept"], "frames": 0, "frames_per_s": 0} for row in own
        ]
        watch.keep(done)
