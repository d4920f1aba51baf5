"""Settings of stage two: plain values → checked dataclasses, and the settings of a training run.

Losses, optimisers and schedules are named here, lazily, so that reading settings needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from cache.errors import SettingError
from cache.names import require_known
from cache.windows import TAILS

T = TypeVar("T")

LOSSES = {
    "batch": "fusion.losses:ccc_loss",
    "window": "fusion.losses:windowed_ccc_loss",
}

OPTIMIZERS = {
    "adam": "torch.optim:Adam",
    "adamw": "torch.optim:AdamW",
}

SCHEDULES = {
    "constant": "fusion.schedule:Constant",
    "cosine": "fusion.schedule:CosineRestarts",
    "plateau": "fusion.schedule:Plateau",
}

CLASS_WEIGHTINGS = {
    "paper": "fusion.losses:published_class_weights",
    "training": "fusion.losses:balanced_class_weights",
}


def configure(kind: str, cls: type[T], settings: Mapping[str, Any]) -> T:
    """Build a settings dataclass from plain values; an integer may stand for a float, a list for a tuple.

    Args:
        kind: whose settings they are, for the message ("model 'rnn'").
        cls: a dataclass whose fields are int, float, bool, str, tuples of one of them, or one of them or None.
        settings: field name → value.

    Raises:
        SettingError: if a name is unknown or a value has the wrong type; all faults at once.
    """
    hints = get_type_hints(cls)
    allowed = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    faults = [f"'{name}' is unknown" for name in settings if name not in allowed]
    remedy = f"Allowed settings are {', '.join(sorted(allowed)) or 'none'}" if faults else "Change it in params.yaml"
    values = {}
    for name in (name for name in settings if name in allowed):
        try:
            values[name] = _convert(settings[name], hints[name])
        except TypeError:
            faults.append(f"'{name}' is {settings[name]!r}, expected {_say(hints[name])}")
    if faults:
        raise SettingError(f"Settings of {kind}: {'; '.join(faults)}. {remedy}.")
    return cls(**values)


def _say(hint: Any) -> str:
    if get_origin(hint) is tuple:
        return f"a list of {get_args(hint)[0].__name__}"
    return str(getattr(hint, "__name__", hint))


def _convert(value: Any, hint: Any) -> Any:
    if NoneType in get_args(hint):
        (other,) = (kind for kind in get_args(hint) if kind is not NoneType)
        return None if value is None else _convert(value, other)
    if get_origin(hint) is tuple:
        if isinstance(value, str) or not all(isinstance(item, get_args(hint)[0]) for item in value):
            raise TypeError
        return tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise TypeError
    return value


def check_ranges(
    kind: str, settings: Any, ranges: Mapping[str, tuple[float, float]], choices: Mapping[str, Any]
) -> None:
    """Refuse numbers outside their closed range and names outside their set; all faults at once.

    Args:
        kind: whose settings they are, for the message.
        settings: the dataclass.
        ranges: field → (lowest, highest); None is never outside.
        choices: field → allowed values.

    Raises:
        SettingError: with every fault.
    """
    faults = [
        f"'{name}' is {getattr(settings, name)}, expected {low:g} to {high:g}"
        for name, (low, high) in ranges.items()
        if getattr(settings, name) is not None and not low <= getattr(settings, name) <= high
    ]
    faults += [
        f"'{name}' is '{getattr(settings, name)}', expected one of {', '.join(sorted(allowed))}"
        for name, allowed in choices.items()
        if getattr(settings, name) not in allowed
    ]
    if faults:
        raise SettingError(f"Settings of {kind}: {'; '.join(faults)}. Change the value.")


@dataclass(frozen=True)
class TrainConfig:
    """How a fusion model is trained; the defaults are those of the recurrent model in [Karas2022, Table 4].

    Attributes:
        targets: what is predicted, in this order; names of label columns.
        per_target: train one network per target [Zhang2023] instead of one for all of them.
        epochs: at most this many passes over the training windows.
        patience: stop after this many epochs in a row without a better validation CCC; by default 8, and 50 with the
            plateau schedule, as in the authors' codes ([Zhang2023] itself says 20).
        stop_before_release: let patience end a run while groups of weights still wait to be released.
        batch_size: windows per optimiser step.
        window: frames per window.
        hop: frames between the starts of windows.
        dilation: training windows keep one of this many frames; validation always keeps all.
        tail: what happens to the frames behind the last whole training window: align, pad or drop.
        reshuffle: draw a new order of windows for every epoch; otherwise they are shuffled once [Zhang2023's code].
        masked: leave the padding of short windows out; otherwise it is input like any other (embeddings of zero before
            normalisation) and counts in the loss with targets 0 [Zhang2023's code].
        loss: over what one CCC is taken: "batch" [Karas2022] or "window" [Zhang2023].
        lambda_mse: weight of the mean squared error.
        lambda_ce: weight of the cross-entropy over the 24 polar classes; by default 0.88 for models with that head and 0
            for others, which refuse any other number.
        class_weights: of that cross-entropy: "paper", or "training" for the inverse frequency in the training labels.
        optimizer: adam (weight decay added to the gradient) or adamw (decoupled).
        lr: learning rate.
        weight_decay: as the optimiser understands it.
        schedule: how the learning rate moves: constant, cosine [Karas2022] or plateau [Zhang2023].
        restart_steps: cosine: optimiser steps from one warm restart to the next.
        warmup_epochs: plateau: epochs of each stage in which the rate climbs from 0 to `lr`, in each of them anew.
        legacy_warmup: plateau: climb to lr (r + 1) / 25 in epoch r, as the published code does.
        plateau_patience: plateau: the rate is cut after more than this many epochs without a better validation CCC.
        plateau_factor: plateau: what the rate is cut by.
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
    reshuffle: bool = True
    masked: bool = True
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
        ranges: dict[str, tuple[float, float]] = {"hop": (1, self.window), "seed": (0, 2**63 - 1), "lr": (1e-12, 1e3)}
        ranges |= dict.fromkeys(("epochs", "patience", "batch_size", "window", "dilation", "restart_steps"), (1, 1e9))
        ranges |= dict.fromkeys(("lambda_mse", "lambda_ce", "weight_decay", "min_lr"), (0, 1e9))
        ranges |= {"warmup_epochs": (0, 1e9), "plateau_patience": (0, 1e9), "plateau_factor": (1e-9, 0.999)}
        choices = {"tail": TAILS, "loss": LOSSES, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}
        check_ranges("training", self, ranges, {**choices, "class_weights": CLASS_WEIGHTINGS})
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise SettingError(
                f"Settings of training: 'targets' is {list(self.targets)}; expected at least one name, each once."
            )

    def networks(self) -> tuple[TrainConfig, ...]:
        """The settings of each network of a run: one for all targets, or one per target."""
        if not self.per_target or len(self.targets) == 1:
            return (self,)
        return tuple(replace(self, targets=(target,)) for target in self.targets)

    def check_targets(self, known: tuple[str, ...]) -> None:
        """Refuse targets that the corpus does not label.

        Raises:
            UnknownNameError: if a target is not among `known`.
        """
        for target in self.targets:
            require_known("target", target, known)
