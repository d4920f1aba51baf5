"""Media that are still being written, or never end: a growing file, a pipe, standard input, a camera."""

from __future__ import annotations

import os
import select
import signal
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

import av

from cache.errors import MediaError, MissingFileError
from extract.media.container import media_faults

STANDARD_INPUT = Path("-")
PATIENCE_S = 5.0
_PAUSE_S = 0.02  # between two looks for more


class GrowingFile:
    """A file for libav that waits for more bytes, until none have come for some time; a pipe ends when its writers close it.

    Attributes:
        ended: whether the end was reached.
        is_empty: whether nothing has come yet.
    """

    def __init__(self, file: BinaryIO, patience_s: float) -> None:
        self._file, self._patience_s = file, patience_s
        self._regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        if not self._regular:
            self._patience_s = 0.0  # nothing comes only when its writers have closed it
        self.ended = False
        self.is_empty = True
        self._interrupted = False

    @property
    def has_more(self) -> bool:
        """Whether reading would not wait."""
        if self._regular:
            return os.fstat(self._file.fileno()).st_size > self._file.tell()
        return self._has_come(0)

    def _has_come(self, timeout_s: float) -> bool:
        """Whether reading a pipe would not wait, or its writers have closed it."""
        return bool(select.select([self._file], [], [], timeout_s)[0])

    def read(self, size: int) -> bytes:
        """Some bytes, at most `size`; none at the end, or after an interruption, which libav's caller would swallow."""
        try:
            return self._read(size)
        except KeyboardInterrupt:
            self._interrupted = True
        return b""

    def raise_interruption(self) -> None:
        """Raise the Ctrl-C that libav's caller has swallowed."""
        if self._interrupted:
            raise KeyboardInterrupt

    @contextmanager
    def noting_interruptions(self) -> Iterator[None]:
        """Note Ctrl-C when it comes: it may also be raised, and swallowed, just before or after `read`."""
        usual = signal.getsignal(signal.SIGINT)

        def note(number: int, frame: FrameType | None) -> None:
            self._interrupted = True
            if callable(usual):
                usual(number, frame)

        if threading.current_thread() is not threading.main_thread() or usual is None:  # whoever has set it sees to it
            yield
            return
        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, usual)

    def _read(self, size: int) -> bytes:
        since = time.monotonic()
        while not self.ended and not self._interrupted:
            if not self._regular and not self._has_come(_PAUSE_S):
                continue  # a read that waits would not notice a Ctrl-C that came just before it
            data = self._file.read(size)
            if data:
                self.is_empty = False
                return data
            self.ended = time.monotonic() - since >= self._patience_s
            time.sleep(0 if self.ended else _PAUSE_S)
        return b""


@contextmanager
def open_growing(path: Path, patience_s: float = PATIENCE_S) -> Iterator[tuple[Any, GrowingFile | None]]:
    """Open a container that may still grow; a camera never ends.

    Yields:
        The container, and the file below it; None for a camera.

    Raises:
        MissingFileError: if there is no such file or device.
        MediaError: if nothing comes, or the format is unknown or cannot be read while it is being written.
    """
    if path != STANDARD_INPUT and not path.exists():
        raise MissingFileError(f"No media file or camera '{path}'. Check the path, or start the recording first.")
    if path != STANDARD_INPUT and stat.S_ISCHR(path.stat().st_mode):
        try:
            camera = av.open(str(path), format="v4l2")
        except (av.FFmpegError, ValueError) as error:
            raise MediaError(
                f"'{path}' cannot be read as a camera ({error}). Check the device, or pipe it in."
            ) from error
        with camera, media_faults(path):
            yield camera, None
        return
    if path.is_dir():
        raise MediaError(f"'{path}' is a folder; expected a video or sound file that is being written. Check the path.")
    with _open_bytes(path) as raw:
        file = GrowingFile(raw, patience_s)
        try:
            with file.noting_interruptions(), av.open(file, metadata_errors="replace") as container:
                file.raise_interruption()
                yield container, file
        except av.FFmpegError as error:
            file.raise_interruption()
            if file.is_empty:
                raise MediaError(
                    f"Nothing has come from '{path}'; expected a recording. Check what writes it, or wait longer for it with --patience."
                ) from error
            raise MediaError(
                f"'{path}' cannot be read while it is being written ({(error.strerror or str(error)).lower()}); expected MPEG-TS, "
                "Matroska, fragmented MP4, WAV or another format without an index at its end. Record in one of these, or predict "
                "the finished file without --live."
            ) from error


def _open_bytes(path: Path) -> BinaryIO:
    """Open a file, a pipe or standard input for reading.

    Raises:
        MediaError: if it cannot be read.
    """
    try:
        return open(0 if path == STANDARD_INPUT else path, "rb", buffering=0, closefd=path != STANDARD_INPUT)
    except OSError as error:
        what = "Standard input" if path == STANDARD_INPUT else f"'{path}'"
        raise MediaError(
            f"{what} cannot be read ({(error.strerror or str(error)).lower()}). Pipe a recording in, or give its file."
        ) from error
