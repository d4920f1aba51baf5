"""Stage `matrix`: train and score many models over many sets of modalities, for comparison only."""

from __future__ import annotations

import shutil
from typing import Any

from cache.documents.documents import write_document, write_file
from cache.errors import SettingError
from cache.places.folders import Where, remove_file
from pipelines.console.console import note
from pipelines.project import networks, paths
from pipelines.project.params import Params
from pipelines.project.params_file import MATRIX
from pipelines.project.scores import ScoresDocument
from pipelines.stages.evaluation import SYSTEMS_HEADER, evaluate_systems
from pipelines.stages.selection import judge_selection
from pipelines.stages.training import train_systems


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
    for folder in (paths.MATRIX.models, paths.MATRIX.predictions):
        if folder.exists():
            shutil.rmtree(folder)
    remove_file(paths.MATRIX.history)
    paths.leave_folder(paths.MATRIX.models.parent)
    write_document(paths.MATRIX.scores, ScoresDocument, {"systems": {}})
    write_file(paths.MATRIX.systems, f"{SYSTEMS_HEADER}\n".encode())
    note(
        f"There is no section 'matrix' in params.yaml, and no {MATRIX}: nothing to train or compare; the stage's outputs are empty."
    )
