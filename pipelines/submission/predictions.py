"""The prediction of several runs for the corpus of the project: folds, seeds and models, by their mean or weighted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest
from cache.errors import SettingError, counted
from cache.places.folders import Where
from extract.engine.devices import choose_device, torch_threads
from pipelines.console.console import progress
from pipelines.ensembles.ensemble import Ensemble
from pipelines.ensembles.finding import Run, find_networks
from pipelines.ensembles.members import keep_best, load_members
from pipelines.project.params import Params
from pipelines.submission.stores import ProjectStores


def gather_ensemble(runs: Iterable[Run], params: Params, best_folds: int = 0) -> Ensemble:
    """The networks of some runs, which make their predictions as section `evaluate` says.

    Args:
        runs: see `find_networks`.
        params: the project's.
        best_folds: see `keep_best`; 0 for all.

    Raises:
        AvFusionError: as `find_networks`, `load_members`, `keep_best` and `Ensemble.of`.
    """
    members = [member.answering(*params.evaluate.answers) for member in load_members(find_networks(runs))]
    return Ensemble.of(keep_best(members, best_folds) if best_folds else members)


def say_seen(ensemble: Ensemble, trial_ids: Sequence[str]) -> str:
    """Which of some trials the networks know already, from learning or from choosing an epoch; "" if none."""
    known: dict[str, str] = {}
    for member in ensemble.members:
        fold = member.network.fold
        known |= dict.fromkeys((*fold.train, *fold.validate), f"{member.system}/fold{fold.index}")
    seen = [trial_id for trial_id in trial_ids if trial_id in known]
    if not seen:
        return ""
    return (
        f"{len(seen)} of the {counted(len(trial_ids), 'trial')} are among those that networks were trained on or chosen by (first: "
        f"'{seen[0]}', of {known[seen[0]]}): predictions of them are better than those of new ones."
    )


def predict_corpus(
    ensemble: Ensemble, trial_ids: Sequence[str], manifest: Manifest, params: Params, features: Where, weighting: str
) -> dict[str, NDArray[np.float32]]:
    """Predict trials of the corpus.

    Args:
        ensemble: of networks that read features of the project.
        trial_ids: trials to predict.
        manifest: the corpus.
        params: device, threads and memory of section `fusion`.
        features: folder or URL of the features.
        weighting: see `Ensemble.weigh`.

    Returns:
        Trial → (T, C) in the ranges of the corpus's targets and in their order; nan where no network predicts a target.

    Raises:
        SettingError: if networks predict in other ranges, or none counts.
        FingerprintError: if the project does not have the features of a network.
    """
    own = {target.name: target for target in manifest.targets}
    for target in ensemble.targets:
        if (known := own.get(target.name, target)) != target:
            raise SettingError(
                f"The networks predict '{target.name}' in [{target.low:g}, {target.high:g}], expected [{known.low:g}, {known.high:g}] "
                "as in the corpus. Name other runs."
            )
    section = params.fusion
    with torch_threads(section.threads), progress("predicting", len(ensemble.members)) as advance:
        found = ensemble.predict(
            trial_ids,
            manifest,
            ProjectStores(features, manifest),
            weighting=weighting,
            device=str(choose_device(section.device)),
            memory_gb=section.bank.memory_gb,
            advance=advance,
        )
    order = {target.name: column for column, target in enumerate(ensemble.targets) if target.name in own}
    values = {}
    for trial_id, joint in found.items():
        values[trial_id] = np.full((len(joint.values), len(manifest.names)), np.nan, np.float32)
        for name, column in order.items():
            values[trial_id][:, manifest.names.index(name)] = joint.values[:, column]
    return values
