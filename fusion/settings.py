"""Settings of stage two: plain values → checked dataclasses, and the settings of a training run.

Losses, optimisers and schedules are named here, lazily, so that reading settings needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
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
}


def configure(kind: str, cls: type[T], settings: Mapping[str, Any]) -> T:
    """Build a settings dataclass from plain values; an integer may stand for a float, a list for a tuple.

    Args:
        kind: whose settings they are, for the message ("model 'rnn'").
        cls: a dataclass whose fields are int, float, bool, str or tuples of str.
        settings: field name → value.

    Raises:
        SettingError: if a name is unknown or a value has the wrong type; all faults at once.
    """
    hints = get_type_hints(cls)
    allowed = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    faults = [f"'{name}' is unknown" for name in settings if name not in allowed]
    values = {}
    for name in (name for name in settings if name in allowed):
        try:
            values[name] = _convert(settings[name], hints[name])
        except TypeError:
            faults.append(f"'{name}' is {settings[name]!r}, expected {getattr(hints[name], '__name__', hints[name])}")
    if faults:
        raise SettingError(
            f"Settings of {kind}: {'; '.join(faults)}. Allowed settings are {', '.join(sorted(allowed)) or 'none'}."
        )
    return cls(**values)


def _convert(value: Any, hint: Any) -> Any:
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
        ranges: field → (lowest, highest).
        choices: field → allowed values.

    Raises:
        SettingError: with every fault.
    """
    faults = [
        f"'{name}' is {getattr(settings, name)}, expected {low:g} to {high:g}"
        for name, (low, high) in ranges.items()
        if not low <= getattr(settings, name) <= high
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
        epochs: at most this many passes over the training windows.
        patience: stop after this many epochs in a row without a better validation CCC.
        batch_size: windows per optimiser step.
        window: frames per window.
        hop: frames between the starts of windows.
        dilation: training windows keep one of this many frames; validation always keeps all.
        tail: what happens to the frames behind the last whole training window: align, pad or drop.
        loss: over what one CCC is taken: "batch" [Karas2022] or "window" [Zhang2023].
        lambda_mse: weight of the mean squared error.
        lambda_ce: weight of the cross-entropy over the 24 polar classes; needs a model with that head.
        optimizer: adam (weight decay added to the gradient) or adamw (decoupled).
        lr: learning rate.
        weight_decay: as the optimiser understands it.
        schedule: how the learning rate moves: constant or cosine.
        restart_steps: optimiser steps from one warm restart of the cosine to the next.
        seed: of weights, dropout and order of windows.
    """

    targets: tuple[str, ...] = ("valence", "arousal")
    epochs: int = 30
    patience: int = 8
    batch_size: int = 64
    window: int = 16
    hop: int = 16
    dilation: int = 1
    tail: str = "align"
    loss: str = "batch"
    lambda_mse: float = 0.84
    lambda_ce: float = 0.88
    optimizer: str = "adamw"
    lr: float = 2e-4
    weight_decay: float = 0.023
    schedule: str = "cosine"
    restart_steps: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {"hop": (1, self.window), "seed": (0, 2**63 - 1), "lr": (1e-12, 1e3)}
        ranges |= dict.fromkeys(("epochs", "patience", "batch_size", "window", "dilation", "restart_steps"), (1, 1e9))
        ranges |= dict.fromkeys(("lambda_mse", "lambda_ce", "weight_decay"), (0, 1e9))
        choices = {"tail": TAILS, "loss": LOSSES, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}
        check_ranges("training", self, ranges, choices)
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise SettingError(
                f"Settings of training: 'targets' is {list(self.targets)}; expected at least one name, each once."
            )

    def check_targets(self, known: tuple[str, ...]) -> None:
        """Refuse targets that the corpus does not label.

        Raises:
            UnknownNameError: if a target is not among `known`.
        """
        for target in self.targets:
            require_known("target", target, known)
