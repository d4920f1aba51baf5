"""What the page shows of each trial: labels and predictions over time, what was missing, and faces.

The page stays small: `MOST_TRIALS`, `MOST_NUMBERS` and `MOST_FACES` bound it, about 9 MB beside the plotting library.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest, Trial
from cache.errors import AvFusionError
from cache.places.folders import Where
from cache.store.feature_sets import find_set
from cache.store.receipt import Receipt, open_receipt
from cache.store.records import invalid_runs
from cache.targets import Target
from extract.engine.cropping import crops_folder
from extract.faces.crop_files import CropReader
from extract.inputs.images import crops_path
from pipelines.console.escaping import printable
from pipelines.project import paths
from pipelines.project.params import Params
from pipelines.report.predictions import Predicted

MOST_TRIALS = 300
MOST_NUMBERS = 1_500_000  # of all labels and predictions; beyond it every n-th frame is shown
MOST_POINTS = 2000  # of one trial
MOST_FACES = 1200  # of all trials
MOST_FACES_OF_TRIAL = 24
_SIDE = 64  # of a face, pixels
_QUALITY = 75
_SCALE = 10_000  # of half a target's range
_UNKNOWN = -32768

Missing = Mapping[str, Mapping[str, NDArray[np.bool_]]]
"""Modality → trial id → (T,) true where no feature set of it saw anything."""


def find_missing(params: Params, features: Where, trials: Sequence[Trial]) -> tuple[Missing, dict[str, Receipt]]:
    """Where the features that the systems read saw nothing, and the receipts of these and of the matrix: set → receipt.

    Feature sets that cannot be read are left out; the stages that need them say why.
    """
    own, compared = (
        [name for system in section.systems.values() for name in system.modalities.values()] if section else []
        for section in (params.fusion, params.matrix)
    )
    missing: dict[str, dict[str, NDArray[np.bool_]]] = {}
    receipts = {}
    for name in dict.fromkeys([*own, *compared]):
        try:
            store, receipt = open_receipt(find_set(features, name).receipt)
            records = store.find_records([trial.id for trial in trials])
        except AvFusionError:
            continue
        receipts[name] = receipt
        if name not in own:
            continue
        of_modality = missing.setdefault(receipt.recipe.modality, {})
        for trial_id, record in records.items():
            unseen = ~record.valid
            of_modality[trial_id] = of_modality[trial_id] & unseen if trial_id in of_modality else unseen
    return missing, receipts


def choose_trials(errors: Sequence[Sequence[Sequence[float | None]]]) -> list[int]:
    """Which trials are shown: all, or of `MOST_TRIALS` a third the worst, a third the best, and a third evenly between them.

    Args:
        errors: those of `page_tables.errors` by trial; what counts is their mean over systems. Trials without any count as the best.

    Returns:
        Their places, in order.
    """
    count = len(errors[0]) if errors else 0
    if count <= MOST_TRIALS:
        return list(range(count))
    known = np.array([[row[-2] for row in rows] for rows in errors], float)
    means = np.nansum(known, axis=0) / np.maximum(np.isfinite(known).sum(axis=0), 1)
    ranks = np.argsort(-means, kind="stable")
    third = MOST_TRIALS // 3
    between = np.linspace(third, count - third - 1, MOST_TRIALS - 2 * third).round().astype(int)
    return sorted(int(place) for place in ranks[[*range(third), *between, *range(count - third, count)]])


def make_timelines(
    predicted: Predicted, places: Sequence[int], missing: Missing, manifest: Manifest, params: Params
) -> list[dict[str, Any]]:
    """The trials at these places, as JSON values of the page.

    Each has `id`, `subject`, `frames`, `rate`, `step` (every so many frames are shown), `times` of these frames (the first one and
    the interval, seconds; all where intervals vary), `lines` (first the label, then the systems; None for one without a prediction), `missing` (modality → runs in
    seconds), and `faces` (pairs of a time and a JPEG).
    """
    chosen = [predicted.trials[place] for place in places]
    if not chosen:
        return []
    most = MOST_NUMBERS // (len(chosen) * len(predicted.targets) * (1 + len(predicted.systems)))
    points = max(100, min(MOST_POINTS, most))
    faces = min(MOST_FACES_OF_TRIAL, MOST_FACES // len(chosen))
    made = []
    for trial, predictions in chosen:
        step = -(-trial.clock.num_frames // points)
        edges = trial.clock.edges_s()
        lines = [trial.labels, *(predictions.get(name) for name in predicted.systems)]
        made.append(
            {
                "id": printable(trial.id, keep=""),
                "subject": printable(trial.subject, keep=""),
                "frames": trial.clock.num_frames,
                "rate": round(trial.clock.rate_hz, 3),
                "step": step,
                "times": _times(edges[:-1:step]),
                "lines": [None if line is None else _encode(line[::step], predicted.targets) for line in lines],
                "missing": {
                    modality: [[round(float(edges[start]), 3), round(float(edges[stop]), 3)] for start, stop in runs]
                    for modality, of_trials in missing.items()
                    if trial.id in of_trials and (runs := invalid_runs(~of_trials[trial.id]))
                },
                "faces": _faces(trial, manifest, params, faces),
            }
        )
    return made


def _times(times: NDArray[np.float64]) -> list[float]:
    """The first time and the interval, seconds; all times where intervals vary."""
    interval = float(times[-1] - times[0]) / max(len(times) - 1, 1)
    even = times[0] + interval * np.arange(len(times))
    if len(times) != 2 and np.abs(even - times).max() < 1e-3:
        return [round(float(times[0]), 6), interval]
    return [round(float(time), 3) for time in times]


def _encode(values: NDArray[np.float32], targets: Sequence[Target]) -> str:
    """Values (T, C) as 16-bit integers, little-endian, target after target, in base64; those of the page's script."""
    middle = np.array([target.middle for target in targets])
    half = np.array([target.half for target in targets])
    scaled = np.round((values - middle) / half * _SCALE)
    known = np.isfinite(scaled)
    numbers = np.where(known, np.clip(np.where(known, scaled, 0), -32767, 32767), _UNKNOWN).astype("<i2")
    return base64.b64encode(numbers.T.tobytes()).decode("ascii")


def _faces(trial: Trial, manifest: Manifest, params: Params, count: int) -> list[tuple[float, str]]:
    """Some faces of a trial, evenly over the frames that have one; none where there are no crops."""
    try:
        reader = CropReader(crops_path(manifest, trial, crops_folder(paths.CROPS, params.crops)), trial.clock, trial.id)
        places = np.linspace(0, max(len(reader.frames) - 1, 0), count).round().astype(int)
        frames = reader.frames[np.unique(places)] if len(reader.frames) else reader.frames
        pictures = reader.read(frames, _SIDE)
    except AvFusionError:
        return []
    times = trial.clock.times_s()
    return [(round(float(times[frame]), 3), _jpeg(picture)) for frame, picture in zip(frames, pictures, strict=True)]


def _jpeg(picture: NDArray[np.uint8]) -> str:
    content = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), _QUALITY, "RGB", "420")
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode('ascii')}"
