"""Commit records, which mark the trials of a store as finished."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.documents.documents import ClockPart, Number, Pair, is_signed
from cache.errors import VersionError
from cache.recipe import canonical_json

VERSION = 1
COMMIT = "avfusion_commit"


class CommitDocument(ClockPart):
    """A commit record as stored."""

    version: Number
    state: Literal["complete"]
    source: str
    embeddings: str
    first_frame: Literal[0] = 0
    invalid: list[Pair]
    seconds: float | None = None  # duration, in stores by older versions; dropped, as it differs between equal runs
    versions: dict[str, str]
    digest: str = ""

    def check(self) -> None:
        """Check that runs do not overlap or leave the trial."""
        super().check()
        edges = [0, *chain.from_iterable(self.invalid), self.num_frames]
        if edges != sorted(edges):
            raise ValueError(f"invalid runs that are not in order within {self.num_frames} frames")

    @property
    def record(self) -> CommitRecord:
        """The record itself."""
        runs = tuple((run[0], run[1]) for run in self.invalid)
        return CommitRecord(self.source, self.embeddings, self.clock, runs, self.versions)


@dataclass(frozen=True)
class CommitRecord:
    """Marks a trial as finished; two equal runs write the same bytes.

    Attributes:
        source: digest of the bytes that the backbone read.
        embeddings: digest of the stored bytes and of the invalid runs.
        clock: the clock that the trial was computed on.
        invalid: half-open runs of frames that the backbone never saw.
        versions: versions of the libraries that computed it.
    """

    source: str
    embeddings: str
    clock: FrameClock
    invalid: tuple[tuple[int, int], ...]
    versions: dict[str, str]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(T,) true where the backbone saw input."""
        valid = np.ones(self.clock.num_frames, bool)
        for start, stop in self.invalid:
            valid[start:stop] = False
        return valid

    def to_document(self) -> dict[str, Any]:
        """As JSON values, with explicit state and frame numbering."""
        return {
            "version": VERSION,
            "state": "complete",
            "source": self.source,
            "embeddings": self.embeddings,
            **self.clock.to_document(),
            "first_frame": 0,
            "invalid": [list(run) for run in self.invalid],
            "versions": self.versions,
        }


def invalid_runs(valid: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """Half-open runs of false.

    >>> invalid_runs(np.array([False, True, False, False]))
    ((0, 1), (2, 4))
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[True], valid, [True]]).astype(np.int8)))
    return tuple((int(start), int(stop)) for start, stop in edges.reshape(-1, 2))


def digest_embeddings(embeddings: NDArray[Any], invalid: tuple[tuple[int, int], ...]) -> str:
    """xxh3-128 over the stored bytes (C order, little-endian) and the invalid runs.

    A fast checksum, so that training can check every byte it reads; it protects against corruption, not malice.
    """
    state = xxhash.xxh3_128(np.ascontiguousarray(embeddings, embeddings.dtype.newbyteorder("<")).view(np.uint8).data)
    state.update(canonical_json(invalid).encode())
    return f"xxh3:{state.hexdigest()}"


def find_commit(metadata: dict[str, Any] | None, where: str) -> CommitRecord | None:
    """The commit record in an array's `zarr.json`, None if the array is absent, unfinished or damaged.

    Raises:
        VersionError: if a newer version of avfusion wrote it.
    """
    document = (metadata or {}).get("attributes", {}).get(COMMIT)
    if not isinstance(document, dict) or document.get("state") != "complete" or not is_signed(document):
        return None
    check_version(where, document.get("version"))
    try:
        return CommitDocument.model_validate(document).record
    except ValueError:
        return None


def check_version(where: str, version: Any) -> None:
    """Check that the version is not newer than ours.

    Raises:
        VersionError: if it is.
    """
    if isinstance(version, int) and version > VERSION:
        raise VersionError(
            f"'{where}' has layout version {version}; this program reads up to {VERSION}. Update avfusion."
        )
