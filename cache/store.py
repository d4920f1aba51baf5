"""The feature store: one Zarr v3 group per backbone, one array per trial, a commit record written last.

    features/<modality>/<backbone>.zarr/<fingerprint>/<trial id>/{zarr.json, c/0/0}

A reader refuses an array without a commit record; a writer redoes it. So a killed run leaves nothing that looks
finished. `docs/store.md` states the layout in MUST and SHOULD.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
import zarr
from numpy.typing import NDArray

from cache.chunks import chunk_rows, map_chunks, read_metadata
from cache.clock import FrameClock
from cache.errors import FingerprintError, MissingFileError, ShapeError, StoreError
from cache.names import decode_trial_id, encode_trial_id
from cache.spec import FeatureSpec, canonical_json

VERSION = 1
_SPEC = "avfusion_spec"
_COMMIT = "avfusion_commit"


class Features(NamedTuple):
    """Embeddings of consecutive frames: `embeddings` (T, D), zero where `valid` (T,) is false."""

    embeddings: NDArray[Any]
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class CommitRecord:
    """What makes a trial finished.

    Attributes:
        source: digest of the bytes that the backbone read.
        embeddings: digest of the stored bytes and of the invalid runs.
        num_frames: T.
        rate: frames per second.
        start_s: moment of frame 0, seconds.
        invalid: runs of frames that the backbone never saw, half-open.
        seconds: how long the trial took; the only field that differs between two equal runs.
        versions: of the libraries that computed it.
    """

    source: str
    embeddings: str
    num_frames: int
    rate: Fraction
    start_s: float
    invalid: tuple[tuple[int, int], ...]
    seconds: float
    versions: dict[str, str]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(T,) true where the backbone saw input."""
        valid = np.ones(self.num_frames, bool)
        for start, stop in self.invalid:
            valid[start:stop] = False
        return valid

    def to_document(self) -> dict[str, Any]:
        """As JSON values, with the state and the frame numbering spelled out."""
        return {
            "version": VERSION,
            "state": "complete",
            "source": self.source,
            "embeddings": self.embeddings,
            "num_frames": self.num_frames,
            "rate": str(self.rate),
            "start_s": self.start_s,
            "first_frame": 0,
            "invalid": [list(run) for run in self.invalid],
            "seconds": self.seconds,
            "versions": self.versions,
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> CommitRecord:
        """Inverse of `to_document`."""
        return cls(
            document["source"],
            document["embeddings"],
            document["num_frames"],
            Fraction(document["rate"]),
            document["start_s"],
            tuple((start, stop) for start, stop in document["invalid"]),
            document["seconds"],
            document["versions"],
        )


def invalid_runs(valid: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """Half-open runs of false.

    >>> invalid_runs(np.array([False, True, False, False]))
    ((0, 1), (2, 4))
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[True], valid, [True]]).astype(np.int8)))
    return tuple((int(start), int(stop)) for start, stop in edges.reshape(-1, 2))


def digest_embeddings(embeddings: NDArray[Any], invalid: tuple[tuple[int, int], ...]) -> str:
    """xxh3-128 over the stored bytes (C order, little-endian) and the invalid runs.

    A fast checksum, so that training can afford to check every byte it reads; it guards against decay, not malice.
    """
    state = xxhash.xxh3_128(np.ascontiguousarray(embeddings, embeddings.dtype.newbyteorder("<")).view(np.uint8).data)
    state.update(canonical_json(invalid).encode())
    return f"xxh3:{state.hexdigest()}"


class FeatureStore:
    """The embeddings of one fingerprint.

    Reading needs only the path; `create` also prepares it for writing. Safe to open in any number of processes.
    """

    def __init__(self, path: Path | str, fingerprint: str) -> None:
        """Open the features of one fingerprint.

        Raises:
            MissingFileError: if there is no such store.
            StoreError: if the store is of another version.
            FingerprintError: if the store holds other fingerprints only, or the recipe does not hash to its name.
        """
        self.path = Path(path)
        self.group = self.path / fingerprint
        root = read_metadata(self.path)
        if root is None:
            raise MissingFileError(f"No feature store at '{self.path}'. Run the extraction first: 'dvc repro'.")
        _check_version(self.path, root)
        metadata = read_metadata(self.group)
        if metadata is None:
            raise FingerprintError(
                f"Store '{self.path}' has no features with fingerprint '{fingerprint[:12]}'; it holds "
                f"{', '.join(name[:12] for name in fingerprints(self.path)) or 'none'}. Run the extraction with these settings."
            )
        self.spec = FeatureSpec.from_document(metadata["attributes"][_SPEC])
        if self.spec.fingerprint != fingerprint:
            raise FingerprintError(
                f"The recipe in '{self.group}' hashes to '{self.spec.fingerprint[:12]}', not to its name. "
                "It was edited; delete the folder and run the extraction again."
            )

    @classmethod
    def create(cls, path: Path | str, spec: FeatureSpec) -> FeatureStore:
        """Open for writing, making store and group where they are absent; nothing finished is touched."""
        path = Path(path)
        root = zarr.open_group(path, mode="a", zarr_format=3)
        root.attrs.setdefault("avfusion_store", VERSION)
        _check_version(path, read_metadata(path) or {})
        if read_metadata(path / spec.fingerprint) is None:
            root.require_group(spec.fingerprint).attrs.put({_SPEC: spec.to_document()})
        return cls(path, spec.fingerprint)

    def trial_ids(self) -> list[str]:
        """Ids of all finished trials, sorted."""
        names = (entry.name for entry in os.scandir(self.group) if entry.is_dir())
        ids = (decode_trial_id(name) for name in names)
        return sorted(trial_id for trial_id in ids if self.find_record(trial_id) is not None)

    def find_record(self, trial_id: str) -> CommitRecord | None:
        """The commit record of a trial, or None where the trial is absent or unfinished."""
        metadata = read_metadata(self._folder(trial_id)) or {}
        document = metadata.get("attributes", {}).get(_COMMIT, {})
        if document.get("state") != "complete":
            return None
        if document["version"] > VERSION:
            raise _newer(self._folder(trial_id), document["version"])
        return CommitRecord.from_document(document)

    def record(self, trial_id: str) -> CommitRecord:
        """The commit record of a finished trial.

        Raises:
            StoreError: if the trial is absent or unfinished.
        """
        record = self.find_record(trial_id)
        if record is None:
            raise StoreError(
                f"Trial '{trial_id}' is not finished in '{self.group}'. Run 'extract-features --backbone {self.spec.name}' again."
            )
        return record

    def read(self, trial_id: str, start: int = 0, stop: int | None = None, *, check: bool = False) -> Features:
        """Embeddings of frames [start, stop) of a trial.

        Args:
            trial_id: a finished trial.
            start: first frame.
            stop: frame after the last one; the trial's end by default.
            check: compare every byte of the trial with the digest in its commit record.

        Returns:
            embeddings (stop - start, D) as stored, mapped where that is possible, and valid (stop - start,).

        Raises:
            StoreError: if the trial is unfinished, truncated, or (with `check`) altered.
        """
        record = self.record(trial_id)
        folder = self._folder(trial_id)
        embeddings = map_chunks(folder, read_metadata(folder) or {})
        if embeddings is None:
            embeddings = np.asarray(zarr.open_array(folder, mode="r")[:])
        if check and digest_embeddings(embeddings, record.invalid) != record.embeddings:
            raise StoreError(
                f"The embeddings of trial '{trial_id}' in '{folder}' differ from their digest: the file was altered or the "
                f"disk is failing. Run 'extract-features --backbone {self.spec.name} --redo --trials {trial_id!r}'."
            )
        return Features(embeddings[start:stop], record.valid[start:stop])

    def write(
        self,
        trial_id: str,
        embeddings: NDArray[Any],
        valid: NDArray[np.bool_],
        *,
        source: str,
        clock: FrameClock,
        seconds: float,
        versions: dict[str, str] | None = None,
    ) -> CommitRecord:
        """Write a trial: chunk, fsync, commit record, in this order.

        Args:
            trial_id: any id; an unfinished or older array of this name is replaced.
            embeddings: (T, D), finite; rows of invalid frames are stored as zeros.
            valid: (T,) true where the backbone saw input.
            source: digest of what the backbone read.
            clock: the trial's clock, T ticks.
            seconds: how long it took to compute.
            versions: of the libraries that computed it.

        Raises:
            ShapeError: if shapes do not fit the clock and the spec, or a number is not finite in the stored dtype.
        """
        stored = self._prepare(trial_id, embeddings, valid, clock)
        runs = invalid_runs(valid)
        record = CommitRecord(
            source, digest_embeddings(stored, runs), clock.num_frames, clock.rate, clock.start_s, runs,
            round(seconds, 3), {**(versions or {}), "zarr": zarr.__version__},
        )  # fmt: skip
        folder = self._folder(trial_id)
        if folder.exists():
            shutil.rmtree(folder)
        array = zarr.create_array(
            str(folder), shape=stored.shape, chunks=(chunk_rows(len(stored)), self.spec.dim), dtype=stored.dtype,
            compressors=None, filters=None, fill_value=0, zarr_format=3, config={"write_empty_chunks": True},
            dimension_names=("frame", "embedding"),
        )  # fmt: skip
        array[:] = stored
        for chunk in folder.glob("c/*/0"):
            _fsync(chunk)
        array.attrs.put({_COMMIT: record.to_document()})
        return record

    def _prepare(
        self, trial_id: str, embeddings: NDArray[Any], valid: NDArray[np.bool_], clock: FrameClock
    ) -> NDArray[Any]:
        expected = (clock.num_frames, self.spec.dim)
        if embeddings.shape != expected or valid.shape != expected[:1]:
            raise ShapeError(
                f"Trial '{trial_id}' has embeddings of shape {embeddings.shape} and valid of shape {valid.shape}, expected "
                f"{expected} and {expected[:1]}. The backbone '{self.spec.name}' must give one row per frame."
            )
        with np.errstate(over="ignore"):
            stored = np.where(valid[:, None], embeddings, 0).astype(f"<{np.dtype(self.spec.dtype).str[1:]}")
        if not np.isfinite(stored).all():
            raise ShapeError(
                f"Trial '{trial_id}' has embeddings that are not finite in {self.spec.dtype}. Check the weights of backbone "
                f"'{self.spec.name}', or store float32."
            )
        return stored

    def _folder(self, trial_id: str) -> Path:
        return self.group / encode_trial_id(trial_id)


def fingerprints(path: Path | str) -> list[str]:
    """Fingerprints that a store holds, oldest name first."""
    folders = [entry.name for entry in os.scandir(path) if entry.is_dir()] if Path(path).is_dir() else []
    return sorted(name for name in folders if read_metadata(Path(path) / name) is not None)


def _check_version(path: Path, metadata: dict[str, Any]) -> None:
    version = metadata.get("attributes", {}).get("avfusion_store", VERSION)
    if version > VERSION:
        raise _newer(path, version)


def _newer(path: Path, version: int) -> StoreError:
    return StoreError(f"'{path}' has layout version {version}; this program reads up to {VERSION}. Update avfusion.")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
