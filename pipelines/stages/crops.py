"""Stage `crops`: find, follow, align and store the face of every trial, once."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cache.corpus.manifest import Manifest
from cache.documents.documents import Document, Values, write_document
from cache.names import encode_trial_id
from extract.engine.cropping import crop_trials, croppable, crops_folder
from extract.engine.outcome import Outcome
from extract.faces.crop_records import read_crop_record
from extract.faces.crops import CropConfig
from pipelines.console.console import Told, tell
from pipelines.project import paths


def make_crops(
    manifest: Manifest,
    config: CropConfig,
    crops: Path,
    device: str | torch.device = "auto",
    redo: bool = False,
    told: Told | None = None,
) -> Outcome:
    """Make the crops of all trials of a manifest, and show progress; see `extract.engine.cropping.crop_trials`."""
    trials = manifest.trials
    with tell(told, "crops", sum(trial.clock.num_frames for trial in croppable(trials))) as advance:
        return crop_trials(manifest, trials, config, crops, device, redo, advance)


class _CropsDocument(Document):
    crops: Values
    trials: dict[str, dict[str, Any]]


def save_crops_receipt(manifest: Manifest, config: CropConfig, crops: Path, path: Path) -> None:
    """Write the receipt of finished crops: settings, and digests and counts of every trial."""
    trials = {}
    for trial in croppable(manifest.trials):
        record = read_crop_record(crops_folder(crops, config) / f"{encode_trial_id(trial.id)}.zip")
        assert record is not None
        trials[trial.id] = record
    paths.leave_folder(crops)
    write_document(path, _CropsDocument, {"crops": asdict(config), "trials": trials}, sort_keys=True)
