"""Optimisers, learning-rate schedules, and early stopping.

A schedule is one class and one line of `fusion.settings.SCHEDULES`. It is told of every optimiser step and of every epoch's
validation score, so that per-step and plateau schedules look the same to the trainer.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isnan

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from cache.names import load_named
from fusion.settings import OPTIMIZERS, SCHEDULES, TrainConfig


def make_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> Optimizer:
    """The optimiser that the settings name, betas .9 and .999."""
    return load_named("optimizer", OPTIMIZERS, config.optimizer)(
        parameters, lr=config.lr, weight_decay=config.weight_decay
    )


def make_schedule(optimizer: Optimizer, config: TrainConfig) -> Constant:
    """The schedule that the settings name."""
    return load_named("schedule", SCHEDULES, config.schedule)(optimizer, config)


class Constant:
    """Contract and simplest case: the learning rate stays what it is.

    Attributes:
        optimizer: whose learning rate is moved.
        reloads_best: whether every epoch starts from the best weights so far [Zhang2023] instead of the latest.
        may_stop: whether early stopping may end the run now; a schedule with stages to come says no.
    """

    reloads_best: bool = False
    may_stop: bool = True

    def __init__(self, optimizer: Optimizer, config: TrainConfig) -> None:
        self.optimizer = optimizer

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def after_step(self) -> None:
        """Called after every optimiser step."""

    def after_epoch(self, score: float) -> None:
        """Called after every epoch with the validation CCC, higher is better."""


class CosineRestarts(Constant):
    """Cosine annealing to 0 with warm restarts every `restart_steps` optimiser steps [Karas2022, Section 4.2].

    lr_t = lr (1 + cos(pi (t mod T) / T)) / 2 [Loshchilov2017, Equation 5].
    """

    def __init__(self, optimizer: Optimizer, config: TrainConfig) -> None:
        super().__init__(optimizer, config)
        self._cosine = CosineAnnealingWarmRestarts(optimizer, T_0=config.restart_steps)

    def after_step(self) -> None:
        """Move one step along the cosine."""
        self._cosine.step()


class EarlyStopping:
    """Remembers the best epoch and counts those since.

    Attributes:
        best: highest score so far; -inf before the first one. A nan score is never an improvement.
        best_epoch: when it was reached; -1 before the first one.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best = float("-inf")
        self.best_epoch = -1
        self._waited = 0

    def update(self, epoch: int, score: float) -> bool:
        """Note the score of an epoch; true if it is the best so far."""
        improved = not isnan(score) and score > self.best
        if improved:
            self.best, self.best_epoch = score, epoch
        self._waited = 0 if improved else self._waited + 1
        return improved

    @property
    def exhausted(self) -> bool:
        """Whether `patience` epochs in a row brought nothing better."""
        return self._waited >= self.patience
