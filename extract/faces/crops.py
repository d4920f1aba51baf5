"""Face crops of a trial: one JPEG per frame in which the face is seen, in a zip as `extract.faces.crop_files` reads it."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import threading
import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from cache.errors import FingerprintError
from cache.foreign import sha256_file
from cache.places.folders import sync_folder
from cache.settings import check_ranges, make_settings
from extract.faces.crop_records import VERSION, digest_line, seal_zip
from extract.faces.detection import TEMPLATE_SIZE, FaceConfig, align_face
from extract.faces.finding import VideoFaces
from extract.faces.tracking import PERSON, REFERENCE, Track

ALGORITHM = 5  # raise it when the same settings give different crops

_WHOSE = ("identity", "identity_similarity", "min_seen_s", "reference_weights", "reference_similarity")
"""Settings that say whose face it is; as the face of a trial, they are not part of a recipe."""


@dataclass(frozen=True)
class CropConfig:
    """Settings of crops; those that affect a face's crops are part of their identity.

    Attributes:
        faces: detection and tracking.
        size: side of a crop, pixels.
        quality: of the JPEGs, 1 to 100; chroma is never subsampled.
        identity: network that knows a person again after a gap or a cut: foamliu, vggface2, or the path of weights of
            mobilefacenet or facenet; empty: people are followed by their places, and a cut ends tracks.
        identity_similarity: cosine above which two faces count as one person's. 0.5 is measured for foamliu (docs/faces.md): one
            person 0.51 to 0.92, two people 0.09 to 0.44; not for others.
        min_seen_s: of face "all": who is seen for a shorter time, seconds, is a passer-by and no trial.
        reference_weights: of the FaceNet that compares faces with a reference picture: a registered name or a path.
        reference_similarity: cosine above which a face counts as the person in the picture. 0.5 is not measured: raise it
            if the wrong person is followed, lower it if nobody matches (the message gives the best cosine).
    """

    faces: FaceConfig = field(default_factory=FaceConfig)
    size: int = TEMPLATE_SIZE
    quality: int = 95
    identity: str = ""
    identity_similarity: float = 0.5
    min_seen_s: float = 1.0
    reference_weights: str = "vggface2"
    reference_similarity: float = 0.5

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {"size": (1, 4096), "quality": (1, 100), "min_seen_s": (0, 1e9)}
        check_ranges("the crops", self, ranges | {"identity_similarity": (-1, 1)}, {})

    def to_document(self) -> dict[str, Any]:
        """Settings that affect the crops of any face, as JSON values, without those that say whose face it is."""
        document = {"algorithm": ALGORITHM, **asdict(self)}
        for name in _WHOSE:
            del document[name]
        found: dict[str, Any] = json.loads(json.dumps(document))
        return found

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> CropConfig:
        """Settings from a recipe, with defaults for those that say whose face it is.

        Raises:
            FingerprintError: if this version would make different crops with them.
        """
        own = {key: value for key, value in document.items() if key != "algorithm"}
        found = make_settings(cls, own, "the crops of a recipe")
        if found.to_document() != document:
            raise FingerprintError(
                f"These crops were made by algorithm {document['algorithm']}, this program has {ALGORITHM}. Use the avfusion "
                "version that made them, or extract and train again."
            )
        return found

    def fingerprint(self, face: str) -> str:
        """Digest of everything except the video that affects the crops of one face, hex sha256.

        Args:
            face: as in a trial, or the `reference_key` of a picture, or the `person_key` of one of all people.
        """
        document = {**self.to_document(), "face": face}
        if face.startswith(REFERENCE):
            document |= {name: getattr(self, name) for name in ("reference_weights", "reference_similarity")}
        elif self.identity and not face.startswith(PERSON):
            document |= self.identity_document()
        return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def identity_document(self) -> dict[str, Any]:
        """What tells people apart, as JSON values; weights in a file count by their content."""
        if not self.identity:
            return {}
        path = Path(self.identity)
        weights = _digest(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) if path.is_file() else self.identity
        return {"identity": weights, "identity_similarity": self.identity_similarity}


@functools.lru_cache(maxsize=4)  # asked for every trial, and up to 100 MB
def _digest(path: Path, size: int, modified: int) -> str:
    return sha256_file(path)


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
        self._temporary = path.with_name(f"{_temporary_stem(path)}.{os.getpid()}.{threading.get_ident()}.tmp")
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


def remove_unfinished(out_zip: Path) -> None:
    """Remove unfinished files of a zip left by killed processes; no process may be writing it."""
    for leftover in out_zip.parent.glob(f"{_temporary_stem(out_zip)}.*.tmp"):
        leftover.unlink(missing_ok=True)


def _temporary_stem(out_zip: Path) -> str:
    """Prefix of a zip's temporary names; short, because its own name may be as long as file systems allow."""
    return f".{hashlib.sha256(out_zip.name.encode()).hexdigest()[:32]}"


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
