"""Rows that are written once and then read in pieces: in memory up to a size, beyond it in a temporary file.

An hour of sound at 16 kHz is 230 MB, and its spectrogram 92 MB; memory for them must not grow with the length of a recording.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from typing import IO

import numpy as np
from numpy.typing import NDArray

from cache.errors import StoreError

IN_MEMORY = 1 << 25
"""Bytes; more of them lie in a file."""


class Spool:
    """Float32 rows, read by slices as those of an array; `read` and `len` when all rows are there, from any thread.

    The file has no name, so that it is gone with the process, however that ends.

    Args:
        width: numbers in a row; None for rows that are single numbers.
    """

    def __init__(self, width: int | None = None) -> None:
        self._shape = (-1,) if width is None else (-1, width)
        self._row_bytes = 4 * (width or 1)
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self._size = 0

    def append(self, rows: NDArray[np.float32]) -> None:
        """Add rows at the end.

        Raises:
            StoreError: if the file cannot be written (disk full).
        """
        data = np.ascontiguousarray(rows, np.float32).tobytes()
        self._size += len(data)
        if self._size <= IN_MEMORY:
            self._memory += data
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with its owner
                weakref.finalize(self, self._file.close)
                self._file.write(self._memory)
                self._memory = bytearray()
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise StoreError(
                f"Sound needs {self._size / 1e6:.0f} MB or more in a temporary file, which cannot be written to "
                f"'{tempfile.gettempdir()}' ({error}). Free space there, or set TMPDIR to another folder."
            ) from error

    def __len__(self) -> int:
        return self._size // self._row_bytes

    def __getitem__(self, wanted: slice) -> NDArray[np.float32]:
        start, stop, _ = wanted.indices(len(self))
        first, last = start * self._row_bytes, max(start, stop) * self._row_bytes
        if self._file is None:
            data: bytes | memoryview = memoryview(self._memory)[first:last].toreadonly()
        else:
            data = os.pread(self._file.fileno(), last - first, first)
        return np.frombuffer(data, np.float32).reshape(self._shape)
