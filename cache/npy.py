"""A folder of npy files: `<trial>.npy` (T, D), `valid/<trial>.npy` (T,), and recipe and records in `avfusion.json`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cache.clock import FrameClock
from cache.errors import CorpusError
from cache.interchange import Bundle, Format, Item, load_sidecar, save_sidecar
from cache.names import decode_trial_id, encode_trial_id
from cache.spec import FeatureSpec


def _write(path: Path, spec: FeatureSpec, items: Iterable[Item]) -> None:
    (path / "valid").mkdir(parents=True)
    records = {}
    for item in items:
        assert item.record is not None
        name = f"{encode_trial_id(item.trial_id)}.npy"
        np.save(path / name, item.embeddings)
        np.save(path / "valid" / name, item.valid)
        records[item.trial_id] = item.record
    save_sidecar(path, spec, records)


def _read(path: Path) -> Bundle:
    spec, records = load_sidecar(path)
    files = {decode_trial_id(file.stem): file for file in sorted(path.glob("*.npy"))}

    def load(trial_id: str, clock: FrameClock | None = None) -> Item:
        """One trial; refuses what is no (T, D) of floats with T marks."""
        file = files[trial_id]
        try:
            embeddings = np.load(file)
            mask = path / "valid" / file.name
            valid = np.load(mask) if mask.is_file() else np.ones(len(embeddings), bool)
        except ValueError as error:
            raise CorpusError(f"'{file}' is no npy file of numbers ({error}). Mend or remove it.") from error
        if embeddings.ndim != 2 or embeddings.dtype.kind != "f" or valid.shape != embeddings.shape[:1]:
            raise CorpusError(
                f"'{file}' holds {embeddings.dtype} of shape {embeddings.shape} and {len(valid)} marks; expected floats "
                "(T, D) and T marks. Mend or remove it."
            )
        record = records.get(trial_id)
        return Item(trial_id, embeddings, valid.astype(bool), record.clock if record else clock, record)

    return Bundle(spec, sorted(records if spec else files), load)


NPY = Format(_write, _read)
