"""Training on a bank: fit on a fold's training windows, choose the epoch on its validation trials."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cache.corpus.folds import Fold
from cache.errors import CorpusError, SettingError
from cache.targets import Target
from fusion.bank.bank import Bank
from fusion.bank.batches import Batch, Batches
from fusion.bank.counted_padding import count_padding, padding_rows
from fusion.bank.normalisation import Moments
from fusion.bank.unseen import drop_unseen
from fusion.model import FusionModel
from fusion.scores.ccc import CCC
from fusion.scores.losses import Objective
from fusion.settings import LOSS_KINDS, TrainConfig
from fusion.training.building import build_model
from fusion.training.checkpoint import Checkpoint
from fusion.training.fitting import EpochRecord, Groups, fit
from fusion.training.inference import run_model
from fusion.training.postprocessing import Fitted, fit_chains
from fusion.training.reading import Reading, choose_reading, list_readings


@dataclass(frozen=True, eq=False)
class TrainResult:
    """The best epoch's model, and the history of the run.

    Attributes:
        checkpoint: ready to save or to predict with.
        history: every epoch; a single one if the model is solved in closed form.
        best_epoch: the epoch whose weights were kept.
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
    on_epoch: Callable[[EpochRecord], bool | None] | None = None,
    groups: Groups | None = None,
) -> TrainResult:
    """Train a fusion model on a fold of a bank; the same arguments give the same weights.

    A `solvable` model (see `fusion.models.linear`) is fitted in closed form, without gradient steps.

    Args:
        bank: features as stored, with at least the fold's training and validation trials.
        fold: weights and moments are fitted on its training trials only; its validation trials choose the epoch.
        model: name of a fusion model.
        settings: settings of the model.
        config: settings of the run; with `per_target`, train each of `config.networks()`.
        on_epoch: called after every epoch; if it returns true, that was the last one, as with so many `epochs`.
        groups: model → groups of its weights, released one after another by the plateau schedule.

    Returns:
        The best epoch's model, on the bank's device and in evaluation mode, with its history.

    Raises:
        UnknownNameError: if the model, a target or a trial does not exist.
        SettingError: if settings contradict each other, or a target's kind.
        CorpusError: if training or validation trials have no labels.
        AvFusionError: if the loss becomes nan or infinite.
    """
    if len(config.networks()) > 1:
        raise SettingError(
            f"'per_target' asks for {len(config.networks())} networks, expected one at a time. Train each of 'config.networks()'."
        )
    bank = bank.select_targets(config.targets)
    check_kinds(bank.targets, config.loss)
    resident, moments = _normalise(bank, fold, config)
    padding = None if config.masked else padding_rows(moments)
    batches = WindowBatches(cut_training_batches(resident, fold, config), config, padding)
    objective = make_objective(resident, fold, config)
    with torch.random.fork_rng(devices=[bank.device] if bank.device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        network = build_model(model, bank.dims, config.targets, settings).to(bank.device)
        check_window(network, config)

        def run_validation() -> dict[str, float]:
            return validate(network, resident, fold, config, padding)

        history: tuple[EpochRecord, ...]
        if network.solvable:
            history, best_epoch = (_solve(network, objective, batches, run_validation, on_epoch),), 0
        else:
            history, best_epoch = fit(network, objective, batches, run_validation, config, groups, on_epoch)
    answers = choose_answers(network, resident, fold, config, padding, history[best_epoch].score)
    checkpoint = Checkpoint(
        network.eval(),
        moments,
        dict(resident.recipes),
        fold,
        config,
        history[best_epoch].validation,
        {"torch": str(torch.__version__)},
        resident.targets,
        dict(resident.projections),
        *answers,
    )
    return TrainResult(checkpoint, history, best_epoch)


def _normalise(bank: Bank, fold: Fold, config: TrainConfig) -> tuple[Bank, dict[str, Moments]]:
    """The frames that training and validation use, normalised, and the moments of the training trials."""
    used = drop_unseen(bank, config.drop_unseen, fold)
    moments = used.measure(fold.train, config.normalise, config.normalise_of)
    return used.normalised(moments, [*fold.train, *fold.validate]), moments


def check_kinds(targets: Sequence[Target], loss: str) -> None:
    """Check that the loss, and the metric that chooses epochs, are for targets of this kind."""
    for name, kind in {f"loss '{loss}'": LOSS_KINDS[loss], f"metric '{CCC.title}'": CCC.kind}.items():
        others = [f"'{target.name}' is of kind '{target.kind}'" for target in targets if target.kind != kind]
        if others:
            raise SettingError(
                f"Target {', '.join(others)}, but {name} is for kind '{kind}'. Change 'loss', or leave it out of 'targets'."
            )


def check_window(model: FusionModel, config: TrainConfig) -> None:
    """Check that a model accepts the windows of a run.

    Raises:
        SettingError: if it accepts another length only.
    """
    if model.fixed_length not in (None, config.window):
        raise SettingError(
            f"Model '{model.name}' accepts windows of {model.fixed_length} frames only, got {config.window}. Change 'window'."
        )


class WindowBatches:
    """Training batches of windows, shuffled again for every epoch or once for all."""

    def __init__(self, batches: Batches, config: TrainConfig, padding: dict[str, Tensor] | None) -> None:
        self._batches, self._config, self._padding = batches, config, padding
        self._order = torch.Generator().manual_seed(config.seed)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        if not self._config.reshuffle:
            self._order.manual_seed(self._config.seed)
        for batch in self._batches.epoch(self._order):
            yield batch if self._padding is None else count_padding(batch, self._padding)


def cut_training_batches(bank: Bank, fold: Fold, config: TrainConfig) -> Batches:
    """Batches over the training windows that have a labelled frame."""
    windows = bank.cut(fold.train, config.window, config.hop, config.dilation, config.tail)
    if not windows:
        raise CorpusError(
            f"None of {len(fold.train)} training trials is as long as a window of {config.window} frames at dilation "
            f"{config.dilation}, and 'tail' is 'drop'. Reduce 'window' or 'dilation', or set 'tail' to 'align'."
        )
    labelled = bank.batches(windows, config.window, config.batch_size).labelled
    if not labelled.any(dim=0).all():
        raise CorpusError(
            f"None of {len(windows)} training windows has a labelled frame{_lacking(config.targets, labelled)}. Check the "
            "labels and 'window'."
        )
    validated = torch.stack([bank.labels[bank.span(name)].isfinite().any(dim=0) for name in fold.validate])
    if not validated.any(dim=0).all():
        raise CorpusError(
            f"None of {len(fold.validate)} validation trials has a labelled frame{_lacking(config.targets, validated)}. "
            "Choose another fold."
        )
    kept = [window for window, good in zip(windows, labelled.any(dim=1).tolist(), strict=True) if good]
    return bank.batches(kept, config.window, config.batch_size)


def _lacking(targets: Sequence[str], labelled: Tensor) -> str:
    """Names of the targets without any label (N, C)."""
    names = [target for target, any_ in zip(targets, labelled.any(dim=0).tolist(), strict=True) if not any_]
    return f" of {' and '.join(names)}"


def make_objective(bank: Bank, fold: Fold, config: TrainConfig) -> Objective:
    """The losses, with class weights from the labelled training frames if the settings say so."""
    labels = torch.cat([bank.labels[bank.span(trial_id)] for trial_id in fold.train]).cpu()
    objective = Objective(
        config.targets, config.loss, config.lambda_mse, config.lambda_ce, config.class_weights, labels, config.ccc
    )
    return objective.to(bank.device)


def choose_answers(
    model: FusionModel, bank: Bank, fold: Fold, config: TrainConfig, padding: Mapping[str, Tensor] | None, known: float
) -> tuple[Reading, Fitted]:
    """How a trained model is to make its predictions, by those of the validation trials.

    Args:
        model: with its final weights.
        bank: normalised, with the model's targets.
        fold: its validation trials are predicted, in all windows that are tried.
        config: settings of the training.
        padding: see `validate`.
        known: mean validation CCC in the windows of training.

    Returns:
        The windows with the highest mean CCC, and the post-processing that fits the predictions in these windows.
    """

    def score(reading: Reading) -> float:
        found = validate(model, bank, fold, config, padding, reading)
        return sum(found.values()) / len(found)

    longest = _longest(bank, fold)
    reading = choose_reading(list_readings(config, longest, model.fixed_length is not None), known, score)
    predictions = run_model(model, bank, fold.validate, *reading.within(config, longest), padding)
    labels = [bank.labels[bank.span(own.trial_id)].cpu().numpy() for own in predictions]
    return reading, fit_chains([own.values for own in predictions], labels)


def _longest(bank: Bank, fold: Fold) -> int:
    """Frames of the longest validation trial."""
    return max(bank.lengths[trial_id] for trial_id in fold.validate)


def _solve(
    model: FusionModel,
    objective: Objective,
    batches: WindowBatches,
    run_validation: Callable[[], dict[str, float]],
    on_epoch: Callable[[EpochRecord], bool | None] | None,
) -> EpochRecord:
    """Fit in closed form; recorded as one epoch, with the loss of the solution."""
    model.fit((batch.inputs, batch.targets, batch.mask) for batch in batches)
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            total += float(objective(model(batch.inputs), batch.targets, batch.mask)) * len(batch.windows)
            count += len(batch.windows)
    validation = run_validation()
    score = sum(validation.values()) / len(validation)
    record = EpochRecord(0, total / count, validation, score, 0.0, True)
    if on_epoch:
        on_epoch(record)
    return record


def validate(
    model: FusionModel,
    bank: Bank,
    fold: Fold,
    config: TrainConfig,
    padding: Mapping[str, Tensor] | None = None,
    reading: Reading | None = None,
) -> dict[str, float]:
    """CCC of each target over all its labelled validation frames concatenated, as in the authors' code of [Karas2022].

    Args:
        model: on any device; its mode is kept.
        bank: normalised, with the model's targets.
        fold: its validation trials are predicted.
        config: window, hop and batch size.
        padding: modality → (D,) if padding counts as input; see `fusion.bank.counted_padding.count_padding`.
        reading: other windows than those of training.

    Returns:
        Target → CCC, population moments; nan if neither labels nor predictions vary.
    """
    agreement = CCC()
    reading = reading or Reading(config.window, config.hop)
    window, hop, size = reading.within(config, _longest(bank, fold))
    for prediction in run_model(model, bank, fold.validate, window, hop, size, padding):
        labels = bank.labels[bank.span(prediction.trial_id)].cpu()
        agreement.update(torch.from_numpy(prediction.values), labels, labels.isfinite())
    return dict(zip(config.targets, agreement.compute().tolist(), strict=True))
