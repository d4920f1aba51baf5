"""Where the networks of runs lie: by the names of their systems, or their folders. Names are refused before torch is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from cache.errors import MissingFileError, UnknownNameError, with_full_stop
from cache.foreign import sha256_file
from cache.settings import expected_one_of, find_nearest
from pipelines.project import paths

Run = str | Path
"""SYSTEM, SYSTEM/foldK or SYSTEM/foldK/seedN of the project, SYSTEM/foldK/seedN/TARGET where each target has a network of its own, or a
folder anywhere that is one of these."""

_LAYOUTS = (
    "",
    "*/",
    "seed*/*/",
    "fold*/seed*/",
    "fold*/seed*/*/",
)  # of networks in the folder of a target, run, fold or system


def find_networks(runs: Iterable[Run], models: Sequence[Path] = (paths.MODELS, paths.MATRIX.models)) -> list[Path]:
    """Folders of the networks of some runs, each once.

    Args:
        runs: what to find.
        models: folders with a folder per system.

    Raises:
        MissingFileError: if a folder has no trained network, or a system was not trained on such a fold.
        UnknownNameError: if a run is neither a folder nor the name of a trained system.
    """
    return list(dict.fromkeys(folder for run in runs for folder in _find(run, models)))


def _find(run: Run, models: Sequence[Path]) -> list[Path]:
    systems = {path.name: path for root in reversed(models) for path in sorted(root.glob("*")) if path.is_dir()}
    system, *part = Path(run).parts or ("",)
    folder = systems[system].joinpath(*part) if system in systems else Path(run).expanduser()
    if not folder.is_dir():
        if system in systems:
            raise _no_part(run, systems[system], part)
        if part or not systems:
            raise MissingFileError(
                f"No model '{run}'. Give the folder of a trained run, such as work/models/<system>/fold0/seed0, or run this in "
                "the project's folder and name one of its systems."
            )
        remedy = "Correct it." if find_nearest(system, systems) else "Run 'avfusion train' first if params.yaml has it."
        raise UnknownNameError(
            f"There is no trained system and no folder '{run}', {with_full_stop(expected_one_of(system, systems))} {remedy}"
        )
    found = _list_networks(folder)
    if not found:
        from fusion.training.checkpoint import DOCUMENT, TENSORS

        half = f" It has {TENSORS}, so that only {DOCUMENT} is missing." if (folder / TENSORS).is_file() else ""
        raise MissingFileError(
            f"'{folder}' has no trained network, expected {DOCUMENT} and {TENSORS}, as 'avfusion train' leaves them, in it or below it, in "
            f"fold0/seed0 and the like.{half} Check the path."
        )
    return found


def _no_part(run: Run, system: Path, part: Sequence[str]) -> MissingFileError:
    """The error of a system that was trained, but not on this fold, with this seed or for this target alone."""
    trained = [found.relative_to(system.parent).as_posix() for found in _list_networks(system)]
    if not trained:
        return MissingFileError(
            f"There is no trained run '{run}', nor any other of '{system.name}'. Run 'avfusion train'."
        )
    whole = "/".join((system.name, *part[:2]))
    if len(part) == 3 and whole in trained:
        return MissingFileError(
            f"There is no network '{run}': '{whole}' predicts all of its targets with one network, and a fourth part names a target "
            f"only where each has its own (train.per_target). Name '{whole}'."
        )
    return MissingFileError(
        f"There is no trained run '{run}', {with_full_stop(expected_one_of(str(run), trained))} Name one of these."
    )


def _list_networks(folder: Path) -> list[Path]:
    """Folders of the networks in that of a system, a fold, a run or a network, by fold, seed and target."""

    from fusion.training import checkpoint

    def order(path: Path) -> list[tuple[str, int, str]]:
        parts = path.relative_to(folder).parts
        numbers = [part.removeprefix("fold").removeprefix("seed") for part in parts]
        return [
            (part[:4], int(n), "") if n.isdigit() else ("", 0, part) for part, n in zip(parts, numbers, strict=True)
        ]

    found = {path.parent for layout in _LAYOUTS for path in folder.glob(f"{layout}{checkpoint.DOCUMENT}")}
    return sorted(
        (path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)), key=order
    )


def digest_networks(folders: Iterable[Path]) -> list[str]:
    """Digest of every network: that of its document, which holds the digest of its weights."""
    from fusion.training import checkpoint

    return [sha256_file(folder / checkpoint.DOCUMENT) for folder in folders]
