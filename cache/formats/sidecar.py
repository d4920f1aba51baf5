"""Folders with one file per trial, and recipe and commit records in `avfusion.json` beside them.

Names are percent-encoded if `avfusion.json` is there, else used unchanged. Hidden files are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.documents.documents import Document, RecipePart, read_document, write_document
from cache.errors import CorpusError, StoreError
from cache.foreign import reading
from cache.formats.interchange import SIDECAR, Bundle, Item
from cache.names import decode_trial_id, encode_trial_id
from cache.recipe import Recipe
from cache.store.records import VERSION, CommitDocument, CommitRecord, check_version

Loaded = tuple[NDArray[Any], NDArray[np.bool_], FrameClock | None]
"""Embeddings (T, D), valid (T,), and the clock if it is known."""


class _SidecarDocument(Document):
    version: int
    spec: RecipePart
    trials: dict[str, CommitDocument]


def write_folder(
    path: Path, recipe: Recipe, items: Iterable[Item], suffix: str, write: Callable[[Path, Item, CommitRecord], None]
) -> None:
    """Write a folder; `write` makes the file of one trial."""
    path.mkdir(parents=True)
    trials = {}
    for item in items:
        assert item.record is not None
        write(path / f"{encode_trial_id(item.trial_id)}{suffix}", item, item.record)
        trials[item.trial_id] = item.record.to_document()
    document = {"version": VERSION, "spec": recipe.to_document(), "trials": dict(sorted(trials.items()))}
    write_document(path / SIDECAR, _SidecarDocument, document)


def read_folder(path: Path, suffix: str, load: Callable[[Path, FrameClock | None, Recipe | None], Loaded]) -> Bundle:
    """Read a folder; `load` is given a trial's file, its clock if known, and the recipe if the folder has one.

    Raises:
        CorpusError: if it is not a folder, cannot be listed, or two files have the same name.
        StoreError: if `avfusion.json` is damaged or has a newer version.
    """
    sidecar = path / SIDECAR
    document = read_document(sidecar, _SidecarDocument, "Export again, or remove it to import new features.")
    recipe = None if document is None else document.spec.recipe
    records = {} if document is None else {name: entry.record for name, entry in document.trials.items()}
    if document is not None:
        check_version(str(sidecar), document.version)
    files = _list_files(path, suffix, ours=recipe is not None)

    def load_trial(trial_id: str, clock: FrameClock | None) -> Item:
        if trial_id not in files:
            raise StoreError(f"Trial '{trial_id}' of the recipe in '{path}' has no file there. Export it again.")
        record = records.get(trial_id)
        return Item(trial_id, *load(files[trial_id], record.clock if record else clock, recipe), record)

    return Bundle(recipe, sorted(records if recipe else files), load_trial)


def _list_files(folder: Path, suffix: str, ours: bool) -> dict[str, Path]:
    """The visible files with this suffix (in any case), by trial."""
    if not folder.is_dir():
        raise CorpusError(
            f"'{folder}' is not a folder; expected one with a {suffix} file for each trial. Name the folder."
        )
    with reading(f"'{folder}'", "a folder"):
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() == suffix)
    found: dict[str, Path] = {}
    for file in files:
        if file.name.startswith("."):  # left by macOS and editors
            continue
        trial_id = decode_trial_id(file.stem) if ours else file.stem
        if trial_id in found:
            raise CorpusError(
                f"'{found[trial_id]}' and '{file}' name the same trial. Remove one of them and import again."
            )
        found[trial_id] = file
    return found
