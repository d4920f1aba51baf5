"""Fine-tuning: backbones and a fusion model trained together on a fold."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, zip_longest
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from cache.corpus.folds import Fold
from cache.errors import SettingError
from extract.backbones.contract import Backbone
from extract.inputs.contract import Input
from fusion.bank.bank import Bank
from fusion.bank.batches import Batch
from fusion.bank.counted_padding import padding_rows
from fusion.bank.normalisation import Moments, measure_moments
from fusion.bank.rows import ResidentRows
from fusion.bank.unseen import drop_unseen
from fusion.model import FusionModel
from fusion.settings import TrainConfig
from fusion.training.building import build_model
from fusion.training.fitting import EpochRecord, Groups, Keeper, fit
from fusion.training.postprocessing import Fitted
from fusion.training.reading import Reading
from fusion.training.trainer import (
    check_kinds,
    check_window,
    choose_answers,
    cut_training_batches,
    make_objective,
    validate,
)
from pipelines.endtoend.augmentation import change_images, change_sound
from pipelines.endtoend.batches import Augment, ItemBatches
from pipelines.endtoend.folding import folded_norms
from pipelines.endtoend.fronts import Fronts, Readers
from pipelines.endtoend.items import PASS, ItemReader, TrialItems
from pipelines.endtoend.network import EndToEnd
from pipelines.endtoend.settings import FinetuneConfig

_MEASURED = 4096  # items of the training trials that moments are measured on


class Watch:
    """Told how a fine-tuning goes; this one ignores it."""

    def step(self, epoch: int, steps: int, loss: Tensor) -> None:
        """One of an epoch's steps; to read its loss is to wait for the device. Epochs are numbered over all stages."""

    def epoch(self, record: EpochRecord) -> None:
        """The end of an epoch."""

    def stop(self, left: int) -> None:
        """The end of a stage with so many epochs left, as none of the last ones was the best."""


@dataclass(frozen=True, eq=False)
class Finetuned:
    """What fine-tuning ended with: the weights of the best epoch.

    Attributes:
        backbones: modality → its backbone, in evaluation mode.
        fusion: the fusion model, in evaluation mode; it reads the rows of trained backbones as they are.
        moments: modality → moments that normalise its embeddings; of trained ones, those that change nothing.
        history: every epoch of every stage.
        best_epoch: whose weights these are.
        reading: the windows that the fusion model makes its predictions in, as chosen on the validation trials.
        fitted: the post-processing that was fitted on them, as in `fusion.training.checkpoint.Checkpoint`.
    """

    backbones: dict[str, Backbone]
    fusion: FusionModel
    moments: dict[str, Moments]
    history: tuple[EpochRecord, ...]
    best_epoch: int
    reading: Reading
    fitted: Fitted


