"""Crops of many trials; several processes can share the work through claims."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest, Trial
from cache.errors import AvFusionError
from cache.foreign import sha256_file
from cache.names import encode_trial_id
from cache.store.locks import sweep
from extract.engine.claim_queue import ClaimQueue
from extract.engine.devices import choose_device
from extract.engine.outcome import Outcome
from extract.faces.crops import crops_are_current, find_track, write_crops
from extract.faces.detection import Detector, make_detector
from extract.faces.likeness import Embedder, Reference, read_reference, reference_key
from extract.faces.settings import REFERENCE, CropConfig
from extract.faces.tracking import Track

if TYPE_CHECKING:
    import torch


def crop_trials(
    manifest: Manifest,
    trials: Sequence[Trial],
    config: CropConfig,
    crops: Path,
    device: str | torch.device = "auto",
    redo: bool = False,
    advance: Callable[[int, str], None] = lambda frames, trial_id: None,
) -> Outcome:
    """Write missing or damaged crops of the trials, or all of them; trials that come with crops are skipped.

    Several processes may do this at the same time: each claims the trials it works on, skips those that others hold, and
    waits for these at the end.

    Args:
        manifest: of the corpus.
        trials: the trials to finish.
        config: settings.
        crops: folder of crops, with a subfolder for each combination of settings.
        device: device of the detector.
        redo: whether to make finished crops again.
        advance: called with the frames and the id of each trial that is finished.

    Returns:
        The trials computed, kept (including those that another process made) or failed.
    """
    return Cropper(manifest, config, crops_folder(crops, config), device, redo).crop(trials, advance)


def track_face(manifest: Manifest, trial: Trial, config: CropConfig, device: str | torch.device = "auto") -> Track:
    """Follow the face that the crops of a trial show; arguments as of `crop_trials`.

    Raises:
        MediaError: as `extract.faces.crops.write_crops`.
    """
    return Cropper(manifest, config, Path(), device, False).track(trial)


def croppable(trials: Sequence[Trial]) -> list[Trial]:
    """Trials whose crops we make: those with a video and without crops of their own."""
    return [trial for trial in trials if "crops" not in trial.media and "video" in trial.media]


@dataclass(frozen=True)
class Cropper:
    """Makes crops of trials; loads its networks when it first needs them.

    Attributes:
        folder: of crops with these settings, see `crops_folder`.
        manifest, config, device, redo: see `crop_trials`.
    """

    manifest: Manifest
    config: CropConfig
    folder: Path
    device: str | torch.device
    redo: bool
    _sources: dict[str, str] = field(default_factory=dict)

    def crop(
        self,
        trials: Sequence[Trial],
        advance: Callable[[int, str], None] = lambda frames, trial_id: None,
        waits: bool = True,
    ) -> Outcome:
        """As `crop_trials`; without `waits`, trials that another process works on are left out of the outcome."""
        outcome = Outcome()
        chosen = {trial.id: trial for trial in croppable(trials)}
        frames = {trial_id: trial.clock.num_frames for trial_id, trial in chosen.items()}
        sweep(self.folder)
        queue = ClaimQueue(
            self.folder, outcome, "crops", lambda trial_id: advance(frames[trial_id], trial_id), waits=waits
        )
        queue.work(list(frames), lambda name: self._is_finished(chosen[name]), lambda name: self._make(chosen[name]))
        outcome.frames = sum(frames[trial_id] for trial_id in outcome.computed)
        return outcome

    def _is_finished(self, trial: Trial) -> bool:
        return not self.redo and has_crops(self.manifest, trial, self.config, self.folder, self._source(trial))

    def _make(self, trial: Trial) -> None:
        video = self.manifest.path(trial, "video")
        path = self.folder / f"{encode_trial_id(trial.id)}.zip"
        self.folder.mkdir(parents=True, exist_ok=True)
        source = self._source(trial)
        reference = self._reference(trial)
        try:
            write_crops(video, trial.clock, trial.face, path, self.config, trial.id, self._detector, source, reference)
        except OSError as error:
            if isinstance(error, AvFusionError) or error.filename is not None:
                raise
            raise OSError(error.errno, error.strerror, str(path)) from error  # that of a full disk names no file

    def track(self, trial: Trial) -> Track:
        """Follow a trial's face."""
        video = self.manifest.path(trial, "video")
        reference = self._reference(trial)
        return find_track(video, trial.clock, trial.face, self.config, trial.id, self._detector, reference)

    def _reference(self, trial: Trial) -> Reference | None:
        """The person to follow, if a picture says who."""
        if trial.face != REFERENCE:
            return None
        picture = self.manifest.path(trial, "face")
        similarity = self.config.reference_similarity
        return read_reference(picture, self._detector, self.config.faces, self._embedder, similarity)

    def _source(self, trial: Trial) -> str:
        """sha256 of a trial's video, read once."""
        if trial.id not in self._sources:
            self._sources[trial.id] = sha256_file(self.manifest.path(trial, "video"))
        return self._sources[trial.id]

    @cached_property
    def _detector(self) -> Detector:
        return make_detector(self.config.faces, str(choose_device(self.device)))

    @cached_property
    def _embedder(self) -> Embedder:
        if self.config.reference_weights.startswith("random"):
            warnings.warn(
                "crops.reference_weights are random, so faces are matched with reference pictures at random. Set trained ones.",
                stacklevel=2,
            )
        return make_embedder(self.config.reference_weights, str(choose_device(self.device)))


def has_crops(manifest: Manifest, trial: Trial, config: CropConfig, folder: Path, source: str = "") -> bool:
    """Whether a trial's crops are complete and made from this video with these settings.

    `source` is the digest of the video, computed if empty.

    Raises:
        MissingFileError: if the video, or the picture of the face to follow, is absent.
    """
    picture = manifest.path(trial, "face") if trial.face == REFERENCE else None
    face = reference_key(picture, config.reference_weights) if picture else trial.face
    source = source or sha256_file(manifest.path(trial, "video"))
    path = folder / f"{encode_trial_id(trial.id)}.zip"
    return crops_are_current(path, source, config.fingerprint(face), trial.clock)


def crops_folder(crops: Path, config: CropConfig) -> Path:
    """Folder of the crops with these settings; each combination of settings has its own."""
    return crops / config.fingerprint("any")[:16]


def make_embedder(weights: str, device: str = "cpu") -> Embedder:
    """Load FaceNet with a registered name or a path of weights.

    Raises:
        UnknownNameError: if the weights are unknown.
        WeightsError: if they do not fit or cannot be fetched.
    """
    import torch

    from extract.backbones.contract import load_backbone

    network = load_backbone("facenet", weights).to(device)

    def embed(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        return network.embed(torch.from_numpy(faces).to(device)).cpu().numpy()

    return embed
