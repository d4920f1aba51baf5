"""Face crops of a trial: one JPEG per frame in which the face is seen, numbered in the usual way.

Our own crops are one uncompressed zip per trial, with a commit record (`extract.faces.crop_records`). A corpus's own
crops are a plain folder (or zip) of `00001.jpg`, `00002.jpg`, …; frames without a face are absent.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from cache.clock import FrameClock, check_length
from cache.errors import MediaError, MissingFileError, ShapeError
from cache.foreign import sha256_file
from cache.places.folders import sync_folder
from extract.faces.crop_files import crop_numbers, damaged_crop, open_crops
from extract.faces.crop_records import VERSION, is_whole, read_crop_record, seal_zip
from extract.faces.detection import Detection, Detector, align_face, scale_boxes
from extract.faces.likeness import SIZE as LIKENESS_SIZE
from extract.faces.likeness import Reference, reference_key
from extract.faces.linking import link
from extract.faces.search import find_faces
from extract.faces.settings import REFERENCE, CropConfig
from extract.faces.tracking import Sighting, Track, follow_face
from extract.media.pictures import UNREADABLE, decode_picture, why_unreadable
from extract.media.video import probe, read_frames, shrunk_size

Reader = Callable[..., Iterator[tuple[int, NDArray[np.uint8]]]]
"""`read_frames` of one trial."""


def write_crops(
    video: Path,
    clock: FrameClock,
    face: str,
    out_zip: Path,
    config: CropConfig,
    trial_id: str,
    detector: Detector,
    source_digest: str = "",
    reference: Reference | None = None,
) -> dict[str, Any]:
    """Find one face in a video and write its aligned crops, in two streaming passes.

    The zip gets its name only when it is complete; its bytes depend only on the video, the clock, the face and the
    settings. Only one process may write it at a time, as claims see to.

    Args:
        video: the video.
        clock: the label clock.
        face: "largest", "centre", "left", "right" or "reference".
        out_zip: where to write; its folder exists.
        config: settings.
        trial_id: the trial, for messages.
        detector: with the same settings.
        source_digest: sha256 of the video, computed if empty.
        reference: for "reference", the person to follow.

    Returns:
        The commit record.

    Raises:
        MissingFileError: if there is no video.
        MediaError: if it is empty, truncated, of an unknown format, has no pictures, or nobody matches the reference.
        ShapeError: if its length differs from the clock's by more than two ticks.
        SettingError: if the face is none of these, or without its reference.
    """
    source = source_digest or sha256_file(video)
    read = partial(read_frames, video, clock, trial_id)
    track = find_track(video, clock, face, config, trial_id, detector, reference)
    key = reference_key(reference.path, config.reference_weights) if reference and face == REFERENCE else face
    record = {
        "version": VERSION,
        "source": source,
        "settings": config.fingerprint(key),
        **clock.short_document(),
        "present": int(track.present.sum()),
    }
    temporary = _temporary(out_zip)
    try:
        with temporary.open("w+b") as file:
            digest = _write_zip(file, _crops(read, track, config))
            record = seal_zip(file, {**record, "digest": digest})
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out_zip)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(out_zip.parent)
    return record


def _temporary(out_zip: Path) -> Path:
    """Where a zip is written: one place, so that what a killed process left is overwritten and need not be looked for.

    Its name is short, because that of the zip may be as long as file systems allow.
    """
    return out_zip.with_name(f".{hashlib.sha256(out_zip.name.encode()).hexdigest()[:32]}.tmp")


def find_track(
    video: Path,
    clock: FrameClock,
    face: str,
    config: CropConfig,
    trial_id: str,
    detector: Detector,
    reference: Reference | None = None,
) -> Track:
    """Find the face, in pixels of the video: the first pass of `write_crops`, whose arguments and errors it has."""
    read = partial(read_frames, video, clock, trial_id)
    info = probe(video)
    size = (info.height, info.width)
    detect = enlarging(detector, size, config.faces.max_side)

    def likeness(people: Sequence[Sequence[Sighting]]) -> NDArray[np.float64]:
        assert reference is not None
        return reference.score(_cut_faces(read, people), trial_id)

    sights = find_faces(read(max_side=config.faces.max_side), detect, config.faces)
    return follow_face(link(sights, config.faces), face, clock.num_frames, size, likeness if reference else None)


def enlarging(detector: Detector, size: tuple[int, int], max_side: int) -> Detector:
    """A detector for shrunk pictures that finds the faces in pixels of the original ones, of this height and width."""
    height, width = shrunk_size(*size, max_side)
    factors = size[1] / width, size[0] / height

    def enlarged(found: Sequence[Detection]) -> list[Detection]:
        return [faces.scaled(factors).rounded() for faces in found]

    def measure(pictures: Sequence[NDArray[np.uint8]], boxes: Sequence[NDArray[np.float32]]) -> list[Detection]:
        small = [scale_boxes(each, (1 / factors[0], 1 / factors[1])) for each in boxes]
        return enlarged(detector.measure(pictures, small))

    return Detector(lambda pictures: enlarged(detector.search(pictures)), measure)


def _cut_faces(read: Reader, people: Sequence[Sequence[Sighting]]) -> list[NDArray[np.uint8]]:
    """Cut aligned faces (N, 160, 160, 3) of each person's sightings, in one pass over the video."""
    wanted: dict[int, list[tuple[int, NDArray[np.float32]]]] = {}
    for person, sightings in enumerate(people):
        for frame, landmarks in sightings:
            wanted.setdefault(frame, []).append((person, landmarks))
    faces: list[list[NDArray[np.uint8]]] = [[] for _ in people]
    for frame, picture in read(wanted=wanted.__contains__):
        for person, landmarks in wanted[frame]:
            faces[person].append(align_face(picture, landmarks, LIKENESS_SIZE))
    return [np.stack(each) for each in faces]


def _crops(read: Reader, track: Track, config: CropConfig) -> Iterable[tuple[int, bytes]]:
    """Second pass: (frame, JPEG) of every frame with the face."""
    for frame, picture in read(wanted=lambda tick: bool(track.present[tick])):
        yield frame, encode_crop(picture, track.landmarks[frame], config)


def encode_crop(picture: NDArray[np.uint8], landmarks: NDArray[np.float32], config: CropConfig) -> bytes:
    """JPEG of the aligned face in a picture (H, W, 3)."""
    crop = align_face(picture, landmarks, config.size)
    return simplejpeg.encode_jpeg(crop, config.quality, "RGB", "444", fastdct=False)


def _write_zip(file: io.BufferedRandom, crops: Iterable[tuple[int, bytes]]) -> str:
    """Write the members; returns the digest of their content."""
    content = hashlib.sha256()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for frame, data in crops:
            member = zipfile.ZipInfo(crop_name(frame), (1980, 1, 1, 0, 0, 0))
            member.create_system = 3  # Unix
            member.external_attr = 0o644 << 16
            archive.writestr(member, data)
            content.update(_digest_line(frame, data))
    return content.hexdigest()


def crop_name(frame: int) -> str:
    """File name of a 0-based frame's crop.

    >>> crop_name(0)
    '00001.jpg'
    """
    return f"{frame + 1:05d}.jpg"


def _digest_line(frame: int, data: bytes) -> bytes:
    return f"{frame + 1} {hashlib.sha256(data).hexdigest()}\n".encode()


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
            content.update(_digest_line(frame, self._files.read(position)))
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
