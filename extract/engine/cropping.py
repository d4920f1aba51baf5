"""Crops of many trials; several processes can share the work through claims."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.errors import AvFusionError, CorpusError, SettingError, WeightsError
from cache.foreign import sha256_file
from cache.names import encode_trial_id
from cache.store.locks import claim, sweep
from extract.engine.claim_queue import ClaimQueue
from extract.engine.devices import choose_device
from extract.engine.outcome import Outcome
from extract.faces.crop_files import crops_are_current
from extract.faces.crops import EarlyCrops, Wanted, write_crops
from extract.faces.detection import Detector, make_detector
from extract.faces.finding import Keep, VideoFaces
from extract.faces.likeness import Embedder, Identity, read_reference, reference_key
from extract.faces.people import person_key, read_people
from extract.faces.settings import PERSON, REFERENCE, CropConfig
from extract.faces.tracking import Track

if TYPE_CHECKING:
    import torch

    from extract.backbones.contract import Backbone

IDENTITIES = {"foamliu": "mobilefacenet", "vggface2": "facenet"}
"""Weights that tell people apart → their backbone."""


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
        advance: called with the frames and the id of each trial that is finished, "" for one that was so before.

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


def by_video(manifest: Manifest, trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials of one video and clock together, which share its decoding and its search; each group where its first one is."""
    groups: dict[tuple[Path, FrameClock], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((manifest.path(trial, "video"), trial.clock), []).append(trial)
    return list(groups.values())


@dataclass(frozen=True)
class FaceNetworks:
    """The networks that find faces and tell people apart, as the settings of crops say; each is loaded when it is first needed.

    Attributes:
        config: settings of the crops.
        device: of the networks.
    """

    config: CropConfig
    device: str | torch.device

    @cached_property
    def detector(self) -> Detector:
        """Finds the faces of pictures."""
        return make_detector(self.config.faces, str(choose_device(self.device)))

    @cached_property
    def identity(self) -> Identity | None:
        """Tells whether two faces are of one person; None where `crops.identity` is off."""
        if not self.config.identity:
            return None
        return make_identity(self.config.identity, self.config.identity_similarity, str(choose_device(self.device)))

    @cached_property
    def embedder(self) -> Embedder:
        """Compares faces with a reference picture."""
        if self.config.reference_weights.startswith("random"):
            warnings.warn(
                "crops.reference_weights are random, so faces are matched with reference pictures at random. Set trained ones.",
                stacklevel=2,
            )
        return make_embedder(self.config.reference_weights, str(choose_device(self.device)))


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
    _sources: dict[Path, str] = field(default_factory=dict)

    def crop(
        self,
        trials: Sequence[Trial],
        advance: Callable[[int, str], None] = lambda frames, trial_id: None,
        waits: bool = True,
    ) -> Outcome:
        """As `crop_trials`; without `waits`, trials that another process works on are left out of the outcome."""
        outcome, made = Outcome(), set[str]()
        groups = by_video(self.manifest, croppable(trials))
        group_of = {trial.id: group for group in groups for trial in group}
        chosen = {trial.id: trial for group in groups for trial in group}
        frames = {trial_id: trial.clock.num_frames for trial_id, trial in chosen.items()}
        sweep(self.folder)
        if any(map(self._is_wanting, chosen.values())):
            _ = self._networks.identity  # weights that are missing are told once, not for every video

        def tell(trial_id: str, was_finished: bool) -> None:
            advance(frames[trial_id], "" if was_finished and trial_id not in made else trial_id)

        queue = ClaimQueue(self.folder, outcome, "crops", tell, waits=waits)
        queue.work(
            list(frames),
            lambda name: name in made or self._is_finished(chosen[name]),
            lambda name: made.update(self._make(chosen[name], group_of[name])),
        )
        together = [name for name in outcome.kept if name in made]
        outcome.kept = [name for name in outcome.kept if name not in made]
        outcome.computed += together
        outcome.frames = sum(frames[trial_id] for trial_id in outcome.computed)
        return outcome

    def _is_finished(self, trial: Trial) -> bool:
        return not self.redo and has_crops(self.manifest, trial, self.config, self.folder, self._source(trial))

    def _is_wanting(self, trial: Trial) -> bool:
        """Whether crops of a trial can be made and are not finished."""
        with suppress(AvFusionError):  # told when it is its turn
            return not self._is_finished(trial)
        return False

    def _make(self, trial: Trial, group: Sequence[Trial]) -> list[str]:
        """Make the crops of a trial, and of others of its video that no other process works on; returns their ids."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as claims:
            early = claims.enter_context(EarlyCrops(self.folder, trial.clock.num_frames, self.config))
            faces = self._faces(trial, early.keep)
            wanted = {trial.id: self._wanted(faces, trial)}
            for other in group:
                if other.id == trial.id or self._is_finished(other):
                    continue
                claimed = claim(self.folder, encode_trial_id(other.id))
                if claimed is not None:
                    claims.enter_context(claimed)
                    with suppress(AvFusionError):  # told when it is its own turn
                        wanted[other.id] = self._wanted(faces, other)
            try:
                write_crops(faces, list(wanted.values()), self._source(trial), self.config, early)
            except OSError as error:
                if isinstance(error, AvFusionError) or error.filename is not None:
                    raise
                path = wanted[trial.id].out_zip  # that of a full disk names no file
                raise OSError(error.errno, error.strerror, str(path)) from error
        return list(wanted)

    def _wanted(self, faces: VideoFaces, trial: Trial) -> Wanted:
        """Find the face of a trial in its video."""
        path = self.folder / f"{encode_trial_id(trial.id)}.zip"
        return Wanted(self._follow(faces, trial), path, _fingerprint(self.manifest, trial, self.config))

    def track(self, trial: Trial) -> Track:
        """Follow a trial's face."""
        return self._follow(self._faces(trial), trial)

    def _faces(self, trial: Trial, keep: Keep | None = None) -> VideoFaces:
        video, networks = self.manifest.path(trial, "video"), self._networks
        return VideoFaces(video, trial.clock, self.config.faces, networks.detector, trial.id, networks.identity, keep)

    def _follow(self, faces: VideoFaces, trial: Trial) -> Track:
        if trial.face.startswith(PERSON):
            return self._one_of_all(trial)
        if trial.face != REFERENCE:
            return faces.follow(trial.face)
        similarity, networks = self.config.reference_similarity, self._networks
        picture = self.manifest.path(trial, "face")
        return faces.follow(
            REFERENCE, read_reference(picture, networks.detector, self.config.faces, networks.embedder, similarity)
        )

    def _one_of_all(self, trial: Trial) -> Track:
        """The track of a person who was found when all of the video's were."""
        people = read_people(self.manifest.path(trial, "people"))
        number = int(trial.face.removeprefix(PERSON))
        if not 1 <= number <= len(people):
            raise CorpusError(
                f"Trial '{trial.id}' is person {number} of its video, which shows {len(people)}. Build the corpus again."
            )
        return Track(tuple(people[number - 1].tracklets), trial.clock.num_frames)

    def _source(self, trial: Trial) -> str:
        """sha256 of a trial's video, read once."""
        video = self.manifest.path(trial, "video")
        if video not in self._sources:
            self._sources[video] = sha256_file(video)
        return self._sources[video]

    @cached_property
    def _networks(self) -> FaceNetworks:
        return FaceNetworks(self.config, self.device)


def _fingerprint(manifest: Manifest, trial: Trial, config: CropConfig) -> str:
    """Fingerprint of the settings of a trial's crops.

    Raises:
        MissingFileError: if the picture of the face to follow is absent.
    """
    if trial.face.startswith(PERSON):
        return config.fingerprint(person_key(trial.face, manifest.path(trial, "people")))
    if trial.face == REFERENCE:
        return config.fingerprint(reference_key(manifest.path(trial, "face"), config.reference_weights))
    return config.fingerprint(trial.face)


def has_crops(manifest: Manifest, trial: Trial, config: CropConfig, folder: Path, source: str = "") -> bool:
    """Whether a trial's crops are complete and made from this video with these settings.

    `source` is the digest of the video, computed if empty.

    Raises:
        MissingFileError: if the video, or the picture of the face to follow, is absent.
    """
    settings = _fingerprint(manifest, trial, config)
    source = source or sha256_file(manifest.path(trial, "video"))
    path = folder / f"{encode_trial_id(trial.id)}.zip"
    return crops_are_current(path, source, settings, trial.clock)


def crops_folder(crops: Path, config: CropConfig) -> Path:
    """Folder of the crops with these settings; each combination of settings has its own."""
    return crops / config.fingerprint("any")[:16]


def make_embedder(weights: str, device: str = "cpu") -> Embedder:
    """Load FaceNet with a registered name or a path of weights.

    Raises:
        UnknownNameError: if the weights are unknown.
        WeightsError: if they do not fit or cannot be fetched.
    """
    from extract.backbones.contract import load_backbone

    return _embedder_of(load_backbone("facenet", weights), device)


def make_identity(weights: str, min_similarity: float, device: str = "cpu") -> Identity:
    """Load a network that tells people apart.

    Args:
        weights: one of IDENTITIES, or the path of weights of one of their backbones.
        min_similarity: cosine above which two faces count as one person's.
        device: of the network.

    Raises:
        SettingError: if the weights are not such a name, and no file.
        WeightsError: if they do not fit or cannot be fetched.
    """
    from extract.backbones.contract import load_backbone

    if weights in IDENTITIES:
        network = load_backbone(IDENTITIES[weights], weights)
    elif Path(weights).is_file():
        network = _load_any(weights)
    else:
        raise SettingError(
            f"crops.identity is '{weights}'; expected {', '.join(IDENTITIES)} or the path of weights. Check the path."
        )
    return Identity(_embedder_of(network, device), network.input.example(1).shape[1], min_similarity)


def _load_any(weights: str) -> Backbone:
    """The first of the backbones of IDENTITIES that weights in a file fit."""
    from extract.backbones.contract import load_backbone

    faults: dict[str, str] = {}
    for name in dict.fromkeys(IDENTITIES.values()):
        try:
            return load_backbone(name, weights)
        except WeightsError as error:
            faults[str(error)] = name
    if len(faults) == 1:
        raise WeightsError(f"crops.identity: {next(iter(faults))}")
    told = " ".join(f"{name}: {text}" for text, name in faults.items())
    raise WeightsError(f"crops.identity '{weights}' fits no network that tells people apart. {told}")


def _embedder_of(network: Backbone, device: str) -> Embedder:
    import torch

    network = network.to(device)

    def embed(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        return network.embed(torch.from_numpy(faces).to(device)).cpu().numpy()

    return embed
