"""Single crops in a folder or a zip: their numbers and their bytes; thread-safe."""

from __future__ import annotations

import os
import re
import struct
import weakref
import zipfile
import zlib
from pathlib import Path

from cache.errors import MediaError, ShapeError, list_faults

_NAME = re.compile(r"(\d+)\.(?:jpe?g|png)", re.IGNORECASE)
_MOST_CROPS = 99_999_999  # of one trial: 46 days at 25 Hz
_LISTED = 5  # faulty names of one folder that are listed; further ones are counted
_LARGEST_CROP = 1 << 28  # bytes of one member
_UTF8 = 0x800  # flag of a member whose name is UTF-8
_LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")


def damaged_crop(path: Path, name: str, what: str) -> MediaError:
    """The error for one crop that cannot be read."""
    return MediaError(
        f"Crop '{name}' of '{path}' is damaged ({what.rstrip('.').lower()}); expected a whole JPEG or PNG. "
        "Run 'avfusion crops' again if it made this zip; otherwise copy it again."
    )


class FolderFiles:
    """Files of a folder."""

    def __init__(self, path: Path) -> None:
        self._folder = f"{path}{os.sep}"
        self.names = sorted(entry.name for entry in os.scandir(path) if entry.is_file())

    def read(self, position: int) -> bytes:
        """Bytes of one file."""
        with open(self._folder + self.names[position], "rb", buffering=0) as file:  # twice as fast as with a Path
            return file.readall()


def _check_end(path: Path, comment_size: int) -> None:
    """Check that a zip is not cut off within its comment; the standard library would read a shorter comment."""
    with path.open("rb") as file:
        file.seek(-2 - comment_size, os.SEEK_END)
        if int.from_bytes(file.read(2), "little") != comment_size:
            raise zipfile.BadZipFile("its comment is cut off")


class ZipFiles:
    """Members of a zip, read by their offset in the file, so that threads share no file position."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                members = [member for member in archive.infolist() if not member.is_dir()]
                _check_end(path, len(archive.comment))
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # damaged fields raise many types: sizes, offsets, names
            raise MediaError(
                f"'{path}' is not a complete zip of crops ({' '.join(str(error).split()).lower()[:200]}); expected a zip or a folder. "
                "Run 'avfusion crops' again, or copy it again."
            ) from error
        self.names = [member.filename for member in members]
        self._members = members
        self._handle = os.open(path, os.O_RDONLY)
        self._size = os.fstat(self._handle).st_size
        weakref.finalize(self, os.close, self._handle)

    def read(self, position: int) -> bytes:
        """Bytes of one member, after verifying its checksum.

        Raises:
            MediaError: if it is damaged.
        """
        member = self._members[position]
        stored = member.compress_type == zipfile.ZIP_STORED
        if member.flag_bits & 1 or not (stored or member.compress_type == zipfile.ZIP_DEFLATED):
            raise self._damaged(position, "encrypted or compressed in an unknown way")
        largest = max(member.file_size, member.compress_size)
        if largest > _LARGEST_CROP or (stored and member.file_size != member.compress_size):
            raise self._damaged(position, f"it asks for {largest} bytes")
        data = self._stored(position, member)
        if not stored:
            unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                data = unpacker.decompress(data, member.file_size + 1)  # never more
            except zlib.error as error:
                raise self._damaged(position, str(error)) from error
        if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
            raise self._damaged(position, "its checksum differs")
        return data

    def _stored(self, position: int, member: zipfile.ZipInfo) -> bytes:
        """Raw bytes of a member from the file, after a header with the same name."""
        start = member.header_offset
        if start < 0 or start + _LOCAL_HEADER.size + member.compress_size > self._size:
            raise self._damaged(position, "the zip is cut off")
        header = os.pread(self._handle, _LOCAL_HEADER.size, start)
        magic, *_, name_size, extra_size = _LOCAL_HEADER.unpack(header)
        start += _LOCAL_HEADER.size
        name = os.pread(self._handle, name_size, start).decode(
            "utf-8" if member.flag_bits & _UTF8 else "cp437", "replace"
        )
        if magic != b"PK\x03\x04" or name != member.orig_filename:
            raise self._damaged(position, "its header belongs to another one")
        return os.pread(self._handle, member.compress_size, start + name_size + extra_size)

    def _damaged(self, position: int, what: str) -> MediaError:
        return damaged_crop(self._path, self.names[position], what)


def open_crops(path: Path) -> FolderFiles | ZipFiles:
    """Open the files of a folder or zip.

    Raises:
        MediaError: if it is not one of these.
    """
    return FolderFiles(path) if path.is_dir() else ZipFiles(path)


def crop_numbers(path: Path, names: list[str]) -> dict[int, int]:
    """Number → position of every crop; other files are ignored.

    Args:
        path: the folder or zip, for messages.
        names: names of its files.

    Raises:
        ShapeError: if numbers are 0, beyond any clock, or occur twice; lists them.
    """
    places, faults = number_crops(names)
    if faults:
        raise ShapeError(f"Crops of '{path}': {list_faults(faults, _LISTED)}. Rename or remove them.")
    return places


def number_crops(names: list[str]) -> tuple[dict[int, int], list[str]]:
    """Number → position of every valid crop name, and the faults of the others."""
    places: dict[int, int] = {}
    faults = []
    for position, name in enumerate(names):
        match = _NAME.fullmatch(name.rsplit("/", 1)[-1])
        if match is None:
            continue
        digits = match[1].lstrip("0")
        number = int(digits or "0") if len(digits) <= len(str(_MOST_CROPS)) else _MOST_CROPS + 1
        if number == 0:
            faults.append(f"'{name}' has number 0, expected numbers from 1")
        elif number > _MOST_CROPS:
            faults.append(f"'{name[:60]}' is numbered beyond the end, expected numbers of frames")
        elif number in places:
            faults.append(f"'{names[places[number]]}' and '{name}' have the same number, expected one per frame")
        else:
            places[number] = position
    return places, faults
