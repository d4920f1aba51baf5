"""Wav files: whether one holds the sound that its header promises.

Writers that cannot go back leave placeholders for the length; such sound goes on to the end of the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from extract.container import damaged

_MAGIC: dict[bytes, Literal["little", "big"]] = {
    b"RIFF": "little",
    b"RF64": "little",
    b"BW64": "little",
    b"RIFX": "big",
}
_PLACEHOLDERS = ((1 << 31, 1 << 16), (1 << 32, 1 << 16))  # lengths so near to these are no lengths
_PLACEHOLDERS_64 = ((1 << 63, 1 << 32), (1 << 64, 1 << 32))
_SLACK_S = 1 / 25  # writers count their headers too, or round up to whole blocks
_LEAST_SLACK = 64  # bytes


def check_length(path: Path) -> bool:
    """Refuse a wav file that ends before the sound its header promises.

    Returns:
        Whether it is a wav file whose length says enough; libav calls the last block of a streamed one corrupt.

    Raises:
        MediaError: naming both lengths in bytes.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(12)
        order = _MAGIC.get(start[:4])
        if order is None or start[8:] != b"WAVE":
            return False
        long_length: int | None = None
        slack = _LEAST_SLACK
        while len(header := file.read(8)) == 8:
            name, length, begin = header[:4], _number(header[4:], order), file.tell()
            if name == b"ds64":
                long_length = _number(file.read(16)[8:], order)
            elif name == b"fmt ":
                slack = max(slack, int(_number(file.read(12)[8:], order) * _SLACK_S))
            elif name == b"data":
                if length == 0xFFFFFFFF and long_length is not None:
                    unknown, length = _is_near(long_length, _PLACEHOLDERS_64), long_length
                else:
                    unknown = _is_near(length, _PLACEHOLDERS)
                if length and not unknown and begin + length > size + slack:
                    raise damaged(path, f"{size - begin} of {length} bytes of sound")
                return True
            file.seek(begin + length + length % 2)
    return False


def _number(data: bytes, order: Literal["little", "big"]) -> int:
    return int.from_bytes(data, order)


def _is_near(length: int, places: tuple[tuple[int, int], ...]) -> bool:
    return any(abs(length - place) <= around for place, around in places)
