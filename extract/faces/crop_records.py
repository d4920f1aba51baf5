"""The commit record of a zip of crops: its comment, at the very end of the file, with digests of everything before it.

A killed write never leaves a zip that looks finished, and reading the file once detects any flipped bit. The end of the
zip is parsed here because the standard library also reads the whole directory: 79 ms for 7,200 crops instead of 0.07 ms.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
from pathlib import Path
from typing import Any, Literal

from cache.documents.documents import FractionText, Number, NumFrames, Part, parse_json
from cache.recipe import fingerprint

VERSION = 2  # 2: digests of the archive and of the record itself
_END_RECORD = struct.Struct("<4sHHHHIIH")
_SIZE_FIELD = 2  # bytes of the comment's size, the last field of a zip
_LONGEST_COMMENT = 0xFFFF
_BLOCK = 1 << 20
_SIGNATURE = "record"


class _RecordPart(Part):
    """Contents of the comment, apart from its own digest."""

    version: Literal[2]
    source: str
    settings: str
    rate: FractionText
    num_frames: NumFrames
    start_s: float
    times: str | None = None
    present: Number
    cuts: Number = 0
    elsewhere: Number = 0
    other: Number = 0
    digest: str
    archive: str


def seal_zip(file: io.BufferedRandom, record: dict[str, Any]) -> dict[str, Any]:
    """Append the record to a finished zip without a comment; returns it with its digests."""
    file.flush()
    end = file.seek(0, os.SEEK_END) - _SIZE_FIELD
    sealed = {**record, "archive": _digest_start(file, end)}
    sealed[_SIGNATURE] = fingerprint(sealed)
    comment = json.dumps(sealed, sort_keys=True).encode()
    file.seek(end)
    file.write(len(comment).to_bytes(_SIZE_FIELD, "little") + comment)
    return sealed


def read_crop_record(path: Path) -> dict[str, Any] | None:
    """The commit record at the end of a zip; None if the file is missing, unfinished, damaged there, or not ours."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _END_RECORD.size - _LONGEST_COMMENT))
            tail = file.read()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    start = tail.rfind(b"PK\x05\x06")
    if start < 0 or len(tail) < start + _END_RECORD.size:
        return None
    *_, num_members, _, _, comment_size = _END_RECORD.unpack_from(tail, start)
    comment = tail[start + _END_RECORD.size :]
    if len(comment) != comment_size:
        return None
    try:
        record = parse_json(comment)
        content = {key: value for key, value in record.items() if key != _SIGNATURE}
        _RecordPart.model_validate(content)
        if record.get(_SIGNATURE) != fingerprint(content):
            return None
    except (ValueError, AttributeError):  # not JSON, or not an object
        return None
    whole: dict[str, Any] = record
    return whole if num_members == min(whole["present"], 0xFFFF) else None


def is_whole(path: Path, record: dict[str, Any]) -> bool:
    """Whether every byte before a zip's comment is unchanged since the record was written."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END) - len(json.dumps(record, sort_keys=True)) - _SIZE_FIELD
        return end > 0 and _digest_start(file, end) == record["archive"]


def _digest_start(file: io.BufferedReader | io.BufferedRandom, end: int) -> str:
    """sha256 of the bytes before `end`."""
    content = hashlib.sha256()
    file.seek(0)
    while end > 0 and (block := file.read(min(_BLOCK, end))):
        content.update(block)
        end -= len(block)
    return content.hexdigest()


def digest_line(frame: int, data: bytes) -> bytes:
    """What one crop adds to the digest of the content of all crops."""
    return f"{frame + 1} {hashlib.sha256(data).hexdigest()}\n".encode()
