"""The training loop: epochs of optimiser steps, validation after each, the best weights kept, groups of weights released.

It depends on neither stores nor corpora: `fusion.training.trainer` runs it on a bank, `pipelines.endtoend` runs it with
backbones in the model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cache.errors import AvFusionError, CorpusError, SettingError
from fusion.bank.batches import Batch
from fusion.settings import TrainConfig
from fusion.training.schedule import Constant, EarlyStopping, make_optimizer, make_schedule


@dataclass(frozen=True)
class EpochRecord:
    """Results of one epoch.

    Attributes:
        epoch: its number, from 0.
        loss: mean training loss over windows.
        validation: target → CCC over all validation frames concatenated.
        score: mean validation CCC; the epoch with the highest one is kept.
        lr: learning rate after the last step.
        best: whether the score is the highest so far.
        stage: number of groups of weights released after the first one.
    """

    epoch: int
    loss: float
    validation: dict[str, float]
    score: float
    lr: float
    best: bool
    stage: int = 0


class TrainingBatches(Protocol):
    """Training batches; every iteration is one pass over all of them."""

    def __len__(self) -> int:
        """Number of batches in a pass."""

    def __iter__(self) -> Iterator[Batch]:
        """One pass."""


class Keeper(Protocol):
    """Keeps the state of a run after every epoch, so that a killed run goes on where it was."""

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last, if any."""

    def save(self, state: dict[str, Any]) -> None:
        """Replace it."""


Gradients = Callable[[nn.Module, Batch], Tensor]
"""Model, batch → loss, with the gradients of all parameters that are trained."""

Groups = Callable[[Any], Iterable[Sequence[nn.Parameter]]]
"""Model → groups of its parameters in the order of their release; parameters in no group are never trained."""


def fit(
    model: nn.Module,
    objective: Callable[[Any, Tensor, Tensor], Tensor],
    batches: TrainingBatches,
    validate: Callable[[], Mapping[str, float]],
    config: TrainConfig,
    groups: Groups | None = None,
    on_epoch: Callable[[EpochRecord], bool | None] | None = None,
    gradients: Gradients | None = None,
    keeper: Keeper | None = None,
) -> tuple[tuple[EpochRecord, ...], int]:
    """Train a model; it ends with the weights of its best epoch.

    The first group of weights is released at the start, and the next one whenever the schedule is exhausted. Each stage
    starts from the best weights with a new optimiser and schedule, and restarts the count of patience. When the schedule
    is exhausted and no group is left, the run ends.

    Args:
        model: called with the inputs of a batch.
        objective: estimate, targets (B, L, C), mask (B, L, C) → scalar loss.
        batches: the training batches.
        validate: returns target → validation CCC of the model in its present state.
        config: settings of the run; `epochs` is the limit over all stages.
        groups: model → groups of parameters; by default one group with all of them.
        on_epoch: called after every epoch; if it returns true, that was the last one, as with so many `epochs`.
        gradients: computes a step's gradients; by default those of the objective.
        keeper: of the state between epochs; the batches of an epoch must depend on its number alone, see `start_at`.

    Returns:
        Every epoch, and the number of the best one.

    Raises:
        SettingError: if there is no group, or several with a schedule that never releases one.
        CorpusError: if every validation score was nan.
        AvFusionError: if the loss becomes nan or infinite.
    """
    run = _Run(model, config, groups)
    history = run.restore(keeper.load()) if keeper else []
    gradients = gradients or partial(_backward, objective)
    while len(history) < config.epochs and not run.may_stop:
        if run.schedule.exhausted and not run.release():
            break
        epoch = len(history)
        loss = _train_epoch(model, gradients, batches, run, epoch)
        validation = dict(validate())
        score = sum(validation.values()) / len(validation)
        record = EpochRecord(epoch, loss, validation, score, run.schedule.lr, run.note(epoch, score), run.stage)
        history.append(record)
        stopped = on_epoch(record) if on_epoch else False
        run.end_epoch(record.best)
        if keeper:
            keeper.save(run.state(history))
        if stopped:
            break
    if run.stopping.best_epoch < 0:
        raise CorpusError("The validation CCC was nan in every epoch: the labels never vary. Choose another fold.")
    model.load_state_dict(run.best)
    return tuple(history), run.stopping.best_epoch


