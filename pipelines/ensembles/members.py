"""The networks of an ensemble: found by the folders of their runs or the names of their systems, and the best of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cache.errors import MissingFileError, SettingError, UnknownNameError, with_full_stop
from cache.foreign import sha256_file
from cache.settings import expected_one_of
from fusion.training import checkpoint
from fusion.training.checkpoint import Checkpoint
from fusion.training.reading import AUTO
from pipelines.project import paths
from pipelines.project.runs import DOCUMENT, load_networks

Run = str | Path
"""SYSTEM, SYSTEM/foldK, SYSTEM/foldK/seedN or SYSTEM/foldK/seedN/TARGET of the project, or a folder anywhere that is one of these."""

_LAYOUTS = (
    "",
    "*/",
    "seed*/*/",
    "fold*/seed*/",
    "fold*/seed*/*/",
)  # of networks in the folder of a target, run, fold or system


@dataclass(frozen=True, eq=False)
class Member:
    """A network of an ensemble.

    Attributes:
        system: what it is an instance of; folds are ranked within a system.
        network: with its validation CCC.
        targets: those of its targets that count.
    """

    system: str
    network: Checkpoint
    targets: tuple[str, ...]

    @classmethod
    def of(cls, system: str, network: Checkpoint) -> Member:
        """A network all of whose targets count."""
        return cls(system, network, network.model.targets)

    def answering(self, window: int | str = AUTO, hop: int | str = AUTO, postprocess: Sequence[str] = ()) -> Member:
        """The same with another way to make predictions; arguments and errors as of `Checkpoint.answering`."""
        return replace(self, network=self.network.answering(window, hop, postprocess))

    def score(self, target: str) -> float:
        """Its validation CCC for a target."""
        return self.network.validation[target]


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
            trained = [
                found.relative_to(systems[system].parent).as_posix() for found in _list_networks(systems[system])
            ]
            known = f"expected one of {', '.join(trained)}" if trained else "nor any other"
            raise MissingFileError(
                f"There is no trained run '{run}', {known}. Name one of these, or run 'avfusion train'."
            )
        if part or not systems:
            raise MissingFileError(
                f"No model '{run}'. Give the folder of a trained run, such as work/models/<system>/fold0/seed0, or run this in "
                "the project's folder and name one of its systems."
            )
        raise UnknownNameError(
            f"There is no trained system and no folder '{run}', {with_full_stop(expected_one_of(system, systems))} Correct it, or "
            "run 'avfusion train' first."
        )
    found = _list_networks(folder)
    if not found:
        raise MissingFileError(f"'{folder}' has no trained network. Run 'avfusion train' first, or check the path.")
    return found


def _list_networks(folder: Path) -> list[Path]:
    """Folders of the networks in that of a system, a fold, a run or a network, by fold, seed and target."""

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


def load_members(folders: Iterable[Path]) -> list[Member]:
    """Load networks.

    Raises:
        MissingFileError: if the training of one did not finish.
        WeightsError: if one is damaged or was changed after its training.
    """
    members = []
    for folder in folders:
        (network,) = load_networks(folder) if (folder / DOCUMENT).is_file() else [checkpoint.load(folder)]
        place = folder.absolute()
        within = next((above for above in place.parents if above.name == f"fold{network.fold.index}"), place)
        members.append(Member.of(within.parent.name, network))
    return members


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
        own = best.setdefault(member.system, {}).setdefault(member.network.fold.index, {})
        for target in member.targets:
            if target not in own or member.score(target) > own[target].score(target):
                own[target] = member
    chosen = []
    for system, folds in best.items():
        if len(folds) < count:
            raise SettingError(
                f"The best {count} folds of '{system}' are asked for, expected at most {len(folds)}, its trained folds. Ask for "
                "fewer, or train more: set fusion.folds.number to -1."
            )
        ranked = sorted(folds.values(), key=lambda own: sum(own[t].score(t) for t in own), reverse=True)
        chosen += [replace(own[target], targets=(target,)) for own in ranked[:count] for target in own]
    return chosen


def digest_networks(folders: Iterable[Path]) -> list[str]:
    """Digest of every network: that of its document, which holds the digest of its weights."""
    return [sha256_file(folder / checkpoint.DOCUMENT) for folder in folders]
