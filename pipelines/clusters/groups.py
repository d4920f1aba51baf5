"""Groups of items for the tasks of a cluster, and what is to be done about those whose worker died."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

_EACH = 8  # groups for each worker, so that the last ones end at about the same time
_MOST = 64  # items of a group: what a worker that dies may lose
_DEATHS = 2  # after so many an item is set aside


class Item(NamedTuple):
    """Something to work on, usually a trial.

    Attributes:
        name: its id.
        size: how long it takes, in the unit of the progress, such as frames.
        content: what the runner takes; picklable and small.
        of: what is made of it, where it is a part of what is to be made of this id.
    """

    name: str
    size: int
    content: Any
    of: str = ""

    def __str__(self) -> str:
        """As in messages."""
        return f"'{self.name}' ({self.of})" if self.of else f"'{self.name}'"


Divide = Callable[[Item], list[Item]]
"""Cuts an item into parts that different workers can take; into itself where there is one part only."""


def whole(item: Item) -> list[Item]:
    """An item that has no parts."""
    return [item]


@dataclass(frozen=True)
class Group:
    """Items for one task.

    Attributes:
        items: the items, the longest first.
        deaths: how often a worker died that had these items.
    """

    items: tuple[Item, ...]
    deaths: int = 0

    @property
    def size(self) -> int:
        """Size of all items."""
        return sum(item.size for item in self.items)

    @property
    def names(self) -> list[str]:
        """Their ids."""
        return [item.name for item in self.items]

    def is_to_blame(self) -> bool:
        """Whether its only item was there whenever a worker died, and that was often enough."""
        return len(self.items) == 1 and self.deaths >= _DEATHS

    def split(self, divide: Divide) -> list[Group]:
        """A group for each part of each item after a worker died, so that one that kills workers takes no other along."""
        return [Group((part,), self.deaths) for item in self.items for part in divide(item)]


def pack(items: Sequence[Item], workers: int) -> list[Group]:
    """Put items into groups of about equal size, longest items first; several for each worker.

    >>> [group.names for group in pack([Item("a", 1, None), Item("b", 9, None), Item("c", 2, None)], 1)]
    [['b'], ['c'], ['a']]
    """
    longest_first = sorted(items, key=lambda item: (-item.size, item.name))
    enough = sum(item.size for item in items) / (_EACH * max(1, workers))
    groups: list[Group] = []
    room: list[Item] = []
    for item in longest_first:
        room.append(item)
        if len(room) == _MOST or sum(each.size for each in room) >= enough:
            groups.append(Group(tuple(room)))
            room = []
    return [*groups, Group(tuple(room))] if room else groups
