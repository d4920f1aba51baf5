"""A folder of npy files: `<trial>.npy` (T, D), `valid/<trial>.npy` (T,), and recipe and records in `avfusion.json`.

Names are percent-encoded if `avfusion.json` is beside them, else used unchanged. Hidden files are ignored.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.errors import CorpusError
from cache.foreign import find_file, list_files, reading, take_features, take_marks
from cache.formats.interchange import Bundle, Format, Item, load_sidecar, save_sidecar
from cache.names import encode_trial_id
from cache.store.store import FeatureStore


def _write(path: Path, store: FeatureStore, items: Iterable[Item]) -> None:
    (path / "valid").mkdir(parents=True)
    records = {}
    for item in items:
        assert item.record is not None
        name = f"{encode_trial_id(item.trial_id)}.npy"
        _save(path / name, item.embeddings)
        _save(path / "valid" / name, item.valid)
        records[item.trial_id] = item.record
    save_sidecar(path, store.spec, records)


def _save(file: Path, array: NDArray[Any]) -> None:
    """Like `np.save`, which does not report why writing to a file failed."""
    content = io.BytesIO()
    np.save(content, array)
    file.write_bytes(content.getbuffer())


def _read(path: Path) -> Bundle:
    spec, records = load_sidecar(path)
    files = list_files(path, ".npy", ours=spec is not None)

    def load(trial_id: str, clock: FrameClock | None) -> Item:
        """Load one trial; raises unless it is a (T, D) array of numbers with a (T,) mask."""
        file = find_file(files, trial_id, path)
        embeddings = take_features(_load(file), f"'{file}'")
        mask = path / "valid" / file.name
        valid = np.ones(len(embeddings), bool)
        if mask.is_file():
            valid = take_marks(_load(mask), len(embeddings), f"'{mask}'")
        record = records.get(trial_id)
        return Item(trial_id, embeddings, valid, record.clock if record else clock, record)

    return Bundle(spec, sorted(records if spec else files), load)


def _load(file: Path) -> NDArray[Any]:
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
