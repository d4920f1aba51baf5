"""Predictions of the evaluated trials beside their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest, Trial
from cache.documents.arrays import read_arrays
from cache.errors import SettingError
from cache.names import encode_trial_id
from cache.targets import MEAN, Target
from pipelines.project import paths
from pipelines.project.scores import ScoresDocument, command


@dataclass(frozen=True)
class Predicted:
    """What the systems of `params.yaml` predicted.

    Attributes:
        targets: the C columns.
        systems: those that predict all of them.
        trials: each labelled trial, with labels (T, C), and what the systems predicted: system → (T, C).
    """

    targets: list[Target]
    systems: list[str]
    trials: list[tuple[Trial, Mapping[str, NDArray[np.float32]]]]


def read_predictions(document: ScoresDocument, manifest: Manifest) -> Predicted:
    """Read the predictions of the evaluated partition; none where nothing was scored.

    Raises:
        SettingError: if a file is damaged or belongs to another evaluation.
    """
    if not document.systems:
        return Predicted([], [], [])
    names = [target for target in next(iter(document.systems.values()))["ccc"] if target != MEAN]
    columns = [manifest.names.index(name) for name in names]
    systems = [name for name, scores in document.systems.items() if set(scores["ccc"]) == {*names, MEAN}]
    shapes = {encode_trial_id(trial.id): (trial.clock.num_frames, len(names)) for trial in manifest.trials}
    digests = document.predictions or {}
    remedy = f"Run '{command(paths.PROJECT.scores)}' again."
    archives = {
        name: read_arrays(paths.PREDICTIONS / f"{name}.npz", "<f4", shapes, digests.get(name, ""), remedy, SettingError)
        for name in systems
    }
    trials: list[tuple[Trial, Mapping[str, NDArray[np.float32]]]] = []
    for trial in manifest.trials:
        key = encode_trial_id(trial.id)
        found = {system: archive[key] for system, archive in archives.items() if key in archive}
        if found and trial.labels is not None:
            trials.append((replace(trial, labels=trial.labels[:, columns]), found))
    return Predicted([manifest.targets[column] for column in columns], systems, trials)
