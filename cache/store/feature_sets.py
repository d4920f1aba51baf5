"""Paths of feature sets: `NAME.zarr` in the folder of all features, with its receipt in `receipts/NAME.json`.

Receipts have their own folder, so that a stage can depend on all of them and on nothing else. The layout of older versions,
`<modality>/NAME.zarr` with the receipt beside it, stays readable.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cache.errors import SettingError
from cache.places.folders import Where, is_file, join_place, open_folder, split_place

RECEIPTS = "receipts"


class FeatureSet(NamedTuple):
    """Paths of a feature set.

    Attributes:
        name: name of the set.
        store: its Zarr group; it need not exist.
        receipt: the receipt of its extraction; it need not exist.
    """

    name: str
    store: Where
    receipt: Where


def locate_set(features: Where, name: str) -> FeatureSet:
    """The paths to which a set is written.

    Args:
        features: folder or URL of all features.
        name: name of the set.
    """
    return FeatureSet(name, join_place(features, f"{name}.zarr"), join_place(features, f"{RECEIPTS}/{name}.json"))


def find_set(features: Where, name: str) -> FeatureSet:
    """The paths from which a set is read: those of `locate_set`, or those of older versions.

    Raises:
        SettingError: if there are two sets with this name in the layout of older versions.
    """
    place = locate_set(features, name)
    if is_file(place.receipt):
        return place
    old = [found for folder in old_folders(features) if is_file((found := _old_set(features, folder, name)).receipt)]
    if len(old) > 1:
        raise SettingError(
            f"There are {len(old)} sets of features '{name}', '{old[0].store}' and '{old[1].store}'; expected one. Remove one of "
            f"them with its receipt, or move it to '{place.store}' and '{place.receipt}'."
        )
    return old[0] if old else place


def list_sets(features: Where) -> list[FeatureSet]:
    """Every set that has a receipt; those in the layout of older versions come last."""
    return [found for _, sets in group_sets(features) for found in sets]


def group_sets(features: Where) -> list[tuple[list[Where], list[FeatureSet]]]:
    """Stores with the sets that have receipts: those in the current layout, then those in each folder of older versions."""
    root = open_folder(features)
    receipts = _receipt_names(root.child(RECEIPTS).files())
    groups = [(_stores(features), [locate_set(features, name) for name in receipts])]
    for folder in old_folders(features):
        names = _receipt_names(root.child(folder).files())
        groups.append((_stores(join_place(features, folder)), [_old_set(features, folder, name) for name in names]))
    return groups


def store_of(receipt: Where) -> Where:
    """The store that belongs to a receipt."""
    folder, name = split_place(receipt)
    if Path(folder.where).name == RECEIPTS:
        folder, _ = split_place(folder.where)
    return join_place(folder.where, f"{name.removesuffix('.json')}.zarr")


def name_of(store: Where) -> str:
    """The name of the set in a store."""
    return split_place(store)[1].removesuffix(".zarr")


def old_folders(features: Where) -> list[str]:
    """Folders of older versions, each with the sets of one modality."""
    return [name for name in open_folder(features).folders() if name != RECEIPTS and not name.endswith(".zarr")]


def _old_set(features: Where, folder: str, name: str) -> FeatureSet:
    return FeatureSet(
        name, join_place(features, f"{folder}/{name}.zarr"), join_place(features, f"{folder}/{name}.json")
    )


def _stores(folder: Where) -> list[Where]:
    return [join_place(folder, name) for name in open_folder(folder).folders() if name.endswith(".zarr")]


def _receipt_names(files: list[str]) -> list[str]:
    return [
        name.removesuffix(".json") for name in files if name.endswith(".json") and not name.endswith(".failures.json")
    ]
