"""The settings of fine-tuning; reading them does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from cache.settings import check_ranges, expected_one_of
from fusion.models import MODELS

RELEASES = ("together", "two-stage", "gradual")
BATCH_NORMS = ("frozen", "learn")
NORMALISATIONS = ("none", "dimension")
PRECISIONS = ("fp32", "bf16")

MEMORY = ("piece", "fronts_gb")
"""Settings that only say how much memory is used: other values give the same weights up to rounding (with dropout, up to which units
are dropped). As with the batch size of stage one, what is finished or was interrupted is kept when they change."""


@dataclass(frozen=True)
class ImageChanges:
    """Random changes of face crops, the same for all frames of a window unless said otherwise.

    Attributes:
        degrees: rotation by up to so many degrees to either side.
        shift: movement by up to this share of the side, in both directions.
        zoom: enlargement or shrinking by up to this share.
        jitter: brightness, contrast and saturation change by up to this share each [Karas2022, Section 4.1: in its code 0.2].
        flip: probability of a mirror image.
        crop: side of a square that is cut out at random and resized to what the backbone reads, as share of the side; 1 for
            none. Of a backbone that reads the centre of larger pictures, the share is of these: 0.8333 for the 40 of 48 pixels
            of [Zhang2023].
        per_frame: draw each frame's change by itself, as the code of [Karas2022] does.
    """

    degrees: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    jitter: float = 0.0
    flip: float = 0.0
    crop: float = 1.0
    per_frame: bool = False

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {"degrees": (0, 180), "shift": (0, 1), "zoom": (0, 0.9)}
        ranges |= {"jitter": (0, 1), "flip": (0, 1), "crop": (0.1, 1)}
        check_ranges("changes of images", self, ranges, {})

    @property
    def any(self) -> bool:
        """Whether anything changes."""
        return replace(self, per_frame=False) != ImageChanges()


@dataclass(frozen=True)
class SoundChanges:
    """Random changes of raw sound, of each frame's piece by itself.

    Attributes:
        noise: standard deviation of Gaussian noise [Karas2022, Section 4.1], of a full scale of 1.
        uniform_noise: upper end of uniform noise from 0; 0.01 in the authors' code.
        reverse: probability that a piece is played backwards; 0.1 in the authors' code.
        swap: probability that a piece takes the place of another frame's; 0.1 in the authors' code.
    """

    noise: float = 0.0
    uniform_noise: float = 0.0
    reverse: float = 0.0
    swap: float = 0.0

    def __post_init__(self) -> None:
        check_ranges("changes of sound", self, dict.fromkeys(("noise", "uniform_noise", "reverse", "swap"), (0, 1)), {})

    @property
    def any(self) -> bool:
        """Whether anything changes."""
        return self != SoundChanges()


@dataclass(frozen=True)
class FinetuneConfig:
    """How backbones are trained under a fusion model, beside the settings of training.

    Attributes:
        release: when weights are trained: "together" (all from the first step), "two-stage" (backbones after
            `frozen_epochs` epochs, from the best weights so far, at `released_lr`) [Karas2022, its code] or "gradual" (group
            after group whenever the plateau schedule is exhausted) [Zhang2023].
        frozen_epochs: two-stage: epochs of the fusion model alone, of those in `train.epochs`; the better stage is kept.
        released_lr: two-stage: learning rate afterwards.
        normalise: of trained backbones: "none" (the fusion model reads their rows as they are, as the papers' models do) or
            "dimension" (by mean and standard deviation of each dimension, measured once with the weights that training starts
            from). Of the other modalities, `train.normalise` says it.
        batch_norm: "frozen" (running statistics, which stay) or "learn" (statistics of the batch, also in frozen backbones, as
            in the papers' code).
        piece: items that a backbone computes at a time, for cards that a batch does not fit; 0 for all. The gradient is
            that of the whole batch.
        precision: of the backbones: fp32, or bf16 under autocast.
        clip: largest norm of the gradient of all weights; 0 for no limit.
        windows: training windows of an epoch at most, drawn at random; 0 for all. Where `train.reshuffle` is false, all epochs
            have the same ones.
        fronts_gb: gigabytes on disk, at most, for what the frozen front of a backbone makes of the fold's trials. It is computed
            once and shared by runs and folds; 0 computes it in every step.
        images: random changes of face crops.
        sound: random changes of raw sound.
    """

    release: str = "together"
    frozen_epochs: int = 15
    released_lr: float = 1e-4
    normalise: str = "none"
    batch_norm: str = "frozen"
    piece: int = 0
    precision: str = "fp32"
    clip: float = 0.0
    windows: int = 0
    fronts_gb: float = 20.0
    images: ImageChanges = field(default_factory=ImageChanges)
    sound: SoundChanges = field(default_factory=SoundChanges)

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {"frozen_epochs": (1, 1e9), "piece": (0, 1e9), "windows": (0, 1e9)}
        ranges |= {"released_lr": (1e-12, 1e3), "clip": (0, 1e9), "fronts_gb": (0, 1e9)}
        choices: dict[str, Any] = {"release": RELEASES, "batch_norm": BATCH_NORMS}
        choices |= {"normalise": NORMALISATIONS, "precision": PRECISIONS}
        faults = {}
        if self.batch_norm == "learn" and self.piece:
            faults["piece"] = f"is {self.piece}, expected 0 where batch norms learn from the whole batch"
        check_ranges("fine-tuning", self, ranges, choices, faults)


@dataclass(frozen=True, kw_only=True)
class FinetuneParams(FinetuneConfig):
    """One fine-tuning: a fusion model over some modalities, some of which are trained end to end.

    Attributes:
        model: name of a fusion model: see `avfusion list models`.
        modalities: the model's name for a modality → the feature set whose backbone, weights and settings it starts from.
        trained: modalities whose backbones are trained; all by default. The others are read from their features.
        settings: of the model's own `Config`.
        train: settings of the training loop that differ from those of `fusion.train`.
        seed: of everything drawn at random.
    """

    model: str
    modalities: dict[str, str]
    trained: tuple[str, ...] = ()
    settings: Any = field(default_factory=dict)
    train: Any = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        faults = {} if self.modalities else {"modalities": "is {}, expected at least one, as 'visual: mobilefacenet'"}
        for name in self.modalities:
            if not name.isidentifier():
                faults[f"modalities.{name}"] = "is not a word, expected letters, digits and '_'"
        for name in self.trained:
            if name not in self.modalities:
                faults["trained"] = f"names '{name}', {expected_one_of(name, self.modalities)}"
            elif self.trained.count(name) > 1:
                faults["trained"] = f"names '{name}' {self.trained.count(name)} times, expected each once"
        check_ranges("fine-tuning", self, {"seed": (0, 2**63 - 1)}, {"model": MODELS}, faults)

    @property
    def tuned(self) -> tuple[str, ...]:
        """The modalities whose backbones are trained."""
        return self.trained or tuple(self.modalities)