class _Run:
    """State of a run apart from the model's current weights.

    Attributes:
        schedule: of the current stage.
        stopping: over all stages.
        best: weights of the best epoch so far.
        stage: number of groups released after the first one.
    """

    schedule: Constant

    def __init__(self, model: nn.Module, config: TrainConfig, groups: Groups | None) -> None:
        self.model, self.config = model, config
        self._waiting = [list(group) for group in groups(model)] if groups else [list(model.parameters())]
        self.best = copy.deepcopy(model.state_dict())
        self.stage = -1
        if not self._waiting:
            raise SettingError("No group of weights to train; expected at least one. Name the groups.")
        if groups:
            model.requires_grad_(False)
        self.schedule = self._start_stage()
        self.stopping = EarlyStopping(config.patience or self.schedule.patience)
        if self._waiting and not self.schedule.releases:
            raise SettingError(
                f"Schedule '{config.schedule}' never releases the other {len(self._waiting)} groups of weights. Use 'plateau'."
            )

    def _start_stage(self) -> Constant:
        for parameter in self._waiting.pop(0):
            parameter.requires_grad_(True)
        self.stage += 1
        self.optimizer = make_optimizer([p for p in self.model.parameters() if p.requires_grad], self.config)
        return make_schedule(self.optimizer, self.config)

    def release(self) -> bool:
        """Release one more group and continue from the best weights; false if none is left."""
        if not self._waiting:
            return False
        self.schedule = self._start_stage()
        self.stopping.restart()
        self.model.load_state_dict(self.best)
        return True

    def note(self, epoch: int, score: float) -> bool:
        """Keep the weights if this epoch is the best so far; true if it is."""
        improved = self.stopping.update(epoch, score, self.schedule.counts)
        if improved:
            self.best = copy.deepcopy(self.model.state_dict())
        return improved

    def end_epoch(self, improved: bool) -> None:
        """Update the schedule, and reload the best weights if it says so."""
        self.schedule.after_epoch(improved)
        if self.schedule.reloads_best:
            self.model.load_state_dict(self.best)

    def state(self, history: Sequence[EpochRecord]) -> dict[str, Any]:
        """Everything that the next epochs depend on, as tensors and plain values."""
        return {
            "history": [asdict(record) for record in history],
            "stage": self.stage,
            "weights": self.model.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "stopping": vars(self.stopping),
            "chance": torch.get_rng_state(),
            "chance_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def restore(self, state: dict[str, Any] | None) -> list[EpochRecord]:
        """Go back to a saved state; its history, empty if there is none."""
        if state is None:
            return []
        while self.stage < state["stage"]:
            self.schedule = self._start_stage()
        self.model.load_state_dict(state["weights"])
        self.best = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        vars(self.stopping).update(state["stopping"])
        torch.set_rng_state(state["chance"])
        if state["chance_cuda"]:
            torch.cuda.set_rng_state_all(state["chance_cuda"])
        return [EpochRecord(**record) for record in state["history"]]

    @property
    def may_stop(self) -> bool:
        """Whether patience is exhausted, and no waiting group is worth another stage."""
        return self.stopping.exhausted and (self.config.stop_before_release or not self._waiting)


def _backward(objective: Callable[[Any, Tensor, Tensor], Tensor], model: nn.Module, batch: Batch) -> Tensor:
    loss = objective(model(batch.inputs), batch.targets, batch.mask)
    loss.backward()
    return loss


def _train_epoch(model: nn.Module, gradients: Gradients, batches: TrainingBatches, run: _Run, epoch: int) -> float:
    """One epoch of optimiser steps; returns the mean loss over windows."""
    model.train()
    run.schedule.before_epoch(len(batches))
    total = torch.zeros(())
    count = 0
    for batch in batches:
        run.optimizer.zero_grad()
        loss = gradients(model, batch)
        run.optimizer.step()
        run.schedule.after_step()
        total = total.to(loss.device) + loss.detach() * len(batch.windows)
        count += len(batch.windows)
    mean = float(total) / count
    if not math.isfinite(mean):  # nan and infinity stay in the sum, so one check per epoch is enough
        raise AvFusionError(f"The training loss became {mean} in epoch {epoch} with lr {run.config.lr:g}. Lower 'lr'.")
    return mean
