"""Crops in a folder or a zip: their numbers, their bytes and their pictures; thread-safe.

Our own crops are one uncompressed zip per trial, with a commit record (`extract.faces.crop_records`). A corpus's own
crops are a plain folder (or zip) of `00001.jpg`, `00002.jpg`, …; frames without a face are absent.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import weakref
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.clock import FrameClock, check_length
from cache.errors import MediaError, MissingFileError, ShapeError, list_faults
from extract.faces.crop_records import digest_line, is_whole, read_crop_record
from extract.media.pictures import UNREADABLE, decode_picture, why_unreadable

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


def crops_are_current(path: Path, source_digest: str, settings_fingerprint: str, clock: FrameClock) -> bool:
    """Whether a zip is complete, byte by byte, and was made from this video with these settings for this clock."""
    record = read_crop_record(path)
    if record is None or not _is_made_for(record, clock):
        return False
    made = record["source"], record["settings"]
    return made == (source_digest, settings_fingerprint) and is_whole(path, record)


class CropReader:
    """Crops of a trial by frame number, from our zip, any zip, or a folder of JPEGs and PNGs.

    The frame follows from the number in the name, never from the position. Other names, hidden files and numbers up to
    two beyond the clock are ignored. `read` is thread-safe.

    Attributes:
        valid: (T,) bool, true where a crop exists.
        frames: (N,) int64 0-based frames that have a crop, sorted.

    Raises:
        MissingFileError: if there is no such file or folder.
        MediaError: if it is not a zip, or has no crops and no record that says so.
        ShapeError: if a number is 0, occurs twice, or lies more than two beyond the clock, or if
            our zip was made for another clock.
    """

    def __init__(self, path: Path, clock: FrameClock, trial_id: str = "") -> None:
        if not path.exists():
            raise MissingFileError(f"No crops at '{path}'. Check the path.")
        self._path = path
        self._record = read_crop_record(path)
        _check_clock(path, self._record, clock)
        self._files = open_crops(path)
        names = crop_numbers(path, self._files.names)
        if not names and self._record is None:
            raise MediaError(f"'{path}' holds no crops; expected files such as '00001.jpg'. Check the path.")
        if self._record is not None and len(names) != self._record["present"]:
            raise MediaError(
                f"'{path}' holds {len(names)} crops, its record says {self._record['present']}. Run 'avfusion crops' to "
                "make it again."
            )
        last = max(names, default=0)
        if last > clock.num_frames:
            check_length(trial_id or path.stem, "numbered crops", last, clock.num_frames, str(path))
        self._positions = dict(sorted((number - 1, position) for number, position in names.items()))
        self.frames = np.array([frame for frame in self._positions if frame < clock.num_frames], np.int64)
        self.valid = np.zeros(clock.num_frames, bool)
        self.valid[self.frames] = True
        self._size: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the first crop, pixels; (0, 0) if there are none."""
        if self._size is None:
            first = self._picture(int(self.frames[0])) if len(self.frames) else np.zeros((0, 0, 3), np.uint8)
            self._size = first.shape[0], first.shape[1]
        return self._size

    def read(self, frames: NDArray[np.int64], size: int | None = None, resize: str = "bilinear") -> NDArray[np.uint8]:
        """Decode crops.

        Args:
            frames: (N,) 0-based frames that have a crop, in any order.
            size: side of the result, pixels; that of the first crop if None.
            resize: "bilinear" or "bicubic", without aliasing where crops shrink.

        Returns:
            (N, H, W, 3) uint8 RGB.

        Raises:
            MissingFileError: if a frame has no crop.
            MediaError: if a crop is damaged.
            ShapeError: if the crops differ in size and no size was given.
        """
        height, width = (size, size) if size is not None else self.size
        pictures = np.empty((len(frames), height, width, 3), np.uint8)
        for place, frame in enumerate(frames):
            picture = self._picture(int(frame))
            if size is not None:
                picture = fit_picture(picture, size, resize)
            if picture.shape[:2] != (height, width):
                raise ShapeError(
                    f"Crop '{self._name(int(frame))}' of '{self._path}' is {picture.shape[1]}x{picture.shape[0]} pixels, "
                    f"the first one {width}x{height}; expected one size. Read them with a size to resize to."
                )
            pictures[place] = picture
        return pictures

    def digest(self) -> str:
        """Digest of all crops by number, from the record or computed; the same for a zip and its folder."""
        if self._record is not None:
            return str(self._record["digest"])
        content = hashlib.sha256()
        for frame, position in self._positions.items():
            content.update(digest_line(frame, self._files.read(position)))
        return content.hexdigest()

    def _name(self, frame: int) -> str:
        return self._files.names[self._positions[frame]]

    def _picture(self, frame: int) -> NDArray[np.uint8]:
        if frame not in self._positions:
            raise MissingFileError(f"'{self._path}' has no crop of frame {frame}. Ask only for frames that are valid.")
        data = self._files.read(self._positions[frame])
        try:
            return decode_picture(data)
        except UNREADABLE as error:
            raise damaged_crop(self._path, self._name(frame), why_unreadable(error)) from error


def fit_picture(picture: NDArray[np.uint8], size: int, resize: str) -> NDArray[np.uint8]:
    """(size, size, 3) of a picture (H, W, 3); `resize` as of `CropReader.read`."""
    if picture.shape[:2] == (size, size):
        return picture
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling[resize.upper()]))


def _is_made_for(record: dict[str, Any], clock: FrameClock) -> bool:
    keys = ("rate", "num_frames", "start_s", "times")
    return {key: record[key] for key in keys if key in record} == clock.short_document()


def _check_clock(path: Path, record: dict[str, Any] | None, clock: FrameClock) -> None:
    if record is None or _is_made_for(record, clock):
        return
    times = " at other times" if "times" in record or clock.times is not None else ""
    raise ShapeError(
        f"Crops '{path}' were made for {record['num_frames']} frames at {record['rate']} Hz{times}; expected {clock} from "
        f"{clock.start_s} s. Run 'avfusion crops' again."
    )
