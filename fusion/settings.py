"""The settings of a training run, and checks shared by the settings of fusion models.

Losses, optimisers, schedules and activations are lazy paths, so that reading settings does not import torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cache.errors import SettingError
from cache.settings import Faults, check_ranges, expected_one_of
from cache.windows import TAILS

LOSSES = {
    "batch": "fusion.scores.losses:ccc_loss",
    "window": "fusion.scores.losses:windowed_ccc_loss",
}

LOSS_KINDS = dict.fromkeys(LOSSES, "continuous")
"""Loss → the kind of target that it is for."""

OPTIMIZERS = {
    "adam": "torch.optim:Adam",
    "adamw": "torch.optim:AdamW",
}

SCHEDULES = {
    "constant": "fusion.training.schedule:Constant",
    "cosine": "fusion.training.schedule:CosineRestarts",
    "plateau": "fusion.training.schedule:Plateau",
}

CLASS_WEIGHTINGS = {
    "paper": "fusion.scores.losses:published_class_weights",
    "training": "fusion.scores.losses:balanced_class_weights",
}


NORMALISATIONS = ("dimension", "scalar", "none")
CCC_MOMENTS = ("lin", "n-1")

ACTIVATIONS = {
    "gelu": "torch.nn:GELU",
    "relu": "torch.nn:ReLU",
    "selu": "torch.nn:SELU",
}


def check_branches(
    name: str, config: Any, ranges: Mapping[str, tuple[float, float]], choices: Mapping[str, Any]
) -> None:
    """Check settings of temporal branches (`channels`, `channels_of`, `kernel`, `dropout`) and a model's own, for its `__post_init__`.

    Raises:
        SettingError: if a number is outside its range or a modality has no level.
    """
    branches: dict[str, tuple[float, float]] = {"kernel": (1, 255), "dropout": (0, 1)}
    named = {f"channels_of.{modality}": widths for modality, widths in getattr(config, "channels_of", {}).items()}
    faults = {
        key: f"is {list(widths)}, expected 1 to 12 widths of 1 to 65536"
        for key, widths in {"channels": config.channels, **named}.items()
        if not 1 <= len(widths) <= 12 or not all(1 <= width <= 65536 for width in widths)
    }
    check_ranges(f"model '{name}'", config, {**branches, **ranges}, choices, faults)


def unknown_names(given: Mapping[str, Any], own: Collection[str], known: Collection[str]) -> Faults:
    """Settings of a model that name an unknown modality, as `{"leader": "is …"}`.

    Args:
        given: the settings that the user wrote; defaults may name modalities that a system lacks.
        own: names of the system's modalities; its leader must be one of them.
        known: names of the modalities of all systems, which may share settings.
    """
    pairs = [f"{source}_to_{target}" for source in known for target in known if source != target]
    faults = {}
    for key, names in {"channels_of": known, "n_cross_of": pairs}.items():
        named = given.get(key)
        for name in named if isinstance(named, dict) else ():
            if name not in names:
                faults[f"{key}.{name}"] = f"names a modality that no system has; {expected_one_of(str(name), names)}"
    if given.get("leader") and given["leader"] not in own:
        faults["leader"] = f"is {given['leader']!r}, {expected_one_of(str(given['leader']), own)}"
    return faults


@dataclass(frozen=True)
class TrainConfig:
    """How a fusion model is trained; the defaults are those of the recurrent model in [Karas2022, Table 4].

    Attributes:
        targets: what is predicted, in this order; names of label columns.
        per_target: train one network per target [Zhang2023] instead of one for all targets.
        epochs: at most this many passes over the training windows.
        patience: stop after this many epochs in a row without a better validation CCC; by default 8, or 50 with the
            plateau schedule, as in the authors' code ([Zhang2023] itself says 20).
        stop_before_release: let patience end a run while groups of weights still wait to be released.
        batch_size: windows per optimiser step.
        window: frames per window.
        hop: frames between the starts of windows.
        dilation: training windows keep one frame in this many; validation always keeps all.
        tail: what happens to the frames after the last whole training window: align, pad or drop.
        drop_unseen: leave out the frames that are not valid in one of these modalities, and those without any label, before
            windows are cut, in training and validation [Karas2022's code]: a window then is so many of the frames that are
            left, with gaps in time inside. Prediction needs no labels, and repeats the last value where a frame was left out.
            Names that a system lacks have no effect there.
        reshuffle: draw a new order of windows for every epoch; otherwise they are shuffled once [Zhang2023's code].
        masked: ignore the padding of short windows; otherwise it is ordinary input (embeddings of zero before
            normalisation) and counts in the loss with targets 0 [Zhang2023's code].
        normalise: how embeddings are normalised with the moments of the training trials: each "dimension" by its own mean and
            standard deviation, by one "scalar" pair for all of them, or "none". [Karas2022] and [Zhang2023] read the outputs of
            their visual and acoustic backbones as they are, [Zhang2023] text by one pair; this changes effective learning rates.
        normalise_of: modality → the same, where it differs.
        ccc: moments of the CCC in the loss: "lin" (population moments [Lin1989]) or "n-1" (covariance divided by N, variances by
            N - 1, as in the code of [Karas2022] and [Zhang2023]).
        loss: compute the CCC over each "batch" [Karas2022] or each "window" [Zhang2023].
        lambda_mse: weight of the mean squared error.
        lambda_ce: weight of the cross-entropy over the 24 polar classes; by default 0.88 for models with that head and 0
            for others, which accept only 0.
        class_weights: of that cross-entropy: "paper", or "training" for the inverse frequency in the training labels.
        optimizer: adam (weight decay added to the gradient) or adamw (decoupled).
        lr: learning rate.
        weight_decay: weight decay of the optimiser.
        schedule: how the learning rate moves: constant, cosine [Karas2022] or plateau [Zhang2023].
        restart_steps: cosine: optimiser steps from one warm restart to the next.
        warmup_epochs: plateau: number of epochs at the start of each stage during which the rate climbs from 0 to `lr`,
            starting over in each epoch.
        legacy_warmup: plateau: climb from 0 towards lr (r + 1) / 25 in epoch r, as the published code does.
        plateau_patience: plateau: the rate is cut after more than this many epochs without a better validation CCC.
        plateau_factor: plateau: each cut multiplies the rate by this.
        min_lr: plateau: below this rate the next group of weights is released; without one the run ends.
        seed: of weights, dropout and order of windows.
    """

    targets: tuple[str, ...] = ("valence", "arousal")
    per_target: bool = False
    epochs: int = 30
    patience: int | None = None
    stop_before_release: bool = False
    batch_size: int = 64
    window: int = 16
    hop: int = 16
    dilation: int = 1
    tail: str = "align"
    drop_unseen: tuple[str, ...] = ()
    reshuffle: bool = True
    masked: bool = True
    normalise: str = "dimension"
    normalise_of: dict[str, str] = field(default_factory=dict)
    ccc: str = "lin"
    loss: str = "batch"
    lambda_mse: float = 0.84
    lambda_ce: float | None = None
    class_weights: str = "paper"
    optimizer: str = "adamw"
    lr: float = 2e-4
    weight_decay: float = 0.023
    schedule: str = "cosine"
    restart_steps: int = 200
    warmup_epochs: int = 5
    legacy_warmup: bool = False
    plateau_patience: int = 5
    plateau_factor: float = 0.1
    min_lr: float = 1e-8
    seed: int = 0

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {"seed": (0, 2**63 - 1), "lr": (1e-12, 1e3)}
        ranges |= dict.fromkeys(
            ("epochs", "patience", "batch_size", "window", "hop", "dilation", "restart_steps"), (1, 1e9)
        )
        ranges |= dict.fromkeys(("lambda_mse", "lambda_ce", "weight_decay", "min_lr"), (0, 1e9))
        ranges |= {"warmup_epochs": (0, 1e9), "plateau_patience": (0, 1e9), "plateau_factor": (1e-9, 0.999)}
        choices: dict[str, Any] = {"tail": TAILS, "loss": LOSSES, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}
        choices |= {"class_weights": CLASS_WEIGHTINGS, "normalise": NORMALISATIONS, "ccc": CCC_MOMENTS}
        faults = {
            f"normalise_of.{modality}": f"is {how!r}, {expected_one_of(how, NORMALISATIONS)}"
            for modality, how in self.normalise_of.items()
            if how not in NORMALISATIONS
        }
        if not self.targets or len(set(self.targets)) < len(self.targets):
            faults["targets"] = f"is {list(self.targets)}, expected at least one name, each once"
        check_ranges("training", self, ranges, choices, faults)
        if self.hop > self.window:
            raise SettingError(
                f"Settings of training: 'hop' is {self.hop}, expected 1 to {self.window}, the window. Change the value."
            )

    def networks(self) -> tuple[TrainConfig, ...]:
        """The settings of each network of a run: one for all targets, or one per target."""
        if not self.per_target or len(self.targets) == 1:
            return (self,)
        return tuple(replace(self, targets=(target,)) for target in self.targets)
