"""HDF5: one dataset per trial, `embeddings/<trial>` (T, D) with its commit record as attributes, `valid/<trial>` (T,).

Files of other programs may have their datasets anywhere; every two-dimensional dataset of numbers is a trial, named by
its path. Scalars and texts are skipped with a warning; anything else is an error, and so is content in other files: links
are never followed.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from cache.clock import FrameClock
from cache.documents.documents import RecipePart, check_document, parse_json, sign
from cache.errors import CorpusError, StoreError, list_faults
from cache.foreign import are_features, reading, take_features, take_marks
from cache.formats.interchange import Bundle, Format, Item
from cache.names import decode_trial_id, encode_trial_id
from cache.recipe import canonical_json
from cache.store.records import VERSION, CommitDocument, check_version, invalid_runs
from cache.store.store import FeatureStore

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

_RECIPE = "avfusion_spec"
_TRIALS = "avfusion_trials"  # their number
_LISTED = 5  # datasets listed in a message


class _Sink(io.FileIO):
    """A new file for the HDF5 library to write to, which hides the first error from it.

    After a failed write the library prints messages and may crash on exit, so it must never see that a disk is full.
    """

    error: OSError | None = None

    def write(self, content: Buffer) -> int:
        """Write all of the content; after an error, write nothing."""
        view = memoryview(content).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += super().write(view[done:])
        except OSError as error:
            self.error = error
        return len(view)

    def readinto(self, buffer: Buffer) -> int:
        """Fill the whole buffer, with zeros for what could not be written."""
        view = memoryview(buffer).cast("B")
        done = super().readinto(view) or 0
        view[done:] = bytes(len(view) - done)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the length, unless there was an error."""
        try:
            return super().truncate(size) if self.error is None else size or 0
        except OSError as error:
            self.error = error
            return size or 0

    def check(self) -> None:
        """Raise the hidden error, if any."""
        if self.error is not None:
            raise self.error


def _write(path: Path, store: FeatureStore, items: Iterable[Item]) -> None:
    with _Sink(path, "x+b") as sink:
        with h5py.File(sink, "w") as file:
            file.attrs["avfusion_version"] = VERSION
            file.attrs[_RECIPE] = canonical_json(store.recipe.to_document())
            file.attrs["avfusion_fingerprint"] = store.recipe.fingerprint
            for item in items:
                _write_item(file, item)
                sink.check()
            file.attrs[_TRIALS] = len(file.get("embeddings", ()))
        sink.check()


def _write_item(file: h5py.File, item: Item) -> None:
    assert item.record is not None
    name = encode_trial_id(item.trial_id)
    dataset = file.create_dataset(f"embeddings/{name}", data=item.embeddings)
    dataset.attrs["trial_id"] = item.trial_id
    for key, value in sign(item.record.to_document()).items():
        if key == "versions":
            dataset.attrs[key] = canonical_json(value)
        elif key == "times":  # may exceed the 64 KB of an attribute
            file.create_dataset(f"times/{name}", data=value)
        elif key != "invalid":  # stored as `valid`
            dataset.attrs[key] = value
    file.create_dataset(f"valid/{name}", data=item.valid)


def _read(path: Path) -> Bundle:
    if path.is_dir():
        raise CorpusError(f"'{path}' is a folder; expected an HDF5 file. Check the path and the format.")
    with reading(f"'{path}'", "an HDF5 file"), h5py.File(path, "r") as file:
        _refuse_elsewhere(path, file)
        if _RECIPE not in file.attrs:
            return Bundle(None, _foreign_ids(path, file), partial(_load_foreign, path))
        with reading(f"The recipe in '{path}'", "one of ours", "Export it again.", StoreError):
            check_version(str(path), int(file.attrs["avfusion_version"]))
            recipe = check_document(parse_json(str(file.attrs[_RECIPE]).encode()), RecipePart).recipe
            if file.attrs["avfusion_fingerprint"] != recipe.fingerprint:
                raise ValueError("it does not hash to its fingerprint")
            ids = sorted(decode_trial_id(name) for name in file.get("embeddings", ()))
            if len(ids) != file.attrs[_TRIALS]:
                raise ValueError(f"{len(ids)} trials, expected {file.attrs[_TRIALS]}")
    return Bundle(recipe, ids, partial(_load, path))


