"""A folder of npy files: `<trial>.npy` (T, D), `valid/<trial>.npy` (T,), and recipe and records in `avfusion.json`."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.errors import CorpusError
from cache.foreign import reading, take_features, take_marks
from cache.formats.interchange import Bundle, Format, Item
from cache.formats.sidecar import Loaded, read_folder, write_folder
from cache.recipe import Recipe
from cache.store.records import CommitRecord
from cache.store.store import FeatureStore


def _write(path: Path, store: FeatureStore, items: Iterable[Item]) -> None:
    def write(file: Path, item: Item, record: CommitRecord) -> None:
        mask = file.parent / "valid" / file.name
        mask.parent.mkdir(exist_ok=True)
        _save(file, item.embeddings)
        _save(mask, item.valid)

    write_folder(path, store.recipe, items, ".npy", write)


def _save(file: Path, array: NDArray[Any]) -> None:
    """Like `np.save`, which does not report why writing to a file failed."""
    content = io.BytesIO()
    np.save(content, array)
    file.write_bytes(content.getvalue())  # not getbuffer, which an error would keep open: Python 3.13 complains


def _read(path: Path) -> Bundle:
    return read_folder(path, ".npy", _load)


def _load(file: Path, clock: FrameClock | None, recipe: Recipe | None) -> Loaded:
    """Load one trial; raises unless it is a (T, D) array of numbers with a (T,) mask."""
    embeddings = take_features(_load_array(file), f"'{file}'")
    mask = file.parent / "valid" / file.name
    valid = np.ones(len(embeddings), bool)
    if mask.is_file():
        valid = take_marks(_load_array(mask), len(embeddings), f"'{mask}'")
    return embeddings, valid, clock


def _load_array(file: Path) -> NDArray[Any]:
    """The only array of a file; mapped first, so that a file too short for its header raises."""
    with reading(f"'{file}'", "an npy file of numbers"):
        if file.stat().st_size == 0:
            raise CorpusError(f"'{file}' is empty (0 bytes); expected an npy file of numbers. Replace or remove it.")
        array = np.load(file, mmap_mode="r")
        if not isinstance(array, np.ndarray):
            array.close()
            raise CorpusError(f"'{file}' is an npz archive; expected an npy file of one array. Save that array alone.")
        return np.array(array)


NPY = Format(_write, _read)
