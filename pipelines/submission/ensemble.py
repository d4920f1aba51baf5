"""The prediction of several runs of the project: folds, seeds and models, by their mean or weighted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest
from cache.errors import MissingFileError, SettingError
from cache.names import require_known
from cache.places.folders import Where
from fusion.training.checkpoint import Checkpoint
from fusion.training.inference import predict
from pipelines.console.console import progress
from pipelines.project import paths
from pipelines.project.params import FusionParams, Params
from pipelines.project.runs import load_networks, saved_runs
from pipelines.stages.training import Banks, torch_threads

WEIGHTINGS = ("mean", "ccc")
"""All networks count the same, or by their validation CCC for each target, those with 0 or less not at all."""


@dataclass(frozen=True, eq=False)
class Member:
    """A network of the ensemble.

    Attributes:
        system: which it belongs to.
        section: the section of params.yaml with this system.
        fold: number of the fold that it was trained on.
        network: with its validation CCC.
        targets: those of its targets that count.
    """

    system: str
    section: FusionParams
    fold: int
    network: Checkpoint
    targets: tuple[str, ...]


def find_members(params: Params, runs: Iterable[str]) -> list[Member]:
    """The networks of some runs, each once, which make their predictions as section `evaluate` says.

    Args:
        params: the project's, whose sections `fusion` and `matrix` name the systems.
        runs: SYSTEM, SYSTEM/foldK, SYSTEM/foldK/seedN or SYSTEM/foldK/seedN/TARGET each.

    Raises:
        UnknownNameError: if a system does not exist.
        MissingFileError: if a run was never trained.
        WeightsError: if a network is damaged.
    """
    sections = dict.fromkeys(params.matrix.systems if params.matrix else (), (params.matrix, paths.MATRIX))
    sections |= dict.fromkeys(params.fusion.systems, (params.fusion, paths.PROJECT))
    found: dict[Path, Member] = {}
    for run in runs:
        system, *part = run.strip("/").split("/")
        require_known("system in params.yaml", system, sections)
        section, outputs = sections[system]
        assert section is not None
        trained = {folder: folder.relative_to(outputs.models).parts for folder in saved_runs(outputs.models, system)}
        chosen = {folder: parts for folder, parts in trained.items() if list(parts[1 : 1 + len(part)]) == part}
        if not chosen:
            known = (
                f"expected one of {', '.join(map('/'.join, trained.values()))}. Name one of these"
                if trained
                else "nor any other"
            )
            raise MissingFileError(f"There is no trained run '{run}', {known}, or run 'avfusion train'.")
        for folder, parts in chosen.items():
            (network,) = load_networks(folder)
            fold = int(parts[1].removeprefix("fold"))
            answering = network.answering(*params.evaluate.answers)
            found[folder] = Member(system, section, fold, answering, network.model.targets)
    return list(found.values())


def keep_best(members: Sequence[Member], count: int) -> list[Member]:
    """Of each system the best folds, and of each of these the best network for each target, by validation CCC [Zhang2023].

    Args:
        members: all networks.
        count: number of folds.

    Raises:
        SettingError: if a system has fewer folds.
    """
    best: dict[str, dict[int, dict[str, Member]]] = {}
    for member in members:
        own = best.setdefault(member.system, {}).setdefault(member.fold, {})
        for target in member.targets:
            if target not in own or _score(member, target) > _score(own[target], target):
                own[target] = member
    chosen = []
    for system, folds in best.items():
        if len(folds) < count:
            raise SettingError(
                f"'--best-folds' is {count}, expected at most {len(folds)}, the trained folds of '{system}'. Change it, or train more: "
                "set fusion.folds.number to -1."
            )
        ranked = sorted(folds.values(), key=lambda own: sum(_score(own[t], t) for t in own), reverse=True)
        chosen += [replace(own[target], targets=(target,)) for own in ranked[:count] for target in own]
    return chosen


def _score(member: Member, target: str) -> float:
    return member.network.validation[target]


def predict_together(
    members: Sequence[Member], trial_ids: Sequence[str], manifest: Manifest, weighting: str, features: Where
) -> dict[str, NDArray[np.float32]]:
    """The prediction of an ensemble.

    Args:
        members: its networks.
        trial_ids: trials to predict.
        manifest: the corpus.
        weighting: one of `WEIGHTINGS`.
        features: folder or URL of the features.

    Returns:
        Trial → (T, C) in the ranges of the corpus's targets and in their order; nan where no network predicts a target.

    Raises:
        SettingError: if no network for a target is better than chance, and they count by their CCC.
    """
    weights = [_weights(member, manifest, weighting) for member in members]
    total = np.sum(weights, axis=0)
    predicted = {target for member in members for target in member.targets}
    weak = [name for name, weight in zip(manifest.names, total, strict=True) if name in predicted and weight <= 0]
    if weak:
        raise SettingError(
            f"The validation CCC of {' and '.join(weak)} is 0 or less for each of {len(members)} networks, so that none counts. Name "
            "other runs, or use --weights mean."
        )
    sums = {each: np.zeros((manifest.trial(each).clock.num_frames, len(total))) for each in trial_ids}
    with progress("predicting", len(members)) as advance:
        for (system, _), group in groupby(
            zip(members, weights, strict=True), key=lambda pair: (pair[0].system, pair[0].fold)
        ):
            own = list(group)
            section = own[0][0].section
            bank = Banks(section.systems[system], manifest, section, features).of_fold(own[0][0].network.fold)
            with torch_threads(section.threads):
                for member, weight in own:
                    columns = [manifest.names.index(target) for target in member.network.model.targets]
                    for prediction in predict(member.network, bank, trial_ids):
                        sums[prediction.trial_id][:, columns] += weight[columns] * prediction.values
                    advance(1, system)
    with np.errstate(invalid="ignore"):
        return {trial_id: (each / total).astype(np.float32) for trial_id, each in sums.items()}


def _weights(member: Member, manifest: Manifest, weighting: str) -> NDArray[np.float64]:
    """(C,) weight of a network for each target of the corpus."""
    scores = {target: 1.0 if weighting == "mean" else max(0.0, _score(member, target)) for target in member.targets}
    return np.array([scores.get(target, 0.0) for target in manifest.names])
