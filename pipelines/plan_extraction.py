"""What an extraction would do, how much that is and how long it takes; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import AvFusionError, FingerprintError, MissingFileError
from cache.manifest import Manifest, Trial
from cache.places import Where, replace_suffix
from cache.spec import FeatureSpec
from cache.store import FeatureStore
from extract.backbone import Backbone
from extract.crops import CropConfig
from extract.devices import choose_device, keep_big_buffers
from extract.engine import EngineOptions, is_current
from extract.faces import detect_faces, make_detector
from extract.inputs.contract import open_source
from extract.runtimes import check_running, make_executor
from extract.video import read_frames
from pipelines import paths
from pipelines.console import warn
from pipelines.extract_features import Selection, lacking, load_backbones, load_loose, loose_upstream
from pipelines.loose_media import by_name, loose_manifest, strangers
from pipelines.params import Params
from pipelines.write_crops import crops_folder, has_crops

PROBES = 2  # batches; the first one warms up
SEARCHED = 80  # frames in which faces are looked for


def plan_project(
    names: Sequence[str],
    params: Params,
    options: EngineOptions,
    selection: Selection,
    features: Where = paths.FEATURES,
) -> list[dict[str, Any]]:
    """One row per backbone of the project: trials to do and kept, frames, bytes, seconds.

    Raises:
        MissingFileError: if the corpus is not built.
    """
    whole, config = Manifest.load(paths.CORPUS), params.crops
    manifest = selection.of(whole)
    rows = []
    for backbone, how in load_backbones(names, params, options):
        upstream = backbone.input.upstream(whole, config)
        spec = backbone.spec(params.backbone(backbone.name).dtype, how.precision, upstream)
        rows.append(_plan(backbone, spec, manifest, {}, config, paths.CROPS, features, how))
    return rows


def plan_loose(
    weights: Mapping[str, str], media: Sequence[Path], out: Path, rate: Fraction | None, face: str,
    options: EngineOptions, selection: Selection,
) -> list[dict[str, Any]]:  # fmt: skip
    """As `plan_project`, for loose files.

    Raises:
        CorpusError: if two files have the same name.
        SettingError: if there is no such face.
    """
    manifest, unread = loose_manifest(selection.pick(by_name(media)), rate, face)
    unread |= {} if options.redo else strangers(manifest, out)
    manifest = replace(manifest, trials=tuple(trial for trial in manifest.trials if trial.id not in unread))
    config = CropConfig()
    rows = []
    for backbone, how in load_loose(weights, options):
        spec = backbone.spec("float16", how.precision, loose_upstream(backbone.input, manifest, config))
        faults = unread | lacking(manifest, backbone.input)
        rows.append(_plan(backbone, spec, manifest, faults, config, out / "crops", out, how))
    return rows


def _plan(
    backbone: Backbone, spec: FeatureSpec, manifest: Manifest, unread: dict[str, str], config: CropConfig, crops: Path,
    features: Where, options: EngineOptions,
) -> dict[str, Any]:  # fmt: skip
    place = replace_suffix(paths.receipt_path(features, backbone.modality, backbone.name), ".zarr")
    try:
        store = FeatureStore(place, spec.fingerprint)
    except (MissingFileError, FingerprintError):
        store = None
    folder = crops_folder(crops, config)
    states: dict[str, list[Trial]] = {"do": [], "crop": [], "kept": []}
    faults = dict(unread)
    for trial in (trial for trial in manifest.trials if trial.id not in faults):
        try:
            states[_state(backbone, store, manifest, trial, config, folder, options)].append(trial)
        except AvFusionError as error:
            faults[trial.id] = str(error)
    for trial_id, reason in sorted(faults.items()):
        warn(f"{backbone.name}: {trial_id}: {reason}")
    to_do = states["do"] + states["crop"]
    frames = sum(trial.clock.num_frames for trial in to_do)
    seconds = frames * seconds_per_frame(backbone, options) if frames else 0.0
    if states["crop"]:
        uncropped = sum(trial.clock.num_frames for trial in states["crop"])
        seconds += uncropped * seconds_per_search(manifest, states["crop"][0], config, options.device)
    return {
        "backbone": backbone.name,
        "fingerprint": spec.fingerprint[:12],
        "to_do": len(to_do),
        "without_crops": len(states["crop"]),
        "kept": len(states["kept"]),
        "unreadable": len(faults),
        "frames": frames,
        "megabytes": round(frames * spec.dim * np.dtype(spec.dtype).itemsize / 1e6, 1),
        "seconds": round(seconds, 1),
    }


def _state(
    backbone: Backbone, store: FeatureStore | None, manifest: Manifest, trial: Trial, config: CropConfig, folder: Path,
    options: EngineOptions,
) -> str:  # fmt: skip
    """What would happen to a trial: do, crop (make its crops first) or kept.

    Raises:
        AvFusionError: if it would fail.
    """
    of_videos = "crops" in backbone.input.media and "crops" not in trial.media and "video" in trial.media
    if of_videos and not has_crops(manifest, trial, config, folder):
        return "crop"
    digest = open_source(backbone.input, manifest, trial, folder).digest()
    if store is None or options.redo or not is_current(store.find_record(trial.id), digest, trial.clock):
        return "do"
    return "kept" if store.is_whole(trial.id) else "do"


def seconds_per_frame(backbone: Backbone, options: EngineOptions) -> float:
    """Seconds that a backbone takes for one frame, by a quick probe of two batches; reading it comes on top.

    Raises:
        SettingError: if the backbone cannot run as asked.
    """
    keep_big_buffers()
    device = check_running(backbone, options.device, options.runtime, options.precision, options.compiled)
    executor = make_executor(backbone, options.batch_size, device, options.runtime, options.precision, options.compiled)
    batch = backbone.input.example(options.batch_size)
    for _ in range(PROBES):
        start = time.perf_counter()
        executor.start(batch)()
    return (time.perf_counter() - start) / options.batch_size


def seconds_per_search(manifest: Manifest, trial: Trial, config: CropConfig, device: str) -> float:
    """Seconds that reading one frame and looking for faces takes, by the first ones of a trial; 0 where it cannot be read."""
    count = min(trial.clock.num_frames, SEARCHED)
    detector = make_detector(config.faces, str(choose_device(device)))
    start = time.perf_counter()
    try:
        frames = read_frames(manifest.path(trial, "video"), trial.clock, trial.id, max_side=config.faces.max_side)
        detect_faces(islice(frames, count), detector, config.faces, count)
    except AvFusionError:
        return 0.0
    return (time.perf_counter() - start) / count
