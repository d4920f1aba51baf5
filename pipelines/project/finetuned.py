"""Fine-tuned weights of the project: where each fine-tuning leaves them, and which ones a feature set asks for."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import groupby
from pathlib import Path

from cache.corpus.folds import Fold
from cache.corpus.manifest import Manifest, Trial
from cache.documents.documents import write_file
from cache.errors import LeakError, MissingFileError, SettingError, StoreError, with_full_stop
from cache.foreign import sha256_file
from cache.names import constant
from cache.recipe import Provenance, Seen
from cache.settings import Faults, expected_one_of
from cache.store.locks import claim, holder, locks_place, sweep, wait_for_any
from extract.backbones import BACKBONES
from fusion.models import MODELS
from pipelines.project import paths
from pipelines.project.params import Params
from pipelines.project.runs import DOCUMENT, Row, list_kept, read_history

_PATIENCE_S = 7 * 24 * 3600.0  # how long to wait for what another process trains

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
    _, colon, run = wanted.weights.partition(":")
    if colon and run not in params.finetune:
        known = expected_one_of(run, params.finetune) if params.finetune else "but there is no section 'finetune'"
        text = f"extract.{name}.weights is '{wanted.weights}', {known}"
        raise SettingError(with_full_stop(text))
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
    by = f"'{run}'" if run else "section 'finetune'"
    raise SettingError(
        f"extract.{name}.weights is '{wanted.weights}', but of {by} backbone '{wanted.backbone}' is trained by {several}; expected "
        f"exactly one. Write 'finetuned:NAME', or change section 'finetune'."
    )


def place(digest: str) -> Path:
    """Where the fine-tuning of a digest is kept."""
    return paths.FINETUNINGS / digest


def run_folder(run: str, fold: int, root: Path = paths.FINETUNED) -> Path:
    """The folder that holds, by links, the fine-tuning of a fold as params.yaml, or a paper, asks for it."""
    return root / run / f"fold{fold}"


def weights_folder(folder: Path) -> Path:
    """The weights of a fine-tuning."""
    return folder / "weights"


def fusion_folder(folder: Path) -> Path:
    """The fusion model that backbones were trained under."""
    return folder / "fusion"


def find_weights(folder: Path, modality: str) -> Path | None:
    """The file or folder with the weights of a modality that a fine-tuning left, if it did."""
    weights = weights_folder(folder)
    return next((path for path in (weights / f"{modality}.safetensors", weights / modality) if path.exists()), None)


@contextmanager
def claimed(digest: str) -> Iterator[bool]:
    """Take a fine-tuning for this process; false if another one is at it."""
    paths.FINETUNINGS.mkdir(parents=True, exist_ok=True)
    taken = claim(paths.FINETUNINGS, digest)
    with taken or nullcontext():
        yield taken is not None


def wait_for(digest: str) -> None:
    """Wait until another process has finished a fine-tuning, or given it up.

    Raises:
        StoreError: if it does not within a week.
    """
    who = holder(paths.FINETUNINGS, digest) or "just given back"
    warnings.warn(f"Waiting for a fine-tuning of another process; it is {who}.", stacklevel=2)
    if not wait_for_any(paths.FINETUNINGS, [digest], _PATIENCE_S):
        raise StoreError(f"The fine-tuning '{digest[:12]}' is {who}. Then run 'avfusion finetune' again.")


def name_finetuning(digest: str, folder: Path) -> None:
    """Let the folder of a run hold the fine-tuning of a digest, by links where the file system has them."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as workshop:
        fresh, old = Path(workshop) / "fresh", Path(workshop) / "old"
        shutil.copytree(place(digest), fresh, copy_function=_link)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, target)


def list_finetunings() -> list[Row]:
    """One row per fine-tuning, as of `list_kept`; what it is are the modalities that it trained."""
    roots = (paths.FINETUNED, paths.REFINETUNED)
    runs = sorted(document.parents[1] for root in roots for document in root.glob(f"*/fold*/fusion/{DOCUMENT}"))
    return list_kept(
        paths.FINETUNINGS,
        ((run.relative_to(paths.FINETUNED.parent).as_posix(), fusion_folder(run)) for run in runs),
        lambda folder: (
            " and ".join(sorted({path.name.partition(".")[0] for path in weights_folder(folder).glob("*")}))
            or "unfinished"
        ),
    )


