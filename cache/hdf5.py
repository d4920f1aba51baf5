"""HDF5: one dataset per trial, `embeddings/<trial>` (T, D) with its commit record as attributes, `valid/<trial>` (T,).

Files of other programs may hold their datasets anywhere; every two-dimensional dataset of floats is a trial, named by
its path.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache.clock import FrameClock
from cache.errors import CorpusError, StoreError
from cache.interchange import Bundle, Format, Item
from cache.names import decode_trial_id, encode_trial_id
from cache.records import VERSION, CommitRecord, check_version, invalid_runs
from cache.spec import FeatureSpec, canonical_json

_SPEC = "avfusion_spec"


def _write(path: Path, spec: FeatureSpec, items: Iterable[Item]) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["avfusion_version"] = VERSION
        file.attrs[_SPEC] = canonical_json(spec.to_document())
        file.attrs["avfusion_fingerprint"] = spec.fingerprint
        for item in items:
            assert item.record is not None
            name = encode_trial_id(item.trial_id)
            dataset = file.create_dataset(f"embeddings/{name}", data=item.embeddings)
            dataset.attrs["trial_id"] = item.trial_id
            for key, value in item.record.to_document().items():
                if key == "versions":
                    dataset.attrs[key] = canonical_json(value)
                elif key != "invalid":  # an attribute holds 64 KB; `valid` says it
                    dataset.attrs[key] = value
            file.create_dataset(f"valid/{name}", data=item.valid)


def _read(path: Path) -> Bundle:
    if path.is_dir():
        raise CorpusError(f"'{path}' is a folder; expected an HDF5 file. Check the path and the format.")
    try:
        with h5py.File(path, "r") as file:
            if _SPEC not in file.attrs:
                return Bundle(None, _foreign_ids(file), partial(_load_foreign, path))
            check_version(str(path), int(file.attrs["avfusion_version"]))
            spec = FeatureSpec.from_document(json.loads(str(file.attrs[_SPEC])))
            ids = sorted(decode_trial_id(name) for name in file.get("embeddings", ()))
    except OSError as error:
        raise CorpusError(f"'{path}' is no HDF5 file ({error}). Check the path and the format.") from error
    return Bundle(spec, ids, partial(_load, path))


def _load(path: Path, trial_id: str, clock: FrameClock | None = None) -> Item:
    name = encode_trial_id(trial_id)
    with h5py.File(path, "r") as file:
        try:
            dataset, valid = file[f"embeddings/{name}"], file[f"valid/{name}"][:].astype(bool)
            document = {key: _plain(value) for key, value in dataset.attrs.items()}
            document |= {"invalid": invalid_runs(valid), "versions": json.loads(document["versions"])}
            record = CommitRecord.from_document(document)
        except (KeyError, ValueError) as error:
            raise StoreError(f"Trial '{trial_id}' in '{path}' is damaged ({error}). Export it again.") from error
        return Item(trial_id, dataset[:], valid, record.clock, record)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _foreign_ids(file: h5py.File) -> list[str]:
    ids: list[str] = []

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.ndim == 2 and node.dtype.kind == "f":
            ids.append(name)

    file.visititems(visit)
    return sorted(ids)


def _load_foreign(path: Path, trial_id: str, clock: FrameClock | None = None) -> Item:
    with h5py.File(path, "r") as file:
        embeddings = file[trial_id][:]
    return Item(trial_id, embeddings, np.ones(len(embeddings), bool), clock, None)


HDF5 = Format(_write, _read)
