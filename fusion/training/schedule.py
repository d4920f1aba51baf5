"""Optimisers, learning-rate schedules, and early stopping.

A schedule is one class and one line of `fusion.settings.SCHEDULES`. It is called after every optimiser step and epoch, so
that per-step and plateau schedules look the same to the loop in `fusion.training.fitting`.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isnan
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from cache.names import load_named
from fusion.settings import OPTIMIZERS, SCHEDULES, TrainConfig


def make_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> Optimizer:
    """The optimiser named in the settings, with betas .9 and .999."""
    return load_named("optimizer", OPTIMIZERS, config.optimizer)(
        parameters, lr=config.lr, weight_decay=config.weight_decay
    )


def make_schedule(optimizer: Optimizer, config: TrainConfig) -> Constant:
    """The schedule named in the settings."""
    return load_named("schedule", SCHEDULES, config.schedule)(optimizer, config)


class Constant:
    """The base of all schedules and the simplest one: the learning rate never changes.

    Attributes:
        optimizer: the optimiser under control.
        reloads_best: whether every epoch starts from the best weights so far [Zhang2023] instead of the latest.
        releases: whether it ever releases the next group of weights.
        patience: epochs without improvement that end a run, unless the settings say otherwise.
    """

    reloads_best: bool = False
    releases: bool = False
    patience: int = 8

    def __init__(self, optimizer: Optimizer, config: TrainConfig) -> None:
        self.optimizer = optimizer

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def exhausted(self) -> bool:
        """Whether the rate is too small to go on: a new group of weights is released, or the run ends."""
        return False

    @property
    def counts(self) -> bool:
        """Whether the current epoch counts towards early stopping."""
        return True

    def before_epoch(self, num_steps: int) -> None:
        """Called before every epoch with the number of its optimiser steps."""

    def after_step(self) -> None:
        """Called after every optimiser step."""

    def after_epoch(self, improved: bool) -> None:
        """Called after every epoch; `improved` says whether its validation CCC is the best of the run so far."""

    def state_dict(self) -> dict[str, Any]:
        """What it counted so far, as plain values; the rate itself is in the optimiser's state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""


class CosineRestarts(Constant):
    """Cosine annealing to 0 with warm restarts every `restart_steps` optimiser steps [Karas2022, Section 4.2].

    lr_t = lr (1 + cos(pi (t mod T) / T)) / 2 [Loshchilov2017SGDR].
    """

    def __init__(self, optimizer: Optimizer, config: TrainConfig) -> None:
        super().__init__(optimizer, config)
        self._cosine = CosineAnnealingWarmRestarts(optimizer, T_0=config.restart_steps)

    def after_step(self) -> None:
        """Move one step along the cosine."""
        self._cosine.step()

    def state_dict(self) -> dict[str, Any]:
        """Where it is on the cosine."""
        return self._cosine.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._cosine.load_state_dict(state)


class Plateau(Constant):
    """Warm-up, then cuts on a plateau, each epoch from the best weights [Zhang2023, Section 3.4, and its code].

    With r the epoch since the last release of weights and n the steps of an epoch:

    * r < `warmup_epochs`: step k of n has lr (k + 1) / n, starting over in each epoch [Zhang2023]; the published code
      starts from 0, divides by 5 twice and climbs to lr (r + 1) / 25 only: k / n lr (r + 1) / 25 (`legacy_warmup`);
    * then the rate is lr, multiplied by `plateau_factor` after more than `plateau_patience` epochs in a row without
      improvement on the best epoch of all stages;
    * r > `warmup_epochs` and a rate below `min_lr`: `exhausted`. Early stopping counts epochs from the same r on.
    """

    reloads_best = True
    releases = True
    patience = 50

    def __init__(self, optimizer: Optimizer, config: TrainConfig) -> None:
        super().__init__(optimizer, config)
        self._config = config
        self._epoch = self._bad = self._cuts = self._step = 0
        self._num_steps = 1
        self._move()

    @property
    def exhausted(self) -> bool:
        """Whether the rate fell below `min_lr`, ignoring rounding."""
        return self._epoch > self._config.warmup_epochs and self._cut_rate() < self._config.min_lr * (1 - 1e-9)

    @property
    def counts(self) -> bool:
        """False during the warm-up and in the first epoch after it."""
        return self._epoch > self._config.warmup_epochs

    def before_epoch(self, num_steps: int) -> None:
        """Restart the climb, during the warm-up."""
        self._num_steps, self._step = num_steps, 0
        self._move()

    def after_step(self) -> None:
        """Climb one step, during the warm-up."""
        self._step += 1
        self._move()

    def after_epoch(self, improved: bool) -> None:
        """Count epochs without improvement and cut the rate."""
        if self._epoch >= self._config.warmup_epochs:
            self._bad = 0 if improved else self._bad + 1
            if self._bad > self._config.plateau_patience:
                self._cuts += 1
                self._bad = 0
        self._epoch += 1
        self._move()

    def state_dict(self) -> dict[str, Any]:
        """Its counts."""
        return {"epoch": self._epoch, "bad": self._bad, "cuts": self._cuts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from these counts."""
        self._epoch, self._bad, self._cuts = state["epoch"], state["bad"], state["cuts"]
        self._move()

    def _cut_rate(self) -> float:
        return self._config.lr * self._config.plateau_factor**self._cuts

    def _move(self) -> None:
        rate = self._cut_rate()
        if self._epoch < self._config.warmup_epochs:
            begun = self._step if self._config.legacy_warmup else self._step + 1
            rate *= min(begun, self._num_steps) / self._num_steps
            rate *= (self._epoch + 1) / 25 if self._config.legacy_warmup else 1
        for group in self.optimizer.param_groups:
            group["lr"] = rate


class EarlyStopping:
    """Remembers the best epoch and counts the epochs since.

    Attributes:
        best: highest score so far; -inf before the first one. A nan score is never an improvement.
        best_epoch: when it was reached; -1 before the first one.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best = float("-inf")
        self.best_epoch = -1
        self._waited = 0

    def update(self, epoch: int, score: float, counts: bool = True) -> bool:
        """Record the score of an epoch; true if it is the best so far. An epoch that does not count never ends the run."""
        improved = not isnan(score) and score > self.best
        if improved:
            self.best, self.best_epoch = score, epoch
        self._waited = 0 if improved else self._waited + int(counts)
        return improved

    def restart(self) -> None:
        """Restart the count; the best epoch stays."""
        self._waited = 0

    @property
    def exhausted(self) -> bool:
        """Whether `patience` epochs in a row brought no improvement."""
        return self._waited >= self.patience
