"""Arrays in separate files (npy, npz), read only if type, shape and digest match the document they belong to."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.documents.documents import damaged, digest_bytes
from cache.errors import AvFusionError, StoreError
from cache.places.folders import Where, split_place

_LARGEST_HEADER = 1 << 12  # bytes before the numbers in one of our npy files


def format_array(array: NDArray[Any]) -> bytes:
    """An array as the bytes of an npy file."""
    content = io.BytesIO()
    np.lib.format.write_array(content, np.ascontiguousarray(array), (1, 0), allow_pickle=False)
    return content.getvalue()


def read_array(
    where: Where, dtype: str, shape: tuple[int, ...], digest: str, remedy: str, kind: type[AvFusionError] = StoreError
) -> NDArray[Any]:
    """The array in an npy file, verified against the values in its document; its own header is never trusted.

    Args:
        where: the file.
        dtype: type of its numbers, in numpy's short form, "<f4".
        shape: shape of the array.
        digest: sha256 of the file.
        remedy: one or two sentences that name the command to make it again.
        kind: type of error to raise.

    Raises:
        AvFusionError: of this kind, if the file is absent or differs in any way.
    """
    expected = _num_bytes(dtype, shape)
    try:
        return _parse_array(_read_verified(where, expected, expected + _LARGEST_HEADER, digest), dtype, shape)
    except ValueError as error:
        raise damaged(where, error, remedy, kind) from error


def _read_verified(where: Where, least: int, most: int, digest: str) -> bytes:
    """The content of a file, read only if its size is in bounds.

    Raises:
        ValueError: if it is absent, or its size or digest does not match.
    """
    folder, name = split_place(where)
    size = folder.size(name)
    if size is None:
        raise ValueError("it is absent")
    if not least <= size <= most:
        raise ValueError(f"{size} bytes, expected {least} to {most}")
    content = folder.read(name) or b""
    if digest_bytes(content) != digest:
        raise ValueError("its digest does not match")
    return content


def _num_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    total = np.dtype(dtype).itemsize
    for length in shape:
        total *= length
    return total


def _parse_array(content: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """The numbers after one of our headers.

    Raises:
        ValueError: if header or length differ.
    """
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("its header has another version")
    try:
        found, fortran, kind = np.lib.format.read_array_header_1_0(stream, max_header_size=_LARGEST_HEADER)
    except Exception as error:  # numpy parses it as Python, and its tokeniser may raise anything
        raise ValueError("its header cannot be read") from error
    start = stream.tell()
    if (found, fortran, kind) != (shape, False, np.dtype(dtype)):
        raise ValueError(f"it holds {kind} of shape {found}, expected {np.dtype(dtype)} of shape {shape}")
    if len(content) != start + _num_bytes(dtype, shape):
        raise ValueError(f"{len(content) - start} bytes of numbers, expected {_num_bytes(dtype, shape)}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).copy()


def format_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays by name as the bytes of an npz file; equal arrays give equal bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays.items()):
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), format_array(array))
    return content.getvalue()


def read_arrays(
    where: Where,
    dtype: str,
    shapes: Mapping[str, tuple[int, ...]],
    digest: str,
    remedy: str,
    kind: type[AvFusionError] = StoreError,
) -> dict[str, NDArray[Any]]:
    """The arrays in an npz file, all of which must be in `shapes`; otherwise like `read_array`."""
    most = sum(_num_bytes(dtype, shape) + 2 * (_LARGEST_HEADER + len(name.encode())) for name, shape in shapes.items())
    try:
        return dict(_unzip_arrays(_read_verified(where, 0, most + _LARGEST_HEADER, digest), dtype, shapes))
    except (ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise damaged(where, error, remedy, kind) from error


def _unzip_arrays(
    content: bytes, dtype: str, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Names and arrays; none may declare more bytes than its shape needs."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name not in shapes:
                raise ValueError(f"it holds '{name[:40]}', which does not belong there")
            if member.file_size > _num_bytes(dtype, shapes[name]) + _LARGEST_HEADER:
                raise ValueError(f"'{name[:40]}' declares {member.file_size} bytes")
            yield name, _parse_array(archive.read(member), dtype, shapes[name])