def remove_finetuning(folder: Path) -> bool:
    """Remove a fine-tuning, or its state; false if a process is at it."""
    taken = claim(paths.FINETUNINGS, folder.name)
    if taken is not None:
        with taken:
            shutil.rmtree(folder)
    sweep(paths.FINETUNINGS)
    return taken is not None


def remove_fronts() -> bool:
    """Remove the outputs of frozen fronts; false if there are none, or a fine-tuning may be reading them."""
    is_free = paths.FRONTS.exists() and not list(Path(locks_place(paths.FINETUNINGS)).glob("*"))
    if is_free:
        shutil.rmtree(paths.FRONTS)
    return is_free


def find_folds(params: Params, name: str) -> list[int]:
    """Numbers of the folds that a feature set has weights of its own for; where it has not, that of any fold.

    Raises:
        SettingError: if no fine-tuning makes its weights, or more than one.
    """
    chosen = max(0, params.fusion.folds.number)
    if params.fusion.folds.number >= 0 or not asks_for_finetuned(params.extract[name].weights):
        return [chosen]
    run, _ = find_finetuning(params, name)
    return sorted(_folds_of(run)) or [chosen]


def _folds_of(run: str) -> dict[int, Path]:
    """Number of a fold → the fusion model of its fine-tuning; folders of other names are somebody else's."""
    found = {path.parent.name.removeprefix("fold"): path for path in paths.FINETUNED.glob(f"{run}/fold*/fusion")}
    return {int(number): path for number, path in found.items() if number.isdecimal()}


def gather_finetunings(params: Params) -> list[Row]:
    """Every epoch of every finished fine-tuning of params.yaml, fold by fold.

    Raises:
        WeightsError: if the document of one is damaged.
    """
    found = []
    for run in params.finetune:
        for _, folder in sorted(_folds_of(run).items()):
            if (folder / DOCUMENT).is_file():
                found += [{**row, "system": run} for row in read_history(folder)]
    return found


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
    path = find_weights(run_folder(run, fold), modality)
    if path is None:
        raise MissingFileError(
            f"Feature set '{name}' needs the weights of fine-tuning '{run}', which are not in '{run_folder(run, fold)}'. Run "
            f"'avfusion finetune --run {run}'."
        )
    return str(path)


def find_faults(params: Params) -> Faults:
    """Faults of section `finetune` and of the weights that feature sets ask of it, beyond those of single settings."""
    faults: Faults = {}
    made: dict[str, set[str]] = {}
    for run, finetuning in params.finetune.items():
        if finetuning.release == "two-stage" and finetuning.frozen_epochs >= finetuning.train.epochs:
            faults[f"finetune.{run}.frozen_epochs"] = (
                f"is {finetuning.frozen_epochs}, expected fewer than the {finetuning.train.epochs} of 'train.epochs'"
            )
        if finetuning.release == "gradual" and finetuning.train.schedule != "plateau":
            faults[f"finetune.{run}.train.schedule"] = (
                f"is '{finetuning.train.schedule}', expected plateau, which alone releases weights gradually"
            )
        if constant(MODELS[finetuning.model], "solvable", "False") == "True":
            faults[f"finetune.{run}.model"] = (
                f"is '{finetuning.model}', which is solved in closed form and gives backbones no gradient; choose another"
            )
        if len(finetuning.train.networks()) > 1:
            faults[f"finetune.{run}.train.per_target"] = (
                "is true, but backbones are trained once for all targets, expected false; name one target in 'train.targets' for "
                "backbones of its own"
            )
        read = {_kind_of(params, finetuning.modalities[modality]) for modality in finetuning.tuned}
        for setting, kind, changes in (("images", "visual", finetuning.images), ("sound", "audio", finetuning.sound)):
            if changes.any and None not in read and kind not in read:
                faults[f"finetune.{run}.{setting}"] = (
                    f"changes what no trained backbone reads: none is {kind}; remove it"
                )
        for modality in finetuning.tuned:
            start, key = finetuning.modalities[modality], f"finetune.{run}.modalities.{modality}"
            if start not in params.extract:
                faults[key] = f"is '{start}', which section 'extract' lacks; {expected_one_of(start, params.extract)}"
            elif asks_for_finetuned(params.extract[start].weights):
                earlier = ", ".join(made) or "there is none"
                if not (own := _asked(params, start)) or own[0] not in made:
                    faults[key] = (
                        f"starts from the weights of '{start}', expected those of an earlier fine-tuning ({earlier})"
                    )
        made[run] = set(finetuning.tuned)
    for name, section in params.extract.items():
        if asks_for_finetuned(section.weights):
            try:
                run, modality = find_finetuning(params, name)
            except SettingError as error:
                key = f"extract.{name}.weights"
                faults[key] = str(error).removeprefix(f"{key} ").removesuffix(".")
                continue
            start = params.finetune[run].modalities[modality]
            own, theirs = vars(section.settings), vars(params.extract[start].settings)
            for setting in own:
                if own[setting] != theirs[setting]:
                    faults[f"extract.{name}.settings.{setting}"] = (
                        f"is {own[setting]!r}, expected {theirs[setting]!r}, with which its weights are trained (those of '{start}')"
                    )
    return faults


