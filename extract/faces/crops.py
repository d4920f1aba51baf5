"""Face crops of a trial: one JPEG per frame in which the face is seen, in a zip as `extract.faces.crop_files` reads it."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from cache.places.folders import sync_folder
from extract.faces.crop_records import VERSION, digest_line, seal_zip
from extract.faces.detection import align_face
from extract.faces.finding import VideoFaces
from extract.faces.settings import CropConfig
from extract.faces.tracking import Track


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


def write_crops(faces: VideoFaces, wanted: Sequence[Wanted], source: str, config: CropConfig) -> list[dict[str, Any]]:
    """Write the aligned crops of some faces of one video, in one streaming pass.

    The zips get their names when all are complete; their bytes depend only on the video, the clock, the face and the
    settings.

    Args:
        faces: the video.
        wanted: faces and where to write them.
        source: sha256 of the video.
        config: settings.

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
        for frame, picture, shown in _pictures(faces, wanted):
            for at, landmarks in shown:
                files[at].add(frame, encode_crop(picture, landmarks, config))
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


def _pictures(
    faces: VideoFaces, wanted: Sequence[Wanted]
) -> Iterator[tuple[int, NDArray[np.uint8], list[tuple[int, NDArray[np.float32]]]]]:
    """Every frame that shows a wanted face, with its picture, and the number and landmarks (5, 2) of each of them."""
    parts = sorted(
        ((part, at) for at, each in enumerate(wanted) for part in each.track.parts), key=lambda pair: pair[0].frames[0]
    )
    seen = np.zeros(faces.clock.num_frames, bool)
    for part, _ in parts:
        seen[part.frames[0] : part.frames[-1] + 1] = True
    coming, active = deque(parts), []
    for frame, picture in faces.read(wanted=lambda tick: bool(seen[tick])):
        while coming and coming[0][0].frames[0] <= frame:
            active.append(coming.popleft())
        active = [(part, at) for part, at in active if part.frames[-1] >= frame]
        yield frame, picture, [(at, part.between(frame, frame + 1)[0]) for part, at in active]


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
        if self._file is not None:
            self._file.close()
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
