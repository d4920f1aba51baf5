"""Training: epochs over windows, validation on whole trials, the best epoch kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cache.errors import AvFusionError, CorpusError, SettingError
from cache.folds import Fold
from fusion.bank import Bank, Batches
from fusion.checkpoint import Checkpoint, current_versions
from fusion.inference import run_model
from fusion.losses import Objective
from fusion.metrics import CCC
from fusion.model import FusionModel, build_model
from fusion.schedule import EarlyStopping, make_optimizer, make_schedule
from fusion.settings import TrainConfig


@dataclass(frozen=True)
class EpochRecord:
    """One epoch, from 0.

    Attributes:
        epoch: its number.
        loss: mean training loss over windows.
        validation: target → CCC over all validation frames concatenated.
        score: their mean, which chooses the model.
        lr: learning rate after the last step.
        best: whether the score is the highest so far.
    """

    epoch: int
    loss: float
    validation: dict[str, float]
    score: float
    lr: float
    best: bool


@dataclass(frozen=True, eq=False)
class TrainResult:
    """The best epoch's model, and what happened.

    Attributes:
        checkpoint: ready to save or to predict with.
        history: every epoch.
        best_epoch: the one whose weights were kept.
    """

    checkpoint: Checkpoint
    history: tuple[EpochRecord, ...]
    best_epoch: int


def train(
    bank: Bank,
    fold: Fold,
    model: str,
    settings: Mapping[str, Any],
    config: TrainConfig,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> TrainResult:
    """Train a fusion model on a fold of a bank; the same arguments give the same weights.

    Args:
        bank: features as they came from the stores, with at least the fold's training and validation trials.
        fold: only its training trials teach, moments included; its validation trials choose the epoch.
        model: name of a fusion model.
        settings: of the model.
        config: of the run.
        on_epoch: told of every epoch when it ends.

    Returns:
        The best epoch's model with its history; its model is on the bank's device, in evaluation mode.

    Raises:
        UnknownNameError: if the model, a target or a trial does not exist.
        SettingError: if settings contradict each other.
        CorpusError: if training or validation trials have no labels.
        AvFusionError: if the loss stops being finite.
    """
    config.check_targets(bank.targets)
    moments = bank.measure(fold.train)
    resident = bank.select_targets(config.targets).normalised(moments, [*fold.train, *fold.validate])
    batches = _training_batches(resident, fold, config)
    with torch.random.fork_rng(devices=[bank.device] if bank.device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        network = build_model(model, bank.dims, config.targets, settings).to(bank.device)
        if network.fixed_length not in (None, config.window):
            raise SettingError(
                f"Model '{model}' accepts windows of {network.fixed_length} frames only, got {config.window}. Change 'window'."
            )
        history, stopping = _fit(network, resident, fold, batches, config, on_epoch)
    best = history[stopping.best_epoch]
    checkpoint = Checkpoint(
        network.eval(), moments, dict(resident.fingerprints), fold, config, best.validation, current_versions()
    )
    return TrainResult(checkpoint, history, best.epoch)


def _training_batches(bank: Bank, fold: Fold, config: TrainConfig) -> Batches:
    """Batches over the training windows that hold a labelled frame."""
    windows = bank.cut(fold.train, config.window, config.hop, config.dilation, config.tail)
    labelled = bank.batches(windows, config.window, config.batch_size).labelled.tolist()
    kept = [window for window, good in zip(windows, labelled, strict=True) if good]
    if not kept:
        raise CorpusError(
            f"None of {len(windows)} training windows holds a labelled frame. Check the labels and 'window'."
        )
    if not any(bank.labels[bank.span(trial_id)].isfinite().all(dim=1).any() for trial_id in fold.validate):
        raise CorpusError(f"None of {len(fold.validate)} validation trials has a labelled frame. Choose another fold.")
    return bank.batches(kept, config.window, config.batch_size)


def _fit(
    model: FusionModel,
    bank: Bank,
    fold: Fold,
    batches: Batches,
    config: TrainConfig,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> tuple[tuple[EpochRecord, ...], EarlyStopping]:
    """Run the epochs; the model ends with the best weights."""
    objective = Objective(config.targets, config.loss, config.lambda_mse, config.lambda_ce).to(bank.device)
    optimizer = make_optimizer(model.parameters(), config)
    schedule = make_schedule(optimizer, config)
    stopping = EarlyStopping(config.patience)
    order = torch.Generator().manual_seed(config.seed)
    best, history = copy.deepcopy(model.state_dict()), []
    for epoch in range(config.epochs):
        model.train()
        total = torch.zeros((), device=bank.device)
        for batch in batches.epoch(order):
            loss = objective(model(batch.inputs), batch.targets, batch.mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.after_step()
            total += loss.detach() * len(batch.windows)
        mean_loss = _finite_mean(total, len(batches.windows), epoch, config)
        validation = validate(model, bank, fold, config)
        score = sum(validation.values()) / len(validation)
        improved = stopping.update(epoch, score)
        if improved:
            best = copy.deepcopy(model.state_dict())
        history.append(EpochRecord(epoch, mean_loss, validation, score, schedule.lr, improved))
        if on_epoch:
            on_epoch(history[-1])
        schedule.after_epoch(score)
        if schedule.reloads_best:
            model.load_state_dict(best)
        if stopping.exhausted and schedule.may_stop:
            break
    if stopping.best_epoch < 0:
        raise CorpusError("The validation CCC was nan in every epoch: its labels never vary. Choose another fold.")
    model.load_state_dict(best)
    return tuple(history), stopping


def _finite_mean(total: Tensor, count: int, epoch: int, config: TrainConfig) -> float:
    """Mean loss of an epoch; a loss that is not finite stays so in the sum, so one check per epoch is enough."""
    mean = float(total) / count
    if not torch.isfinite(total):
        raise AvFusionError(
            f"The training loss became {mean} in epoch {epoch} with lr {config.lr:g}. "
            "Lower 'lr', and look for labels outside [-1, 1]."
        )
    return mean


def validate(model: FusionModel, bank: Bank, fold: Fold, config: TrainConfig) -> dict[str, float]:
    """CCC of each target over all labelled validation frames concatenated [Karas2022, Section 5].

    Args:
        model: on any device; its mode is kept.
        bank: normalised, with the model's targets.
        fold: whose validation trials are predicted.
        config: window, hop and batch size.

    Returns:
        Target → CCC, population moments; nan where neither labels nor predictions vary.
    """
    agreement = CCC()
    for prediction in run_model(model, bank, fold.validate, config.window, config.hop, config.batch_size):
        labels = bank.labels[bank.span(prediction.trial_id)].cpu()
        agreement.update(torch.from_numpy(prediction.values), labels, labels.isfinite().all(dim=1))
    return dict(zip(config.targets, agreement.compute().tolist(), strict=True))
