"""Say what an extraction would do, and estimate how long it would take, without writing anything."""

from __future__ import annotations

import time
from collections import deque
from itertools import islice
from typing import Any

import numpy as np

from cache.corpus.manifest import Trial
from cache.errors import AvFusionError, FingerprintError, MissingFileError
from cache.store.feature_sets import locate_set
from cache.store.store import FeatureStore
from extract.backbones.contract import Backbone
from extract.engine.cropping import has_crops
from extract.engine.devices import keep_big_buffers
from extract.engine.embedding import EngineOptions, is_current
from extract.engine.runtimes import check_running, make_executor
from extract.faces.detection import make_detector
from extract.faces.search import find_faces
from extract.inputs.contract import open_source
from extract.media.video import read_frames
from pipelines.console.console import warn
from pipelines.stages.request import Load, Request

PROBES = 2  # batches; the first one warms up
SEARCHED = 80  # frames to look for faces in


def plan(request: Request) -> list[dict[str, Any]]:
    """One row per feature set: numbers of trials to compute and to keep, frames, bytes, seconds."""
    return [_plan(request, request.load(name)) for name in request.job.sets]


def _plan(request: Request, load: Load) -> dict[str, Any]:
    recipe, name = load.recipe, load.name
    try:
        store = FeatureStore(locate_set(request.job.features, name).store, recipe.fingerprint)
    except (MissingFileError, FingerprintError):
        store = None
    states: dict[str, list[Trial]] = {"do": [], "crop": [], "kept": []}
    faults = dict(load.faults)
    for trial in (trial for trial in request.chosen.trials if trial.id not in faults):
        try:
            states[_state(request, load, store, trial)].append(trial)
        except AvFusionError as error:
            faults[trial.id] = str(error)
    for trial_id, reason in sorted(faults.items()):
        warn(f"{name}: {trial_id}: {reason}")
    to_do = states["do"] + states["crop"]
    frames = sum(trial.clock.num_frames for trial in to_do)
    seconds = frames * seconds_per_frame(load.backbone, load.options) if frames else 0.0
    if states["crop"]:
        uncropped = sum(trial.clock.num_frames for trial in states["crop"])
        seconds += uncropped * seconds_per_search(request, states["crop"][0])
    return {
        "features": name,
        "fingerprint": recipe.fingerprint[:12],
        "to_do": len(to_do),
        "without_crops": len(states["crop"]),
        "kept": len(states["kept"]),
        "unreadable": len(faults),
        "frames": frames,
        "megabytes": round(frames * recipe.dim * np.dtype(recipe.dtype).itemsize / 1e6, 1),
        "seconds": round(seconds, 1),
    }


def _state(request: Request, load: Load, store: FeatureStore | None, trial: Trial) -> str:
    """What would happen to a trial: "do", "crop" (make its crops first) or "kept"; raises if it would fail."""
    kind, manifest = load.backbone.input, request.chosen
    of_videos = "crops" in kind.media and "crops" not in trial.media and "video" in trial.media
    if of_videos and not has_crops(manifest, trial, request.job.config, request.crops):
        return "crop"
    digest = open_source(kind, manifest, trial, request.crops).digest()
    if store is None or load.options.redo or not is_current(store.find_record(trial.id), digest, trial.clock):
        return "do"
    return "kept" if store.is_whole(trial.id) else "do"


def seconds_per_frame(backbone: Backbone, options: EngineOptions) -> float:
    """Seconds that a backbone takes for one frame without reading it, measured on two batches.

    Raises:
        SettingError: if the backbone cannot run with these options.
    """
    keep_big_buffers()
    device = check_running(backbone, options.device, options.runtime, options.precision, options.compiled)
    executor = make_executor(backbone, options.batch_size, device, options.runtime, options.precision, options.compiled)
    batch = backbone.input.example(options.batch_size)
    for _ in range(PROBES):
        start = time.perf_counter()
        executor.start(batch)()
    return (time.perf_counter() - start) / options.batch_size


def seconds_per_search(request: Request, trial: Trial) -> float:
    """Seconds for reading a frame and detecting faces, measured on the start of a trial; 0 if it cannot be read."""
    count = min(trial.clock.num_frames, SEARCHED)
    config = request.job.config.faces
    detector = make_detector(config, str(request.options.device))
    start = time.perf_counter()
    try:
        video = request.chosen.path(trial, "video")
        frames = read_frames(video, trial.clock, trial.id, max_side=config.max_side)
        deque(find_faces(islice(frames, count), detector, config), maxlen=0)
    except AvFusionError:
        return 0.0
    return (time.perf_counter() - start) / count
