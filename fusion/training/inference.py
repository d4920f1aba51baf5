"""Predictions for whole trials: run a model on windows, then stitch them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.errors import SettingError
from cache.targets import from_unit
from cache.windows import stitch
from fusion.bank.bank import Bank
from fusion.bank.counted_padding import count_padding, padding_rows
from fusion.bank.unseen import find_seen, repeat_last
from fusion.model import FusionModel
from fusion.training.checkpoint import Checkpoint
from fusion.training.postprocessing import apply_chain


@dataclass(frozen=True, eq=False)
class Prediction:
    """A model's prediction for one trial.

    Attributes:
        trial_id: the trial.
        values: (T, C) float32, one row per frame, the mean of overlapping windows; in the ranges of the targets, except
            from `run_model`, which returns the model's raw outputs in [-1, 1].
        targets: names of the C columns.
    """

    trial_id: str
    values: NDArray[np.float32]
    targets: tuple[str, ...]


def predict(checkpoint: Checkpoint, bank: Bank, trial_ids: Sequence[str] | None = None) -> list[Prediction]:
    """Predict trials with a trained model, in its windows and with its post-processing, if any.

    Features are normalised with the moments of the training trials. Frames that training would have left out for want of input (`drop_unseen`) are left out too, and take the value of the last
    frame before them, or the first value of the trial. A trial without a single frame that was seen is predicted as it is.

    Args:
        checkpoint: the trained model.
        bank: features as stored; labels are ignored.
        trial_ids: trials to predict; by default all in the bank.

    Raises:
        FingerprintError: if the bank's features differ from those of training.
        UnknownNameError: if the bank lacks a trial or a modality of the model.
    """
    bank.check_recipes(checkpoint.recipes)
    chosen = list(bank.lengths if trial_ids is None else trial_ids)
    training = checkpoint.training
    window, hop, size = checkpoint.windows.within(training, max((bank.lengths[name] for name in chosen), default=1))
    seen = find_seen(bank, training.drop_unseen, chosen, labelled=False)
    frames = {name: own if len(own) else bank.frames(name) for name, own in seen.items()}
    used = bank.projected(checkpoint.projections)
    used = used.keep(frames) if training.drop_unseen else used
    normalised = used.normalised(checkpoint.moments, chosen)
    padding = None if training.masked else padding_rows(checkpoint.moments)
    own = run_model(checkpoint.model, normalised, chosen, window, hop, size, padding)
    own = [replace(each, values=apply_chain(each.values, checkpoint.fitted, checkpoint.postprocess)) for each in own]
    whole = [repeat_last(each.values, frames[each.trial_id], bank.lengths[each.trial_id]) for each in own]
    return [
        replace(each, values=from_unit(values, checkpoint.targets)) for each, values in zip(own, whole, strict=True)
    ]


def merge(runs: Sequence[Sequence[Prediction]]) -> list[Prediction]:
    """Mean prediction for each trial and target over the runs that have it.

    Args:
        runs: the predictions of each model: networks of single targets, of several seeds or folds, or a mix of these.

    Returns:
        One prediction per trial; trials and targets are in order of first appearance.

    Raises:
        SettingError: if there is no run.
    """
    if not runs:
        raise SettingError("The ensemble has 0 models; expected at least one. Name the checkpoints.")
    trials: dict[str, list[Prediction]] = {}
    for prediction in chain.from_iterable(runs):
        trials.setdefault(prediction.trial_id, []).append(prediction)
    return [_merge_trial(same) for same in trials.values()]


def _merge_trial(predictions: Sequence[Prediction]) -> Prediction:
    columns: dict[str, list[NDArray[np.float32]]] = {}
    for prediction in predictions:
        for index, target in enumerate(prediction.targets):
            columns.setdefault(target, []).append(prediction.values[:, index])
    values = [np.mean(same, axis=0, dtype=np.float64) for same in columns.values()]
    return Prediction(predictions[0].trial_id, np.stack(values, axis=1).astype(np.float32), tuple(columns))


def run_model(
    model: FusionModel,
    bank: Bank,
    trial_ids: Sequence[str],
    window: int,
    hop: int,
    batch_size: int,
    padding: Mapping[str, Tensor] | None = None,
) -> list[Prediction]:
    """Predict trials of an already normalised bank, in [-1, 1]; the model keeps its training or evaluation mode.

    Args:
        model: moved to the bank's device.
        bank: normalised features.
        trial_ids: trials to predict, in this order.
        window: frames per window.
        hop: frames between the starts of windows; windows overlap and are averaged if it is less than `window`.
        batch_size: windows per forward pass.
        padding: modality → (D,) if padding counts as input; see `fusion.bank.counted_padding.count_padding`.
    """
    windows = bank.cut(trial_ids, window, hop)
    values = np.empty((len(windows), window, len(model.targets)), np.float32)
    was_training = model.training
    model.eval().to(bank.device)
    row = 0
    try:
        with torch.inference_mode():
            for batch in bank.batches(windows, window, batch_size).epoch():
                batch = batch if padding is None else count_padding(batch, padding)
                estimate = model(batch.inputs).values
                values[row : row + len(estimate)] = estimate.cpu().numpy()
                row += len(estimate)
    finally:
        model.train(was_training)
    predictions, row = [], 0
    for trial_id, group in groupby(windows, key=lambda piece: piece.trial_id):
        own = list(group)
        stitched = stitch(own, values[row : row + len(own)], bank.lengths[trial_id])
        predictions.append(Prediction(trial_id, stitched.astype(np.float32), model.targets))
        row += len(own)
    return predictions
