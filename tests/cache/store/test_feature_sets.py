"""A feature set is found by its name, in today's layout and in that of older programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import SettingError
from cache.store.feature_sets import find_set, list_sets, locate_set, store_of

OLD = Path(__file__).parents[2] / "data/store_v1"


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}", encoding="utf-8")


def test_the_committed_old_store_is_found_by_name() -> None:
    found = find_set(OLD, "conv1d")
    assert (found.store, found.receipt) == (OLD / "audio/conv1d.zarr", OLD / "audio/conv1d.json")
    assert store_of(found.receipt) == found.store
    assert [place.name for place in list_sets(OLD)] == ["conv1d", "mobilefacenet"]


@pytest.mark.parametrize("features", ["local", "memory://sets"])
def test_the_layout_of_today_comes_first(tmp_path: Path, features: str) -> None:
    place = tmp_path / "features" if features == "local" else features
    new = locate_set(place, "face")
    assert find_set(place, "face") == new
    assert str(new.receipt).endswith("/receipts/face.json")
    assert str(store_of(new.receipt)) == str(new.store)
    if features == "local":
        touch(tmp_path / "features/visual/face.json")
        assert find_set(place, "face").store == tmp_path / "features/visual/face.zarr"
        touch(tmp_path / "features/receipts/face.json")
        assert find_set(place, "face") == new


def test_two_old_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "audio/x.json")
    touch(tmp_path / "visual/x.json")
    with pytest.raises(SettingError, match=r"audio/x\.zarr' and '.*visual/x\.zarr'.*Remove one.*receipts/x\.json"):
        find_set(tmp_path, "x")
