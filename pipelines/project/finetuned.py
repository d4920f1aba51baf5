"""Fine-tuned weights of the project: where each fine-tuning leaves them, and which ones a feature set asks for."""

from __future__ import annotations

import json
from pathlib import Path

from cache.corpus.folds import Fold
from cache.documents.documents import write_file
from cache.errors import LeakError, MissingFileError, SettingError
from cache.foreign import sha256_file
from cache.recipe import Provenance
from cache.settings import expected_one_of
from pipelines.project import paths
from pipelines.project.params import Params

FINETUNED = "finetuned"
"""Stands for the weights of the project's fine-tuning of a backbone; `finetuned:NAME` for those of one of several."""


def asks_for_finetuned(weights: str) -> bool:
    """Whether a weights argument stands for fine-tuned weights of the project."""
    return weights.partition(":")[0] == FINETUNED


def find_finetuning(params: Params, name: str) -> tuple[str, str]:
    """The fine-tuning, and its modality, whose weights a feature set asks for.

    Raises:
        SettingError: if there is none, or more than one.
    """
    wanted = params.extract[name]
    run = wanted.weights.partition(":")[2]
    if run and run not in params.finetune:
        raise SettingError(
            f"extract.{name}.weights is '{wanted.weights}', but section 'finetune' has no '{run}'; {expected_one_of(run, params.finetune)}."
        )
    found = [
        (each, modality)
        for each, finetuning in params.finetune.items()
        for modality in finetuning.tuned
        if run in ("", each)
        and (start := params.extract.get(finetuning.modalities[modality])) is not None
        and start.backbone == wanted.backbone
    ]
    if len(found) == 1:
        return found[0]
    several = " and ".join(f"'{each}' as '{modality}'" for each, modality in found) or "no fine-tuning"
    raise SettingError(
        f"extract.{name}.weights is '{wanted.weights}', but backbone '{wanted.backbone}' is trained by {several} of section "
        f"'finetune'; expected exactly one. Write 'finetuned:NAME', or change section 'finetune'."
    )


def weights_folder(run: str, fold: int) -> Path:
    """Where a fine-tuning of a fold leaves its weights."""
    return paths.FINETUNED / run / f"fold{fold}" / "weights"


def fusion_folder(run: str, fold: int) -> Path:
    """Where it leaves the fusion model that backbones were trained under."""
    return paths.FINETUNED / run / f"fold{fold}" / "fusion"


def find_weights(run: str, fold: int, modality: str) -> Path | None:
    """The file or folder with the weights of a modality that a fine-tuning left, if it did."""
    folder = weights_folder(run, fold)
    return next((path for path in (folder / f"{modality}.safetensors", folder / modality) if path.exists()), None)


def find_folds(params: Params, name: str) -> list[int]:
    """Numbers of the folds that a feature set has weights of its own for; where it has not, that of any fold.

    Raises:
        SettingError: if no fine-tuning makes its weights, or more than one.
    """
    chosen = max(0, params.fusion.folds.number)
    if params.fusion.folds.number >= 0 or not asks_for_finetuned(params.extract[name].weights):
        return [chosen]
    run, _ = find_finetuning(params, name)
    found = (path.parent.name for path in paths.FINETUNED.glob(f"{run}/fold*/fusion"))
    return sorted(int(folder.removeprefix("fold")) for folder in found) or [chosen]


def resolve_weights(params: Params, name: str, fold: int) -> str:
    """The weights of a feature set: as they stand in params.yaml, or the path of those that a fine-tuning of a fold left.

    Raises:
        SettingError: if no fine-tuning makes them, or more than one.
        MissingFileError: if it did not finish.
    """
    wanted = params.extract[name].weights
    if not asks_for_finetuned(wanted):
        return wanted
    run, modality = find_finetuning(params, name)
    path = find_weights(run, fold, modality)
    if path is None:
        raise MissingFileError(
            f"Feature set '{name}' needs the weights of fine-tuning '{run}', which are not in '{weights_folder(run, fold)}'. Run "
            f"'avfusion finetune --run {run}'."
        )
    return str(path)


def leave_traces(params: Params) -> None:
    """For each feature set a file that changes with the fine-tuned weights it asks for: what DVC extracts again.

    Raises:
        SettingError: if no fine-tuning makes them, or more than one.
        MissingFileError: if it did not finish.
    """
    folder = paths.FINETUNED / "sets"
    for path in folder.glob("*.json"):
        if path.stem not in params.extract:
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    for name, section in params.extract.items():
        weights = {}
        if asks_for_finetuned(section.weights):
            found = {fold: Path(resolve_weights(params, name, fold)) for fold in find_folds(params, name)}
            weights = {
                fold: sha256_file(path / "model.safetensors" if path.is_dir() else path) for fold, path in found.items()
            }
        write_file(folder / f"{name}.json", (json.dumps({"weights": weights}) + "\n").encode())


def refuse_leak(known: Provenance, fold: Fold, what: str) -> None:
    """Check that weights have not seen the trials that a fold keeps apart.

    Args:
        known: the background of the weights.
        fold: its test trials must be unknown to the weights; its validation trials may only have chosen their epoch.
        what: for the message.

    Raises:
        LeakError: names the first of these trials.
    """
    learned, chosen = set(known.trials), set(known.selection)
    for part, seen in (("test", learned | chosen), ("validation", learned)):
        leaked = [trial_id for trial_id in fold.part(part) if trial_id in seen]
        if leaked:
            raise LeakError(
                f"{what[0].upper()}{what[1:]} learned from {len(leaked)} {part} trials of fold {fold.index} (first: "
                f"'{leaked[0]}'): figures on them would be too good. Use weights that were fine-tuned on this fold."
            )
