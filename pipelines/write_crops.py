"""Stage `crops`: find, follow, align and store the face of every trial, once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cache.errors import AvFusionError
from cache.manifest import Manifest, Trial
from cache.names import encode_trial_id
from cache.receipt import write_text
from extract.crops import CropConfig, crops_are_current, read_crop_record, write_crops
from extract.engine import Outcome
from extract.executors import choose_device
from extract.faces import Detector, make_detector
from extract.likeness import Embedder, make_embedder, read_reference, reference_key
from extract.tracking import REFERENCE
from extract.video import sha256_file
from pipelines.console import progress
from pipelines.params import from_mapping


def crop_config(settings: dict[str, Any]) -> CropConfig:
    """Crop settings of `params.yaml`.

    Raises:
        SettingError: if one is unknown or of the wrong type.
    """
    return from_mapping(CropConfig, settings, "crops")


def make_crops(
    manifest: Manifest, trials: Sequence[Trial], config: CropConfig, crops: Path, device: str = "auto"
) -> Outcome:
    """Write what is missing of the trials' crops; trials that come with crops are left alone.

    Returns:
        What was computed, kept or failed.
    """
    outcome = Outcome()
    wanted = [trial for trial in trials if "crops" not in trial.media]
    folder = crops_folder(crops, config)
    detector: list[Detector] = []
    embedder: list[Embedder] = []
    with progress("crops", sum(trial.clock.num_frames for trial in wanted)) as advance:
        for trial in wanted:
            try:
                path = folder / f"{encode_trial_id(trial.id)}.zip"
                video = manifest.path(trial, "video")
                source = sha256_file(video)
                picture = manifest.path(trial, "face") if trial.face == REFERENCE else None
                if has_crops(manifest, trial, config, folder, source):
                    outcome.kept.append(trial.id)
                else:
                    detector = detector or [make_detector(config.faces, str(choose_device(device)))]
                    folder.mkdir(parents=True, exist_ok=True)
                    reference = None
                    if picture:
                        embedder = embedder or [make_embedder(config.reference_weights, str(choose_device(device)))]
                        similarity = config.reference_similarity
                        reference = read_reference(picture, detector[0], config.faces, embedder[0], similarity)
                    write_crops(
                        video,
                        trial.clock,
                        trial.face,
                        path,
                        config,
                        trial.id,
                        detector=detector[0],
                        source_digest=source,
                        reference=reference,
                    )
                    outcome.computed.append(trial.id)
                    outcome.frames += trial.clock.num_frames
            except AvFusionError as error:
                outcome.failures[trial.id] = str(error)
            advance(trial.clock.num_frames, trial.id)
    return outcome


def has_crops(manifest: Manifest, trial: Trial, config: CropConfig, folder: Path, source: str = "") -> bool:
    """Whether a trial's crops are finished and of these settings and this video (of digest `source`, else computed).

    Raises:
        MissingFileError: if the video, or the picture of the face to follow, is absent.
    """
    picture = manifest.path(trial, "face") if trial.face == REFERENCE else None
    face = reference_key(picture, config.reference_weights) if picture else trial.face
    source = source or sha256_file(manifest.path(trial, "video"))
    path = folder / f"{encode_trial_id(trial.id)}.zip"
    return crops_are_current(path, source, config.fingerprint(face), trial.clock)


def crops_folder(crops: Path, config: CropConfig) -> Path:
    """Where crops of these settings lie; other settings keep theirs."""
    return crops / config.fingerprint("any")[:16]


def save_crops_receipt(manifest: Manifest, config: CropConfig, crops: Path, path: Path) -> None:
    """Write the receipt of finished crops: settings and, per trial, digests and counts."""
    trials = {}
    for trial in manifest.trials:
        if "crops" not in trial.media:
            record = read_crop_record(crops_folder(crops, config) / f"{encode_trial_id(trial.id)}.zip")
            assert record is not None
            trials[trial.id] = record
    document = {"crops": asdict(config), "trials": trials}
    write_text(path, json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
