"""Uncompressed Zarr v3 chunks as plain memory.

If an array is uncompressed and its chunks are whole rows, each chunk file is the array's memory in C order. Mapping the
files is as fast as an `.npy` and about thirty times faster than zarr-python (measured in `benchmarks/`); anything this
module does not recognise exactly is left to zarr.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import math
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import AvFusionError, StoreError, short_text
from cache.places.folders import Folder, LocalFolder
from cache.places.remote import wrap_remote_error
from cache.store.nodes import DIMENSIONS

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

LONGEST_CHUNK = 65_536  # frames; longer trials are split into equal chunks

_PLAIN_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}]
_PLAIN_KEYS = {"name": "default", "configuration": {"separator": "/"}}
_ZSTD_LEVEL = 9  # of archives, which are written once
_MOST_MAPS = 30_000  # files mapped at once; of the 65,530 maps of a process, Linux's limit, libraries need some

Rows = Callable[[slice], NDArray[Any]]
"""Reads consecutive rows of an array."""
_maps: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # address → buffer of each mapped file


def chunk_rows(num_frames: int) -> int:
    """Rows per chunk: one chunk up to 65,536 frames, else the smallest number of equal chunks.

    >>> chunk_rows(5000), chunk_rows(65_537)
    (5000, 32769)
    """
    return math.ceil(num_frames / math.ceil(num_frames / LONGEST_CHUNK))


def array_metadata(
    shape: tuple[int, ...], dtype: str, attributes: dict[str, Any], *, compressed: bool = False
) -> bytes:
    """The `zarr.json` of an array of shape (T, D), plain or with chunks from `compress_chunks`."""
    num_frames, dim = shape
    zstd = {"name": "zstd", "configuration": {"level": _ZSTD_LEVEL, "checksum": False}}
    document = {
        "shape": [num_frames, dim],
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk_rows(num_frames), dim]}},
        "chunk_key_encoding": _PLAIN_KEYS,
        "fill_value": 0.0,
        "codecs": [*_PLAIN_CODECS, zstd] if compressed else _PLAIN_CODECS,
        "attributes": attributes,
        "dimension_names": DIMENSIONS,
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


def split_chunks(array: NDArray[Any]) -> dict[str, memoryview]:
    """Content of each chunk file of a C-ordered (T, D) array; the last chunk is padded with zeros."""
    rows = chunk_rows(len(array))
    padding = -len(array) % rows
    if padding:
        array = np.concatenate([array, np.zeros((padding, array.shape[1]), array.dtype)])
    flat = array.view(np.uint8)
    return {f"c/{i}/0": flat[start : start + rows].data for i, start in enumerate(range(0, len(array), rows))}


def compress_chunks(chunks: Mapping[str, Buffer]) -> dict[str, Buffer]:
    """Chunk files of an archive, compressed with zstd as in Zarr v3."""
    from numcodecs.zstd import Zstd

    codec = Zstd(_ZSTD_LEVEL)
    return {name: codec.encode(content) for name, content in chunks.items()}


def open_rows(folder: Folder, metadata: dict[str, Any], remedy: str) -> Rows | None:
    """A reader of rows without zarr, or None if the array is not plain memory.

    Args:
        folder: the array's folder, with `c/<i>/0` below it.
        metadata: its `zarr.json`, checked by `nodes.parse_node`.
        remedy: what to do about a damaged trial, for messages.

    Raises:
        StoreError: if a chunk file is absent or its size differs from the metadata.
    """
    num_frames, dim = metadata["shape"]
    rows, columns = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    if (metadata["codecs"], metadata["chunk_key_encoding"], columns) != (_PLAIN_CODECS, _PLAIN_KEYS, dim):
        return None
    dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
    names = []
    for i in range(math.ceil(num_frames / rows)):  # raises at the first absent one, however many are declared
        names.append(f"c/{i}/0")
        _check_size(folder, names[-1], rows * dim * dtype.itemsize, remedy)
    if isinstance(folder, LocalFolder):
        chunks = [_map_chunk(folder, name, dtype, rows, dim) for name in names]
    else:
        chunks = [_fetch_chunk(folder, name, dtype, rows, dim) for name in names]
    return chunks[0] if len(chunks) == 1 else _join(chunks, rows, num_frames)


def zarr_rows(folder: Folder, valid: NDArray[np.bool_], remedy: str) -> Rows:
    """A reader of rows through zarr, for arrays that are compressed, sharded or chunked differently.

    Args:
        folder: the array's folder.
        valid: (T,) true where the backbone saw input. zarr reads an absent chunk as zeros, so only chunks of invalid rows
            may be absent.
        remedy: what to do about a damaged trial, for messages.

    Raises:
        StoreError: if a chunk is absent; the reader raises it if a chunk cannot be decoded.
    """
    import zarr

    with _decoding(folder, remedy):
        array = zarr.open_array(folder.zarr_store(), mode="r")
        rows, columns = array.shards or array.chunks
        present = folder.sizes()
        for i in range(math.ceil(array.shape[0] / rows)):
            names = [array.metadata.encode_chunk_key((i, j)) for j in range(math.ceil(array.shape[1] / columns))]
            absent = [name for name in names if name not in present]
            if absent and valid[i * rows : (i + 1) * rows].any():
                raise StoreError(
                    f"Chunk '{folder.where}/{absent[0]}' is absent, expected the trial's numbers. {remedy}"
                )

    def read(wanted: slice) -> NDArray[Any]:
        with _decoding(folder, remedy):
            return np.asarray(array[wanted])

    return read


@contextmanager
def _decoding(folder: Folder, remedy: str) -> Iterator[None]:
    """Turn whatever zarr and its codecs raise about damage into a StoreError; keep UnreachableError distinct."""
    try:
        yield
    except AvFusionError:
        raise
    except Exception as error:
        of_zarr = type(error).__module__.partition(".")[0] in ("zarr", "numcodecs")
        found = error if isinstance(folder, LocalFolder) or of_zarr else wrap_remote_error(error, str(folder.where))
        if isinstance(found, AvFusionError):
            raise found from error
        raise StoreError(f"A chunk of '{folder.where}' cannot be decoded ({short_text(error)}). {remedy}") from error


def _check_size(folder: Folder, name: str, expected: int, remedy: str) -> None:
    size = folder.size(name)
    if size != expected:
        found = "absent" if size is None else f"{size} bytes long"
        raise StoreError(f"Chunk '{folder.where}/{name}' is {found}, expected {expected} bytes. {remedy}")


def _map_chunk(folder: LocalFolder, name: str, dtype: np.dtype[Any], rows: int, dim: int) -> Rows:
    if len(_maps) >= _MOST_MAPS:
        return _fetch_chunk(folder, name, dtype, rows, dim)
    path = str(folder.path / name)
    array = np.frombuffer(_map_file(path, rows * dim * dtype.itemsize), dtype).reshape(rows, dim)
    return array.__getitem__


def _fetch_chunk(folder: Folder, name: str, dtype: np.dtype[Any], rows: int, dim: int) -> Rows:
    width = dim * dtype.itemsize

    def fetch(wanted: slice) -> NDArray[Any]:
        start, stop, _ = wanted.indices(rows)
        if stop <= start:
            return np.empty((0, dim), dtype)
        return np.frombuffer(folder.read_range(name, start * width, stop * width), dtype).reshape(-1, dim)

    return fetch


def _join(chunks: list[Rows], rows: int, num_frames: int) -> Rows:
    def read(wanted: slice) -> NDArray[Any]:
        start, stop, _ = wanted.indices(num_frames)
        first = start // rows
        last = min(max(start, stop - 1) // rows, len(chunks) - 1)
        parts = [
            chunks[i](slice(max(start - i * rows, 0), max(min(stop - i * rows, rows), 0)))
            for i in range(first, last + 1)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return read


def _map_file(path: str, size: int) -> memoryview:
    """The bytes of a file as read-only memory, without keeping a file descriptor open.

    Python's own `mmap` keeps one descriptor per map, so a corpus of 600 trials and three backbones would exceed the usual
    limit of 1,024. If the system or the file system does not support `mmap`, the file is read instead.
    """
    if sys.platform not in ("linux", "darwin"):
        return np.fromfile(path, np.uint8).data.toreadonly()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        address = _mmap()(None, size, 1, 1, descriptor, 0)  # PROT_READ, MAP_SHARED
    finally:
        os.close(descriptor)
    if address == ctypes.c_void_p(-1).value:
        if ctypes.get_errno() == errno.ENODEV:
            return np.fromfile(path, np.uint8).data.toreadonly()
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    buffer = (ctypes.c_ubyte * size).from_address(address)
    _maps[address] = buffer
    weakref.finalize(buffer, _libc().munmap, ctypes.c_void_p(address), ctypes.c_size_t(size)).atexit = False
    return memoryview(buffer).toreadonly()


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@functools.cache
def _mmap() -> Any:
    function = _libc().mmap
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    return function
