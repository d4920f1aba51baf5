"""Stage `crops`: find, follow, align and store the face of every trial, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cache.documents import Document, Values, write_document
from cache.locks import sweep
from cache.manifest import Manifest, Trial
from cache.names import encode_trial_id
from extract.claim_queue import ClaimQueue
from extract.crop_records import read_crop_record
from extract.crops import CropConfig, crops_are_current, remove_unfinished, write_crops
from extract.devices import choose_device
from extract.faces import Detector, make_detector
from extract.likeness import Embedder, make_embedder, read_reference, reference_key
from extract.outcome import Outcome
from extract.tracking import REFERENCE
from extract.video import sha256_file
from pipelines import paths
from pipelines.console import Told, tell, warn


def make_crops(
    manifest: Manifest,
    trials: Sequence[Trial],
    config: CropConfig,
    crops: Path,
    device: str | torch.device = "auto",
    redo: bool = False,
    told: Told | None = None,
) -> Outcome:
    """Write what is missing or damaged of the trials' crops, or all; trials that come with crops are left alone.

    Several processes may do this at once: each claims the trials it works on, takes others in the meantime, and waits at
    the end for those that it did not get.

    Returns:
        What was computed, kept (also where another process made them) or failed.
    """
    outcome = Outcome()
    frames = {trial.id: trial.clock.num_frames for trial in _croppable(trials)}
    maker = _Maker(manifest, config, crops_folder(crops, config), device, redo)
    sweep(maker.folder)
    with tell(told, "crops", sum(frames.values())) as advance:
        queue = ClaimQueue(maker.folder, outcome, "crops", lambda trial_id: advance(frames[trial_id], trial_id))
        queue.work(list(frames), maker.is_finished, maker.make)
    outcome.frames = sum(frames[trial_id] for trial_id in outcome.computed)
    return outcome


def _croppable(trials: Sequence[Trial]) -> list[Trial]:
    """Trials whose crops we make: those with a video and without crops of their own."""
    return [trial for trial in trials if "crops" not in trial.media and "video" in trial.media]


@dataclass(frozen=True)
class _Maker:
    manifest: Manifest
    config: CropConfig
    folder: Path
    device: str | torch.device
    redo: bool
    sources: dict[str, str] = field(default_factory=dict)

    def is_finished(self, trial_id: str) -> bool:
        """Whether a trial's crops need not be made."""
        trial = self.manifest.trial(trial_id)
        return not self.redo and has_crops(self.manifest, trial, self.config, self.folder, self._source(trial))

    def make(self, trial_id: str) -> None:
        """Make a trial's crops."""
        trial = self.manifest.trial(trial_id)
        video = self.manifest.path(trial, "video")
        path = self.folder / f"{encode_trial_id(trial.id)}.zip"
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path)
        reference = None
        if trial.face == REFERENCE:
            picture, similarity = self.manifest.path(trial, "face"), self.config.reference_similarity
            reference = read_reference(picture, self._detector, self.config.faces, self._embedder, similarity)
        write_crops(
            video,
            trial.clock,
            trial.face,
            path,
            self.config,
            trial.id,
            detector=self._detector,
            source_digest=self._source(trial),
            reference=reference,
        )

    def _source(self, trial: Trial) -> str:
        """sha256 of a trial's video, read once."""
        if trial.id not in self.sources:
            self.sources[trial.id] = sha256_file(self.manifest.path(trial, "video"))
        return self.sources[trial.id]

    @cached_property
    def _detector(self) -> Detector:
        return make_detector(self.config.faces, str(choose_device(self.device)))

    @cached_property
    def _embedder(self) -> Embedder:
        if self.config.reference_weights.startswith("random"):
            warn("crops.reference_weights are random, so whom a reference picture shows is a guess. Set trained ones.")
        return make_embedder(self.config.reference_weights, str(choose_device(self.device)))


def has_crops(manifest: Manifest, trial: Trial, config: CropConfig, folder: Path, source: str = "") -> bool:
    """Whether a trial's crops are finished, whole, and of these settings and this video (of digest `source`, else computed).

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


class _CropsDocument(Document):
    crops: Values
    trials: dict[str, dict[str, Any]]


def save_crops_receipt(manifest: Manifest, config: CropConfig, crops: Path, path: Path) -> None:
    """Write the receipt of finished crops: settings and, per trial, digests and counts."""
    trials = {}
    for trial in _croppable(manifest.trials):
        record = read_crop_record(crops_folder(crops, config) / f"{encode_trial_id(trial.id)}.zip")
        assert record is not None
        trials[trial.id] = record
    paths.leave_folder(crops)
    write_document(path, _CropsDocument, {"crops": asdict(config), "trials": trials}, sort_keys=True)
