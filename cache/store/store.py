"""The feature store: one Zarr v3 group per feature set, one array per trial, a commit record written last.

    features/<name>.zarr/<fingerprint>/<trial id>/{zarr.json, c/0/0}

Readers reject an array without a commit record and writers redo it, so a killed run leaves nothing that looks finished.
`docs/store.md` specifies the layout in MUST and SHOULD.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.documents.documents import sign
from cache.errors import FingerprintError, MissingFileError, ShapeError, StoreError, UnreachableError
from cache.names import decode_trial_id, encode_trial_id
from cache.places.folders import Where, open_folder
from cache.recipe import Recipe
from cache.store.chunks import Rows, array_metadata, compress_chunks, open_rows, split_chunks, zarr_rows
from cache.store.feature_sets import name_of
from cache.store.locks import Claim, claim, sweep
from cache.store.nodes import ArrayNode, find_layout, find_recipe, format_recipe, format_root, parse_node
from cache.store.records import COMMIT, CommitRecord, digest_embeddings, find_commit, invalid_runs

_BLOCK = 1 << 20  # numbers looked at together
DROP_FIRST = "'avfusion cache verify --drop', then "
"""In messages: remove a trial with altered bytes before it is computed again."""


class Features(NamedTuple):
    """Embeddings of consecutive frames: `embeddings` (T, D), zero where `valid` (T,) is false."""

    embeddings: NDArray[Any]
    valid: NDArray[np.bool_]


class _Handle(NamedTuple):
    """An open trial: a reader of its rows, and which of them are valid."""

    record: CommitRecord
    rows: Rows
    valid: NDArray[np.bool_]
    plain: bool


class FeatureStore:
    """The embeddings of one fingerprint.

    Reading needs only the path or URL; `create` also prepares it for writing. A store can be opened in any number of
    processes, and sent to them. A trial that was read once stays open and, on a local file system, unchanged: a rewrite
    replaces its files, so a record always matches its bytes. To see trials rewritten by other processes, open the store
    again, or use `read` with `check`.
    """

    def __init__(self, path: Where, fingerprint: str) -> None:
        """Open the features of one fingerprint.

        Args:
            path: a local path, or a URL that fsspec knows (`s3://…`, `memory://…`).
            fingerprint: fingerprint of the recipe, 64 hexadecimal digits.

        Raises:
            MissingFileError: if there is no such store.
            StoreError: if the store is damaged or has another version.
            FingerprintError: if the store lacks this fingerprint, or the recipe does not match it.
        """
        root = open_folder(path)
        self.path = root.where
        self._folder = root.child(fingerprint)
        self.group = self._folder.where
        self._handles: dict[str, _Handle] = {}
        content = root.read("zarr.json")
        if content is None:
            raise MissingFileError(f"No feature store at '{self.path}'. Run the extraction first: 'dvc repro'.")
        layout = find_layout(content, self.path)
        self.recipe = _read_recipe(self._folder.read("zarr.json"), self.path, fingerprint)
        if layout is None:
            raise StoreError(f"'{self.path}/zarr.json' is damaged. Run {self._redo} again; what is finished is kept.")

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.recipe.fingerprint)

    @classmethod
    def create(cls, path: Where, recipe: Recipe) -> FeatureStore:
        """Open for writing, creating store and group if they are absent; finished trials are not touched.

        Raises:
            StoreError: if the store has a newer version, or cannot be created there.
        """
        root = open_folder(path)
        layout = find_layout(root.read("zarr.json"), root.where)
        try:
            if layout is None:
                root.write("zarr.json", format_root())
            if find_recipe(root.read(f"{recipe.fingerprint}/zarr.json")) != recipe:
                root.write(f"{recipe.fingerprint}/zarr.json", format_recipe(recipe))
            sweep(root.where)
        except OSError as error:
            raise StoreError(
                f"No features can be written to '{path}' ({error}). Free space or fix the permissions and run again."
            ) from error
        return cls(path, recipe.fingerprint)

    def trial_ids(self) -> list[str]:
        """Ids of all finished trials, sorted."""
        return sorted(self.find_records())

    def unfinished(self) -> list[str]:
        """Ids of trials that were started but not finished, or that have a damaged commit record."""
        return self.survey()[1]

    def survey(self) -> tuple[dict[str, CommitRecord], list[str]]:
        """Commit records of all finished trials, and the ids of the unfinished ones, with every record read once."""
        records = self.find_records()
        return records, sorted({decode_trial_id(name) for name in self._folder.folders()} - records.keys())

    def damaged(self) -> list[str]:
        """Ids of unfinished trials with a damaged `zarr.json`, as opposed to none."""
        names = [encode_trial_id(trial_id) for trial_id in self.unfinished()]
        documents = self._folder.read_many([f"{name}/zarr.json" for name in names])
        return [decode_trial_id(name) for name, found in zip(names, documents, strict=True) if found is not None]

    def find_records(self, trial_ids: Iterable[str] | None = None) -> dict[str, CommitRecord]:
        """Commit records of the finished trials among these, by default among all."""
        names = self._folder.folders() if trial_ids is None else [encode_trial_id(i) for i in trial_ids]
        documents = self._folder.read_many([f"{name}/zarr.json" for name in names])
        found = {
            decode_trial_id(name): find_commit(parse_node(content, ArrayNode), f"{self.group}/{name}")
            for name, content in zip(names, documents, strict=True)
        }
        return {trial_id: record for trial_id, record in found.items() if record is not None}

    def find_record(self, trial_id: str) -> CommitRecord | None:
        """The commit record of a trial, or None if the trial is absent or unfinished."""
        return self.find_records([trial_id]).get(trial_id)

    def record(self, trial_id: str) -> CommitRecord:
        """The commit record of a finished trial.

        Raises:
            StoreError: if the trial is absent or unfinished.
        """
        record = self.find_record(trial_id)
        if record is None:
            raise self._unfinished(trial_id)
        return record

    def is_whole(self, trial_id: str) -> bool:
        """Whether a trial is finished and its files have the right sizes.

        Bytes are read only for compressed trials, for which sizes prove nothing.
        """
        try:
            if not self._open(trial_id).plain:
                self.read(trial_id, check=True)
        except UnreachableError:
            raise
        except StoreError:
            return False
        return True

    def read(self, trial_id: str, start: int = 0, stop: int | None = None, *, check: bool = False) -> Features:
        """Embeddings of frames [start, stop) of a trial.

        Args:
            trial_id: a finished trial.
            start: first frame.
            stop: frame after the last one; by default the trial's end.
            check: verify every byte of the trial against the digest in its commit record.

        Returns:
            embeddings (stop - start, D) as stored and valid (stop - start,), both read-only; on a local file system a
            view of the mapped file if possible.

        Raises:
            StoreError: if the trial is unfinished, truncated, or (with `check`) altered.
        """
        wanted = slice(start, stop)
        handle = self._handles.get(trial_id)
        if handle is None or check:
            handle = self._handles[trial_id] = self._open(trial_id)
        if check:
            whole = handle.rows(slice(None))
            if digest_embeddings(whole, handle.record.invalid) != handle.record.embeddings:
                raise StoreError(
                    f"The embeddings of trial '{trial_id}' in '{self.group}' differ from their digest: the file was altered or "
                    f"the disk is failing. Run {DROP_FIRST}{self._redo}; only this trial is redone."
                )
            return Features(whole[wanted], handle.valid[wanted])
        return Features(handle.rows(wanted), handle.valid[wanted])

    def write(
        self,
        trial_id: str,
        embeddings: NDArray[Any],
        valid: NDArray[np.bool_],
        *,
        source: str,
        clock: FrameClock,
        versions: dict[str, str] | None = None,
        compressed: bool = False,
    ) -> CommitRecord:
        """Write a trial: chunk, fsync, commit record, in this order.

        Args:
            trial_id: any id; an unfinished or older array of this name is replaced.
            embeddings: (T, D), finite; rows of invalid frames are stored as zeros.
            valid: (T,) true where the backbone saw input.
            source: digest of the backbone's input.
            clock: the trial's clock, T ticks.
            versions: versions of the libraries that computed it.
            compressed: compress with zstd, for archives: smaller, but slower to read.

        Raises:
            ShapeError: if shapes do not match the clock and the recipe, or a number is not finite in the stored dtype.
        """
        stored = self._prepare(trial_id, embeddings, valid, clock)
        runs = invalid_runs(valid)
        record = CommitRecord(
            source, digest_embeddings(stored, runs), clock, runs, {"numpy": np.__version__, **(versions or {})}
        )
        attributes = {COMMIT: sign(record.to_document())}
        metadata = array_metadata(stored.shape, self.recipe.dtype, attributes, compressed=compressed)
        chunks = split_chunks(stored)
        self._folder.write_array(encode_trial_id(trial_id), compress_chunks(chunks) if compressed else chunks, metadata)
        self._handles.pop(trial_id, None)
        return record

    def claim(self, trial_id: str) -> Claim | None:
        """Claim a trial for this process, so that no other one computes it too.

        Returns:
            A context manager that releases the trial at its end, or None if another process is working on it.
        """
        return claim(self.path, self.lock_name(trial_id))

    def drop(self, trial_id: str) -> bool:
        """Remove a trial, so that the next extraction computes it again; false if another process is working on it."""
        claim = self.claim(trial_id)
        if claim is None:
            return False
        with claim:
            self._handles.pop(trial_id, None)
            self._folder.remove(encode_trial_id(trial_id))
        return True

    def lock_name(self, trial_id: str) -> str:
        """Name of a trial's claim."""
        return f"{self.recipe.fingerprint[:8]}.{encode_trial_id(trial_id)}"

    def _open(self, trial_id: str) -> _Handle:
        name = encode_trial_id(trial_id)
        key = f"{name}/zarr.json"
        folder = self._folder.child(name)
        remedy = f"Run {self._redo} again; only this trial is redone."
        while True:
            stamp = self._folder.stamp(key)
            metadata = parse_node(folder.read("zarr.json"), ArrayNode)
            record = find_commit(metadata, str(folder.where))
            if metadata is None or record is None:
                raise self._unfinished(trial_id)
            found, expected = metadata["shape"], [record.clock.num_frames, self.recipe.dim]
            if found != expected or metadata["data_type"] != self.recipe.dtype:
                raise StoreError(
                    f"'{folder.where}' has shape {found} of {metadata['data_type']}, expected {expected} of {self.recipe.dtype}. "
                    f"{remedy}"
                )
            try:
                rows = open_rows(folder, metadata, remedy)
            except StoreError:
                if self._folder.stamp(key) == stamp:
                    raise
                continue
            if self._folder.stamp(key) == stamp:  # else it was rewritten in between
                break
        valid = record.valid
        valid.flags.writeable = False
        return _Handle(record, rows or zarr_rows(folder, valid, remedy), valid, plain=rows is not None)

    def _unfinished(self, trial_id: str) -> StoreError:
        return StoreError(
            f"Trial '{trial_id}' is not finished in '{self.group}', or its record is damaged. Run {self._redo} again; what is "
            "finished is kept."
        )

    @property
    def _redo(self) -> str:
        return (
            "'avfusion cache import'"
            if "imported" in self.recipe.settings
            else f"'extract-features --backbone {name_of(self.path)}'"
        )

    def _prepare(
        self, trial_id: str, embeddings: NDArray[Any], valid: NDArray[np.bool_], clock: FrameClock
    ) -> NDArray[Any]:
        expected = (clock.num_frames, self.recipe.dim)
        if embeddings.shape != expected or valid.shape != expected[:1]:
            raise ShapeError(
                f"Trial '{trial_id}' has embeddings of shape {embeddings.shape} and valid of shape {valid.shape}, expected "
                f"{expected} and {expected[:1]}. The backbone '{self.recipe.name}' must give one row per frame."
            )
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(embeddings, np.dtype(self.recipe.dtype).newbyteorder("<"))
        if stored[~valid].view(np.uint8).any():  # else a copy, which is large, would be the same
            stored = stored.copy() if np.may_share_memory(stored, embeddings) else stored
            stored[~valid] = 0
        if not _all_finite(stored):
            raise ShapeError(
                f"Trial '{trial_id}' has embeddings that are not finite in {self.recipe.dtype}. Check the weights of backbone "
                f"'{self.recipe.name}', or store float32."
            )
        return stored


