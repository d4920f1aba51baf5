"""Uncompressed Zarr v3 chunks as plain memory.

An array without compression whose chunks are whole rows is, chunk file by chunk file, its own memory in C
order. Mapping the files is as fast as an `.npy` and about thirty times faster than zarr-python (measured in
`benchmarks/`); anything this module does not recognise exactly is left to zarr.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import StoreError

LONGEST_CHUNK = 65_536  # frames; longer trials are split into equal chunks

_PLAIN_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}]
_PLAIN_KEYS = {"name": "default", "configuration": {"separator": "/"}}


def chunk_rows(num_frames: int) -> int:
    """Rows per chunk: one chunk up to 65,536 frames, else the smallest number of equal chunks.

    >>> chunk_rows(5000), chunk_rows(65_537)
    (5000, 32769)
    """
    return math.ceil(num_frames / math.ceil(num_frames / LONGEST_CHUNK))


def map_chunks(folder: Path, metadata: dict[str, Any]) -> NDArray[Any] | None:
    """The array in `folder` as a read-only memory map, or None where it is not plain memory.

    Args:
        folder: the array's folder, with `c/<i>/0` below it.
        metadata: its parsed `zarr.json`.

    Returns:
        (T, D). One chunk is mapped; several are mapped one by one and joined (a copy).

    Raises:
        StoreError: if a chunk file is absent or does not have the size that the metadata promises.
    """
    try:
        num_frames, dim = metadata["shape"]
        rows, columns = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        plain = (
            metadata["codecs"] == _PLAIN_CODECS
            and metadata["chunk_key_encoding"] == _PLAIN_KEYS
            and metadata["data_type"] in ("float16", "float32")
            and columns == dim
            and not metadata.get("storage_transformers")
        )
    except (KeyError, TypeError, ValueError):
        return None
    if not plain:
        return None
    dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
    chunks = [_map_file(folder / f"c/{i}/0", dtype, rows, dim) for i in range(math.ceil(num_frames / rows))]
    return chunks[0][:num_frames] if len(chunks) == 1 else np.concatenate(chunks)[:num_frames]


def _map_file(path: Path, dtype: np.dtype[Any], rows: int, dim: int) -> NDArray[Any]:
    expected = rows * dim * dtype.itemsize
    size = path.stat().st_size if path.is_file() else None
    if size != expected:
        found = "absent" if size is None else f"{size} bytes long"
        raise StoreError(
            f"Chunk '{path}' is {found}, expected {expected} bytes. Delete the folder '{path.parents[2]}' and run "
            "the extraction again; only this trial is redone."
        )
    return np.memmap(path, dtype=dtype, mode="r", shape=(rows, dim))


def read_metadata(folder: Path) -> dict[str, Any] | None:
    """The parsed `zarr.json` of a node, or None where it is absent or unreadable."""
    try:
        return json.loads((folder / "zarr.json").read_bytes())
    except (OSError, ValueError):
        return None
