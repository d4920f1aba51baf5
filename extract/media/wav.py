"""Wav files: check the length in the header, and read the sound with libsndfile.

Writers that cannot seek leave a placeholder as the length; such sound extends to the end of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from extract.media.container import damaged, media_faults

Block = tuple[int, NDArray[np.float32]]
"""Samples per second, and (S,) mono in [-1, 1]."""

_BLOCK = 1 << 16  # samples
_MAGIC: dict[bytes, Literal["little", "big"]] = {
    b"RIFF": "little",
    b"RF64": "little",
    b"BW64": "little",
    b"RIFX": "big",
}
_PLACEHOLDERS = (1 << 31, 1 << 32)
_NEAR = 1 << 16  # lengths this close to a placeholder count as one
_LONGEST = 1 << 48  # larger 64-bit lengths are placeholders too
_SLACK_S = 1 / 25  # writers include headers in the count, or round up to whole blocks
_LEAST_SLACK = 64  # bytes


def read_known(path: Path) -> Iterator[Block] | None:
    """Sound of a wav file in blocks, read by libsndfile; None if it knows neither codec nor length, which libav does."""
    if not _is_wav(path):
        return None
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError:
        return None
    if not file.frames:
        file.close()
        return None
    return _read(path, file)


def _is_wav(path: Path) -> bool:
    """Whether a file begins like a wav file, whatever its name."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(12)
    return start[:4] in _MAGIC and start[8:] == b"WAVE"


def _read(path: Path, file: soundfile.SoundFile) -> Iterator[Block]:
    with file, media_faults(path):
        check_length(path)
        while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
            yield file.samplerate, block.mean(axis=1)


def check_length(path: Path) -> str:
    """Check that a wav file is as long as its header says.

    Returns:
        "known" if it is, "open" if the sound extends to the end of the file, "" for any other file. In the first two cases
        libav may call the last block corrupt.

    Raises:
        MediaError: if it is shorter; gives both lengths in bytes.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(12)
        order = _MAGIC.get(start[:4])
        if order is None or start[8:] != b"WAVE":
            return ""
        long_length: int | None = None
        slack = _LEAST_SLACK
        while len(header := file.read(8)) == 8:
            name = header[:4]
            length = _number(header[4:], order)
            begin = file.tell()
            if name == b"ds64":
                long_length = _number(file.read(16)[8:], order)
            elif name == b"fmt ":
                slack = max(slack, int(_number(file.read(12)[8:], order) * _SLACK_S))
            elif name == b"data":
                if length == 0xFFFFFFFF and long_length is not None:
                    unknown, length = not 0 < long_length < _LONGEST, long_length
                else:
                    unknown = not length or any(abs(length - place) <= _NEAR for place in _PLACEHOLDERS)
                if not unknown and begin + length > size + slack:
                    raise damaged(path, f"{size - begin} of {length} bytes of sound")
                return "open" if unknown else "known"
            file.seek(begin + length + length % 2)
    return ""


def _number(data: bytes, order: Literal["little", "big"]) -> int:
    return int.from_bytes(data, order)
