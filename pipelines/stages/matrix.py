"""Stage `matrix`: train and score many models over many sets of modalities, for comparison only.

The best of many by validation looks better than it is: the scores also say how much of its figure is luck, and its drop on the test partition.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any

from cache.corpus.manifest import Manifest
from cache.documents.arrays import read_arrays
from cache.documents.documents import write_document, write_file
from cache.errors import SettingError
from cache.names import encode_trial_id
from cache.places.folders import Where, remove_file
from cache.targets import MEAN
from fusion.scores.intervals import luck_of_best, measure
from fusion.scores.metric import load_metrics
from pipelines.console.console import note
from pipelines.project import networks, paths
from pipelines.project.corpus_files import load_corpus
from pipelines.project.params import EvaluateParams, FusionParams, Params
from pipelines.project.params_file import MATRIX
from pipelines.project.scores import ScoresDocument
from pipelines.stages.evaluation import SYSTEMS_HEADER, evaluate_systems
from pipelines.stages.training import train_systems

_FOLDER = paths.MATRIX.models.parent / "validation"
VALIDATED = paths.MATRIX._replace(
    predictions=_FOLDER / "predictions", scores=_FOLDER / "scores.json", systems=_FOLDER / "systems.csv"
)


def train_matrix(params: Params, features: Where = paths.FEATURES, redo: bool = False) -> dict[str, Any]:
    """Train and score section `matrix`, apart from the systems of section `fusion`; returns the scores.

    Args:
        params: all settings.
        features: folder or URL of all features.
        redo: train again what is already there.

    Raises:
        SettingError: if there is no such section.
        AvFusionError: whatever training or evaluation raises.
    """
    if params.matrix is None:
        raise SettingError(
            f"params.yaml has no section 'matrix', and there is no {MATRIX}; expected systems as in section 'fusion'. Add it."
        )
    train_systems(
        params.matrix, outputs=paths.MATRIX, features=features, redo=redo, partition=params.evaluate.partition
    )
    document = evaluate_systems(params.matrix, params.evaluate, paths.MATRIX, features)
    return judge_selection(params.matrix, params.evaluate, document, features)


def leave_empty() -> None:
    """Write empty outputs for stage `matrix`, if there is no such section."""
    networks.take_over(paths.MATRIX.models)
    for folder in (paths.MATRIX.models, paths.MATRIX.predictions, _FOLDER):
        if folder.exists():
            shutil.rmtree(folder)
    remove_file(paths.MATRIX.history)
    paths.leave_folder(paths.MATRIX.models.parent)
    write_document(paths.MATRIX.scores, ScoresDocument, {"systems": {}})
    write_file(paths.MATRIX.systems, f"{SYSTEMS_HEADER}\n".encode())
    note(
        f"There is no section 'matrix' in params.yaml, and no {MATRIX}: nothing to train or compare; the stage's outputs are empty."
    )


def judge_selection(
    params: FusionParams, evaluate: EvaluateParams, document: Mapping[str, Any], features: Where
) -> dict[str, Any]:
    """The scores of a matrix with `selection`: what choosing its best system by validation came to.

    Its `systems` are how many were looked at, `best` is the one with the highest validation CCC of its runs' mean prediction,
    `validation`; `luck` is how much of that the choice is expected to owe to the validation trials
    (`fusion.scores.intervals.luck_of_best`), `wins` the share of resamples in which it is the best, too. `test` is its CCC on the test
    partition, `drop` the difference, and `typical_drop` the median of all systems: what the partition, and not the choice, takes.

    Args:
        params: section `matrix`.
        evaluate: section `evaluate`.
        document: its scores.
        features: folder or URL of all features.

    Returns:
        The scores, unchanged where only validation trials have labels, or there are fewer than two systems.
    """
    systems = document["systems"]
    if document["partition"] != "test" or len(systems) < 2:
        return dict(document)
    plain = replace(evaluate, partition="validation", postprocess=(), best_folds=0)
    validated = evaluate_systems(params, plain, VALIDATED, features)
    targets = [target for target in next(iter(systems.values()))["ccc"] if target != MEAN]
    names = [name for name in systems if {*systems[name]["ccc"]} == {*targets, MEAN} and name in validated["systems"]]
    manifest = load_corpus()
    kind = load_metrics()["ccc"]
    sums = [_sum(name, validated["predictions"][name], targets, manifest) for name in names]
    luck, wins = luck_of_best(sums, kind, evaluate.draws, evaluate.seed)
    before = {name: _together(validated, name) for name in names}
    after = {name: _together(document, name) for name in names}
    best = max(names, key=before.__getitem__)
    selection = {
        "systems": len(names),
        "best": best,
        "validation": before[best],
        "luck": luck,
        "wins": wins,
        "test": after[best],
        "drop": before[best] - after[best],
        "typical_drop": median(before[name] - after[name] for name in names),
    }
    judged = {**document, "selection": selection}
    write_document(paths.MATRIX.scores, ScoresDocument, judged)
    return judged


def _together(document: Mapping[str, Any], name: str) -> float:
    """CCC of the mean prediction of a system's runs."""
    return float(document["systems"][name]["ccc"][MEAN]["ensemble"])


def _sum(name: str, digest: str, targets: list[str], manifest: Manifest) -> Any:
    """Trial id → the sums of the CCC of a system's predictions."""
    columns = [manifest.names.index(target) for target in targets]
    shapes = {encode_trial_id(trial.id): (trial.clock.num_frames, len(targets)) for trial in manifest.trials}
    path = VALIDATED.predictions / f"{name}.npz"
    arrays = read_arrays(path, "<f4", shapes, digest, "Run 'avfusion matrix' again.", SettingError)
    found = {encode_trial_id(each.id): each.labels[:, columns] for each in manifest.trials if each.labels is not None}
    run = {key: (array, found[key]) for key, array in arrays.items() if key in found}
    return measure(run, {"ccc": load_metrics()["ccc"]})["ccc"]