def finetune(
    backbones: Mapping[str, Backbone],
    readers: Mapping[str, ItemReader],
    bank: Bank,
    fold: Fold,
    model: str,
    settings: Any,
    config: TrainConfig,
    how: FinetuneConfig,
    keep: Callable[[int, ItemBatches], Keeper] | None = None,
    watch: Watch | None = None,
    fronts: Fronts | None = None,
) -> Finetuned:
    """Train backbones under a fusion model; on the CPU the same arguments give the same weights.

    Its windows of prediction and its post-processing are chosen as those of any fusion model: the validation trials, embedded
    with the final weights, are read in all windows that are tried. These count frames of the label clock, without
    `dilation`, as validation does after every epoch.

    Args:
        backbones: modality → the backbone that is trained, with the weights that it starts from.
        readers: modality → what its backbone reads of the fold's training and validation trials.
        bank: labels, and the features of the modalities whose backbones are not trained.
        fold: weights and moments are fitted on its training trials only; its validation trials choose the epoch.
        model: name of the fusion model, which is trained from fresh weights.
        settings: settings of the model.
        config: settings of the loop.
        how: settings of fine-tuning.
        keep: number of a stage and its batches → keeper of its state.
        watch: told of every step and epoch.
        fronts: where the output of frozen fronts is kept; by default it is computed in every step.

    Raises:
        SettingError: if settings contradict each other.
        CorpusError: if training or validation trials have no labels.
        AvFusionError: if the loss becomes nan or infinite, or a medium cannot be read.
    """
    chosen = _choose_frames(bank, readers, fold, config)
    moments = chosen.measure(fold.train, config.normalise, config.normalise_of)
    teaching = chosen.normalised(moments, [*fold.train, *fold.validate])
    judging = chosen.normalised(moments, fold.validate)
    moments |= {name: _moments(backbones[name], readers[name], fold, how).to(bank.device) for name in backbones}
    padding = None if config.masked else padding_rows(moments)
    objective = make_objective(teaching, fold, config)
    windows = cut_training_batches(teaching, fold, config)
    teachers = {name: _teacher(reader, how) for name, reader in readers.items()}
    with torch.random.fork_rng(devices=[bank.device] if bank.device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        dims = bank.dims | {name: backbone.dim for name, backbone in backbones.items()}
        fusion = _build_fusion(model, dims, config, settings)
        network = EndToEnd(backbones, fusion, moments, how.batch_norm == "learn", how.piece, how.precision)
        network.to(bank.device)
        network.to(memory_format=torch.channels_last)  # convolutions run twice as fast on a CPU
        changes = _changes(backbones, how)
        reading = Readers(network, fronts, changes, how)

        def embed() -> Bank:
            return _embed(network, judging, reading.open(readers))

        def make_batches(stage: int) -> ItemBatches:
            order = None if config.reshuffle else config.seed
            open_readers = partial(reading.open, teachers)
            return ItemBatches(windows, open_readers, changes, config.seed + stage, how.windows, order, padding)

        latest: list[Bank] = []

        def run_validation() -> dict[str, float]:
            latest[:] = [embed()]
            return validate(fusion, latest[0], fold, config, padding)

        stages = _Stages(network, objective, make_batches, run_validation, config, how, keep, watch or Watch())
        with nullcontext() if network.norms_learn else folded_norms(backbones.values()):
            history, best_epoch = stages.run()
            known = latest[0] if latest and best_epoch == len(history) - 1 else embed()
    answers = choose_answers(fusion, known, fold, config, padding, history[best_epoch].score)
    network.eval().requires_grad_(False)
    return Finetuned(dict(backbones), fusion, moments, history, best_epoch, *answers)


def _choose_frames(bank: Bank, readers: Mapping[str, ItemReader], fold: Fold, config: TrainConfig) -> Bank:
    """The targets and the frames that training and validation use."""
    chosen = bank.select_targets(config.targets)
    check_kinds(chosen.targets, config.loss)
    if not config.drop_unseen:
        return chosen
    valid = {name: _valid(chosen, readers[name]) for name in readers.keys() & set(config.drop_unseen)}
    return drop_unseen(replace(chosen, valid=chosen.valid | valid), config.drop_unseen, fold)


@dataclass(frozen=True, eq=False)
class _Stages:
    """The runs of the loop, one after another.

    Attributes:
        make_batches: number of a stage → its training batches.
        run_validation: returns target → validation CCC of the network in its present state.
    """

    network: EndToEnd
    objective: nn.Module
    make_batches: Callable[[int], ItemBatches]
    run_validation: Callable[[], dict[str, float]]
    config: TrainConfig
    how: FinetuneConfig
    keep: Callable[[int, ItemBatches], Keeper] | None
    watch: Watch

    def run(self) -> tuple[tuple[EpochRecord, ...], int]:
        """Train; the network ends with the weights of the best epoch.

        Returns:
            Every epoch of every stage, and the number of the best one.
        """
        history: list[EpochRecord] = []
        best: tuple[int, dict[str, Tensor]] | None = None
        for number, (stage, groups) in enumerate(_stages(self.config, self.how)):
            batches = self.make_batches(number)
            keeper = self.keep(number, batches) if self.keep else None
            count = partial(_count_over_stages, number, len(history))
            tell = partial(_tell, self.watch, count)
            gradients = _Gradients(self.objective, self.how.clip, self.watch, batches, len(history))
            done, kept = fit(
                self.network, self.objective, batches, self.run_validation, stage, groups, tell, gradients, keeper
            )
            kept += len(history)
            history += map(count, done)
            if len(done) < stage.epochs:
                self.watch.stop(stage.epochs - len(done))
            if best is None or history[kept].score > history[best[0]].score:
                best = kept, copy.deepcopy(self.network.state_dict())
        assert best is not None
        self.network.load_state_dict(best[1])
        return tuple(history), best[0]


def _build_fusion(model: str, dims: Mapping[str, int], config: TrainConfig, settings: Any) -> FusionModel:
    fusion = build_model(model, dims, config.targets, settings)
    if fusion.solvable:
        raise SettingError(
            f"Model '{model}' is solved in closed form and gives backbones no gradient. Choose another model."
        )
    check_window(fusion, config)
    return fusion


def _moments(backbone: Backbone, reader: ItemReader, fold: Fold, how: FinetuneConfig) -> Moments:
    """What normalises the rows of a backbone that is trained."""
    if how.normalise == "none":
        return Moments(torch.zeros(backbone.dim), torch.ones(backbone.dim))
    per_trial = -(-_MEASURED // len(fold.train))
    rows = (_embed_some(backbone, reader.trial(trial_id), per_trial) for trial_id in fold.train)
    return measure_moments(backbone.name, ((found, torch.ones(len(found), dtype=torch.bool)) for found in rows))


@torch.no_grad()
def _embed_some(backbone: Backbone, trial: TrialItems, count: int) -> Tensor:
    """Rows (R, D) of at most so many items of a trial, evenly spaced."""
    used = trial.alignment.used_items()
    places = np.linspace(0, len(used) - 1, min(count, len(used))).round().astype(np.int64)
    parts = [used[places][start : start + PASS] for start in range(0, len(places), PASS)]
    return torch.cat([torch.zeros(0, backbone.dim), *(backbone(torch.from_numpy(trial.read(part))) for part in parts)])


def _stages(config: TrainConfig, how: FinetuneConfig) -> list[tuple[TrainConfig, Groups | None]]:
    """The runs of the loop, one after another, each with its groups of weights in the order of their release.

    Raises:
        SettingError: if no epoch is left for the second one.
    """
    if how.release == "gradual":
        return [(config, _release_groups)]
    if how.release == "together":
        return [(config, None)]
    if how.frozen_epochs >= config.epochs:
        raise SettingError(
            f"'frozen_epochs' is {how.frozen_epochs}, expected fewer than the {config.epochs} of 'train.epochs'. Change one of them."
        )
    later = replace(config, epochs=config.epochs - how.frozen_epochs, lr=how.released_lr)
    return [
        (replace(config, epochs=how.frozen_epochs), lambda network: [list(network.fusion.parameters())]),
        (later, None),
    ]


def _release_groups(network: EndToEnd) -> list[list[nn.Parameter]]:
    """Fusion model and first group of every backbone, then the second groups, and so on."""
    of_backbones = [cast(Backbone, backbone).release_groups() for backbone in network.backbones.values()]
    together = [list(chain(*groups)) for groups in zip_longest(*of_backbones, fillvalue=())]
    return [[*network.fusion.parameters(), *together[0]], *together[1:]]


def _teacher(reader: ItemReader, how: FinetuneConfig) -> ItemReader:
    """What reads for training: whole pictures, if random parts are cut out of them."""
    whole = reader.input.uncut()
    return reader if whole is reader.input or how.images.crop == 1 else reader.of(whole)


def _changes(backbones: Mapping[str, Backbone], how: FinetuneConfig) -> dict[str, Augment]:
    """Modality → random changes of its items, for the kinds of input that have any."""
    known: dict[str, Callable[[Input], Augment]] = {}
    if how.images.any:
        known["images"] = lambda kind: partial(change_images, config=how.images, size=kind.example(1).shape[1])
    if how.sound.any:
        known["waves"] = lambda kind: partial(change_sound, config=how.sound)
    return {name: known[each.input.name](each.input) for name, each in backbones.items() if each.input.name in known}


@dataclass(frozen=True, eq=False)
class _Gradients:
    """Gradients of a step in a stage before which there were `first` epochs."""

    objective: nn.Module
    clip: float
    watch: Watch
    batches: ItemBatches
    first: int

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        loss: Tensor = self.objective(model(batch.inputs), batch.targets, batch.mask)
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(model.parameters(), self.clip)
        self.watch.step(self.first + self.batches.epoch, len(self.batches), loss.detach())
        return loss


def _tell(watch: Watch, count: Callable[[EpochRecord], EpochRecord], record: EpochRecord) -> None:
    watch.epoch(count(record))


def _count_over_stages(stage: int, first: int, record: EpochRecord) -> EpochRecord:
    """A record of a run of the loop, with its epoch and stage counted over all runs."""
    return replace(record, epoch=first + record.epoch, stage=stage + record.stage)


@torch.no_grad()
def _embed(network: EndToEnd, bank: Bank, readers: Mapping[str, ItemReader]) -> Bank:
    """A bank of normalised features with those of the trained backbones as they are now."""
    was_training = network.training
    network.eval()
    embeddings, valid = dict(bank.embeddings), dict(bank.valid)
    for modality, reader in readers.items():
        rows = torch.zeros(len(bank.labels), network.fusion.dims[modality])
        for trial_id in bank.lengths:
            trial = reader.trial(trial_id)
            found = trial.embed(partial(network.embed_normalised, modality), rows.shape[1], bank.device)
            rows[bank.span(trial_id)] = torch.from_numpy(found[bank.frames(trial_id)])
        embeddings[modality] = ResidentRows(rows.to(bank.device))
        valid[modality] = _valid(bank, reader)
    network.train(was_training)
    return replace(bank, embeddings=embeddings, valid=valid)


def _valid(bank: Bank, reader: ItemReader) -> Tensor:
    """(F + 1,) true where a backbone that is trained sees input."""
    valid = torch.zeros(len(bank.labels), dtype=torch.bool)
    for trial_id in bank.lengths:
        valid[bank.span(trial_id)] = torch.from_numpy(reader.trial(trial_id).alignment.valid[bank.frames(trial_id)])
    return valid.to(bank.device)