def _load(path: Path, trial_id: str, clock: FrameClock | None) -> Item:
    what = f"Trial '{trial_id}' in '{path}'"
    name = encode_trial_id(trial_id)
    with reading(what, "one of ours", "It is damaged; export it again.", StoreError), h5py.File(path, "r") as file:
        dataset = file[f"embeddings/{name}"]
        embeddings = take_features(dataset[()], what)
        valid = take_marks(file[f"valid/{name}"][()], len(embeddings), what)
        document = {key: _plain(value) for key, value in dataset.attrs.items()}
        del document["trial_id"]
        document |= {
            "invalid": [list(run) for run in invalid_runs(valid)],
            "versions": parse_json(document["versions"].encode()),
        }
        if f"times/{name}" in file:
            document["times"] = file[f"times/{name}"].asstr()[()]
        record = check_document(document, CommitDocument).record
    return Item(trial_id, embeddings, valid, record.clock, record)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _refuse_elsewhere(path: Path, file: h5py.File) -> None:
    """Check that no content comes from other files, which could be any on this machine."""
    found: list[str] = []

    def see_link(name: str, link: Any) -> None:
        if isinstance(link, h5py.ExternalLink):
            found.append(f"'{name}' is a link to '{link.filename}'")

    def see_node(name: str, node: Any) -> None:
        if not isinstance(node, h5py.Dataset):
            return
        others = sorted({source.file_name for source in node.virtual_sources()} - {"."}) if node.is_virtual else []
        others += [source[0] for source in node.external or ()]
        if others:
            found.append(f"the numbers of '{name}' lie in '{others[0]}'")

    file.visititems_links(see_link)
    file.visititems(see_node)
    if found:
        raise CorpusError(
            f"'{path}' points to other files, which are not opened: {list_faults(found, _LISTED)}. Write everything into one file, for "
            "example with h5repack, and import that."
        )


def _foreign_ids(path: Path, file: h5py.File) -> list[str]:
    """Paths of all datasets of features; the message names all others."""
    ids: list[str] = []
    refused: list[str] = []
    left: list[str] = []

    def visit(name: str, node: Any) -> None:
        """Sort a dataset into features, skipped ones and errors."""
        if not isinstance(node, h5py.Dataset):
            return
        text = h5py.check_string_dtype(node.dtype) is not None or node.dtype.kind == "S"
        shown = f"'{name}' ({'text' if text else node.dtype} of shape {node.shape})"
        if node.shape is not None and are_features(node.shape, node.dtype):
            ids.append(name)
        elif text or not node.shape:
            left.append(shown)
        else:
            refused.append(shown)

    file.visititems(visit)
    if refused or (left and not ids):
        raise CorpusError(
            f"'{path}' holds datasets that are not features: {list_faults(refused or left, _LISTED)}; expected numbers (T, D), at least one "
            "row and one column. Fix or remove them, and import again."
        )
    if left:
        warnings.warn(
            f"These datasets of '{path}' hold no features and are left out: {list_faults(left, _LISTED)}.", stacklevel=2
        )
    return sorted(ids)


def _load_foreign(path: Path, trial_id: str, clock: FrameClock | None) -> Item:
    what = f"Dataset '{trial_id}' of '{path}'"
    with reading(what, "numbers"), h5py.File(path, "r") as file:
        embeddings = take_features(file[trial_id][()], what)
    return Item(trial_id, embeddings, np.ones(len(embeddings), bool), clock, None)


HDF5 = Format(_write, _read)
