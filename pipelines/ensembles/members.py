"""The networks of an ensemble, and the best of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cache.errors import SettingError
from fusion.training import checkpoint
from fusion.training.checkpoint import Checkpoint
from fusion.training.reading import AUTO
from pipelines.project.runs import DOCUMENT, load_networks


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