def _all_finite(stored: NDArray[Any]) -> bool:
    """Whether all numbers are finite; a bit test, because `np.isfinite` is slow on float16."""
    bits, exponent = ("<u2", 0x7C00) if stored.dtype.itemsize == 2 else ("<u4", 0x7F80_0000)
    rows = max(1, _BLOCK // max(1, stored.shape[1]))
    parts = (stored[start : start + rows].view(bits) for start in range(0, len(stored), rows))
    return all(bool((np.bitwise_and(part, exponent) != exponent).all()) for part in parts)


def fingerprints(path: Where) -> list[str]:
    """Fingerprints in a store, sorted."""
    root = open_folder(path)
    names = root.folders()
    documents = root.read_many([f"{name}/zarr.json" for name in names])
    return [name for name, content in zip(names, documents, strict=True) if content is not None]


def _read_recipe(content: bytes | None, path: Where, fingerprint: str) -> Recipe:
    if content is None:
        raise FingerprintError(
            f"Store '{path}' has no features with fingerprint '{fingerprint[:12]}'; it has "
            f"{', '.join(name[:12] for name in fingerprints(path)) or 'none'}. Run the extraction with these settings."
        )
    recipe = find_recipe(content)
    if recipe is None:
        raise FingerprintError(
            f"The recipe in '{path}/{fingerprint}/zarr.json' is damaged. Run the extraction (or import) with these settings "
            "again to restore it; finished trials are kept."
        )
    if recipe.fingerprint != fingerprint:
        raise FingerprintError(
            f"The recipe in '{path}/{fingerprint}' hashes to '{recipe.fingerprint[:12]}', not to its name: it was edited. Run the "
            "extraction (or import) with these settings again to restore it; finished trials are kept."
        )
    return recipe
