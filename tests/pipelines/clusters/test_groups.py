"""Groups of items: every item once, the longest first, small enough for the last ones to end together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pipelines.clusters.groups import Item, pack, whole


@given(st.lists(st.integers(1, 10_000), max_size=300), st.integers(1, 20))
def test_every_item_is_in_one_group(sizes: list[int], workers: int) -> None:
    items = [Item(f"t{number}", size, number) for number, size in enumerate(sizes)]
    groups = pack(items, workers)
    assert Counter(item for group in groups for item in group.items) == Counter(items)
    assert all(1 <= len(group.items) <= 64 for group in groups)
    in_order = [item.size for group in groups for item in group.items]
    assert in_order == sorted(in_order, reverse=True)
    fair = sum(sizes) / (8 * workers)
    assert all(group.size < fair + group.items[-1].size or len(group.items) == 1 for group in groups)


def test_an_item_is_to_blame_once_it_was_there_twice() -> None:
    (group,) = pack([Item("a", 1, None), Item("b", 1, None)] * 1, 1)[:1]
    group = replace(group, items=(Item("a", 1, None), Item("b", 1, None)), deaths=1)
    assert not group.is_to_blame()
    first, second = group.split(whole)
    assert (first.names, second.names) == (["a"], ["b"])
    assert not first.is_to_blame()
    parts = first.split(lambda item: [item._replace(of="faces"), item._replace(of="sound")])
    assert [list(map(str, part.items)) for part in parts] == [["'a' (faces)"], ["'a' (sound)"]]
    assert {part.deaths for part in parts} == {1}
    assert replace(first, deaths=first.deaths + 1).is_to_blame()
    assert not replace(group, deaths=5).is_to_blame()  # nobody knows which of them it was