def _kind_of(params: Params, name: str) -> str | None:
    """What the backbone of a feature set reads; None if there is no such set."""
    return constant(BACKBONES[params.extract[name].backbone], "modality") if name in params.extract else None


def _asked(params: Params, name: str) -> tuple[str, str] | None:
    try:
        return find_finetuning(params, name)
    except SettingError:  # reported with the set itself
        return None


def leave_traces(params: Params) -> None:
    """For each feature set a file that changes with the fine-tuned weights it asks for: what DVC extracts again.

    Raises:
        SettingError: if no fine-tuning makes them, or more than one.
        MissingFileError: if it did not finish.
    """
    folder = paths.FINETUNED / paths.SETS
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


def refuse_leak(known: Provenance, fold: Fold, manifest: Manifest, read: Callable[[str], str], what: str) -> None:
    """Check that weights have not seen the trials that a fold keeps apart.

    Trials with the same labels are the same, whatever their ids. Trials of one id are the same unless neither their labels nor
    what the backbone reads of them agree.

    Args:
        known: the background of the weights.
        fold: its test trials must be unknown to the weights; its validation trials may only have chosen their epoch.
        manifest: of the fold's trials.
        read: trial id → digest of what the backbone reads of it; "" if unknown.
        what: for the message.

    Raises:
        LeakError: names the first of these trials.
    """
    if not known.trials and not known.selection:
        return
    for part, seen in (("test", {*known.trials, *known.selection}), ("validation", set(known.trials))):
        labels = {each.labels for each in seen if each.labels}
        namesakes = {name: list(group) for name, group in groupby(sorted(seen), key=lambda each: each.id)}
        leaked = [
            trial_id
            for trial_id in fold.part(part)
            if manifest.trial(trial_id).labels_digest in labels
            or any(_may_be(each, manifest.trial(trial_id), read) for each in namesakes.get(trial_id, ()))
        ]
        if leaked:
            raise LeakError(
                f"{what[0].upper()}{what[1:]} has seen {len(leaked)} {part} trial{'s' * (len(leaked) > 1)} of fold {fold.index} (first: "
                f"'{leaked[0]}'): figures on them would be too good. Use weights that were fine-tuned on this fold; if these were, a trial "
                "that they learned from has the same labels: put both in one partition."
            )


def _may_be(seen: Seen, trial: Trial, read: Callable[[str], str]) -> bool:
    """Whether trials of the same id but other labels may be the same: unless labels and media are known of both, and differ."""
    if not (seen.labels and seen.media and trial.labels_digest):
        return True
    return read(trial.id) in ("", seen.media)
