"""Face crops of a trial: one JPEG per frame in which the face is seen, in a zip as `extract.faces.crop_files` reads it."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tempfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from cache.errors import ShapeError
from cache.places.folders import sync_folder
from extract.faces.crop_records import VERSION, digest_line, seal_zip
from extract.faces.detection import Detection, align_face
from extract.faces.finding import VideoFaces
from extract.faces.settings import CropConfig
from extract.faces.tracking import Track

_MOST_BYTES = 1 << 30  # of crops that are cut out early, a hundred thousand or more; what does not fit is decoded again
_EARLY = struct.Struct("<q40sI")  # frame, landmarks, bytes of the JPEG


class Wanted(NamedTuple):
    """Crops to write.

    Attributes:
        track: the face.
        out_zip: where to; its folder exists.
        settings: fingerprint of the settings of this face.
    """

    track: Track
    out_zip: Path
    settings: str


class EarlyCrops:
    """Crops of everybody, cut out while the search has the pictures at hand, so that the video is not decoded again for them.

    They lie in a file without a name, which is gone with the process, in the order of their frames.

    Args:
        folder: of the file.
        num_frames: T of the trial.
        config: settings.

    Attributes:
        kept: (T,) frames of which every face is here.
    """

    def __init__(self, folder: Path, num_frames: int, config: CropConfig) -> None:
        self.kept = np.zeros(num_frames, bool)
        self._config = config
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._next: tuple[int, bytes, bytes] | None = None
        self._num_bytes = 0
        self._is_full = self._is_read = False

    def __enter__(self) -> EarlyCrops:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def keep(self, frame: int, faces: Detection, picture: Callable[[], NDArray[np.uint8]]) -> None:
        """The faces of the next frame, see `extract.faces.finding.Keep`."""
        if self._is_full:
            return
        try:
            crops = [encode_crop(picture(), landmarks, self._config) for landmarks in faces.landmarks]
        except ShapeError:  # told if this face is wanted
            return
        for landmarks, data in zip(faces.landmarks, crops, strict=True):
            self._is_full |= not self._write(_EARLY.pack(frame, _key(landmarks), len(data)) + data)
        self.kept[frame] = not self._is_full

    def take(self, frame: int) -> dict[bytes, bytes]:
        """Landmarks (`_key`) → JPEG of the faces in a frame; frames are asked for in order."""
        if not self._is_read:
            self._is_read = True
            self._file.seek(0)
            self._next = self._read()
        found = {}
        while self._next is not None and self._next[0] <= frame:
            if self._next[0] == frame:
                found[self._next[1]] = self._next[2]
            self._next = self._read()
        return found

    def _write(self, record: bytes) -> bool:
        """Whether there was room for a record; a full disk is told of where it matters."""
        self._num_bytes += len(record)
        try:
            return self._num_bytes <= _MOST_BYTES and self._file.write(record) == len(record)
        except OSError:
            return False

    def _read(self) -> tuple[int, bytes, bytes] | None:
        head = self._file.read(_EARLY.size)
        if len(head) < _EARLY.size:
            return None
        frame, landmarks, size = _EARLY.unpack(head)
        return frame, landmarks, self._file.read(size)


def _key(landmarks: NDArray[np.float32]) -> bytes:
    return (landmarks + np.float32(0)).tobytes()  # without a sign of zeros


def write_crops(
    faces: VideoFaces, wanted: Sequence[Wanted], source: str, config: CropConfig, early: EarlyCrops | None = None
) -> list[dict[str, Any]]:
    """Write the aligned crops of some faces of one video, in one streaming pass over what is not cut out yet.

    The zips get their names when all are complete; their bytes depend only on the video, the clock, the face and the
    settings.

    Args:
        faces: the video.
        wanted: faces and where to write them.
        source: sha256 of the video.
        config: settings.
        early: crops that the search has cut out.

    Returns:
        The commit records.

    Raises:
        MissingFileError: if there is no video.
        MediaError: if it is empty, truncated, of an unknown format, or has no pictures.
        ShapeError: if its length differs from the clock's by more than two ticks.
    """
    clock = faces.clock.short_document()
    files = [_Zip(each.out_zip) for each in wanted]
    last = [max((part.frames[-1] for part in each.track.parts), default=-1) for each in wanted]

    def seal(at: int) -> None:
        track = wanted[at].track
        lost = {"cuts": track.cuts, "elsewhere": track.elsewhere, "other": track.other}
        files[at].seal({"version": VERSION, "source": source, "settings": wanted[at].settings, **clock, **lost})

    try:
        for frame, shown in _cut(faces, wanted, config, early):
            for at, data in shown:
                files[at].add(frame, data)
                if frame == last[at]:
                    seal(at)
        for at, file in enumerate(files):
            if file.record is None:
                seal(at)
        for file in files:
            file.commit()
    finally:
        for file in files:
            file.discard()
    for folder in {each.out_zip.parent for each in wanted}:
        sync_folder(folder)
    return [file.record or {} for file in files]


def _cut(
    faces: VideoFaces, wanted: Sequence[Wanted], config: CropConfig, early: EarlyCrops | None
) -> Iterator[tuple[int, list[tuple[int, bytes]]]]:
    """Every frame that shows a wanted face, with the number and the JPEG of each of them."""
    parts = sorted(
        ((part, at) for at, each in enumerate(wanted) for part in each.track.parts), key=lambda pair: pair[0].frames[0]
    )
    seen, known = np.zeros((2, faces.clock.num_frames), bool)
    known[:] = False if early is None else early.kept
    for part, _ in parts:
        first, stop = part.frames[0], part.frames[-1] + 1
        seen[first:stop] = True
        known[first:stop] &= np.isin(np.arange(first, stop), part.frames)  # not where it is between two sightings
    coming, active = deque(parts), []
    pictures = faces.read(wanted=lambda tick: bool(seen[tick] and not known[tick]))
    for frame in np.flatnonzero(seen).tolist():
        while coming and coming[0][0].frames[0] <= frame:
            active.append(coming.popleft())
        active = [(part, at) for part, at in active if part.frames[-1] >= frame]
        places = [(at, part.between(frame, frame + 1)[0]) for part, at in active]
        if early is not None and known[frame]:
            crops = early.take(frame)
            yield frame, [(at, crops[_key(landmarks)]) for at, landmarks in places]
        else:
            _, picture = next(pictures)
            yield frame, [(at, encode_crop(picture, landmarks, config)) for at, landmarks in places]


class _Zip:
    """A zip of crops that is being written; nobody sees it before it is committed.

    Attributes:
        record: the commit record, once it is sealed.
    """

    def __init__(self, path: Path) -> None:
        self.record: dict[str, Any] | None = None
        self._path = path
        self._temporary = _temporary(path)
        self._content = hashlib.sha256()
        self._present = 0
        self._file: io.BufferedRandom | None = None
        self._archive: zipfile.ZipFile | None = None

    def add(self, frame: int, data: bytes) -> None:
        """Write one crop."""
        member = zipfile.ZipInfo(crop_name(frame), (1980, 1, 1, 0, 0, 0))
        member.create_system = 3  # Unix
        member.external_attr = 0o644 << 16
        self._open().writestr(member, data)
        self._content.update(digest_line(frame, data))
        self._present += 1

    def seal(self, record: dict[str, Any]) -> None:
        """Finish the file, which takes none of this process's file handles from here on."""
        self._open().close()
        assert self._file is not None
        content = {**record, "present": self._present, "digest": self._content.hexdigest()}
        self.record = seal_zip(self._file, content)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def commit(self) -> None:
        """Give it its name."""
        self._temporary.replace(self._path)

    def discard(self) -> None:
        """Remove it unless it is committed."""
        for each in (self._archive, self._file):  # an archive that is left open would write its end into a closed file
            if each is not None:
                with suppress(OSError):  # of a full disk, which is told already
                    each.close()
        self._temporary.unlink(missing_ok=True)

    def _open(self) -> zipfile.ZipFile:
        if self._archive is None:
            self._file = self._temporary.open("w+b")
            self._archive = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
        return self._archive


def _temporary(out_zip: Path) -> Path:
    """Where a zip is written: one place, so that what a killed process left is overwritten and need not be looked for.

    Its name is short, because that of the zip may be as long as file systems allow.
    """
    return out_zip.with_name(f".{hashlib.sha256(out_zip.name.encode()).hexdigest()[:32]}.tmp")


def encode_crop(picture: NDArray[np.uint8], landmarks: NDArray[np.float32], config: CropConfig) -> bytes:
    """JPEG of the aligned face in a picture (H, W, 3)."""
    crop = align_face(picture, landmarks, config.size)
    return simplejpeg.encode_jpeg(crop, config.quality, "RGB", "444", fastdct=False)


def crop_name(frame: int) -> str:
    """File name of a 0-based frame's crop.

    >>> crop_name(0)
    '00001.jpg'
    """
    return f"{frame + 1:05d}.jpg"
