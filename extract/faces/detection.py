"""Detect faces in a video, and align the picture of one face.

Faces are detected in every k-th frame and, if two such samples disagree, by bisection between them (unless `settle` is
off), which gives the exact frame in which a face appears or leaves. `extract.faces.tracking` then follows one person.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.errors import ShapeError
from cache.settings import check_ranges

# Eyes, nose and corners of the mouth in a 112x112 face, pixel centres at whole numbers [models.md 4.4].
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2042]]
)
TEMPLATE_SIZE = 112
_GRID = np.float32(32)  # places of faces per pixel


@dataclass(frozen=True)
class FaceConfig:
    """Settings of detection and tracking; all of them are part of the crops' identity.

    Attributes:
        every: detect in every k-th frame.
        settle: if two such samples disagree, also detect in between, until the frames in which faces appear and leave are
            exact; false uses only the samples, which saves time if many people come and go.
        max_side: pictures are shrunk for detection until their longer side has at most this many pixels.
        min_face_size: smallest face to detect, in pixels of the shrunk picture.
        thresholds: probability thresholds of the three networks.
        min_probability: detections below are ignored.
        max_gap: longest gap in frames without a detection that a track bridges.
        min_overlap: smallest intersection over union of one face's boxes in successive detections.
    """

    every: int = 5
    settle: bool = True
    max_side: int = 640
    min_face_size: int = 32
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    min_probability: float = 0.9
    max_gap: int = 10
    min_overlap: float = 0.3

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = dict.fromkeys(("thresholds", "min_probability", "min_overlap"), (0, 1))
        ranges |= {"every": (1, 1e9), "max_side": (1, 1e9), "min_face_size": (12, 1e9), "max_gap": (0, 1e9)}
        faults: dict[str, str] = {}
        if len(self.thresholds) != 3:
            faults["thresholds"] = f"is {list(self.thresholds)}, expected a list of 3 values"
        check_ranges("the detection of faces", self, ranges, {}, faults)


@dataclass(frozen=True)
class Detection:
    """The N faces of one frame, in pixels of the original picture.

    Attributes:
        boxes: (N, 4) left, top, right, bottom.
        probabilities: (N,).
        landmarks: (N, 5, 2) x, y of the eyes, the nose and the corners of the mouth, left ones first.
    """

    boxes: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    landmarks: NDArray[np.float32]

    def scaled(self, factors: tuple[float, float]) -> Detection:
        """The same faces in a picture enlarged by these factors."""
        scale = np.array(factors, np.float32)
        shift = (scale - 1) / np.float32(2)  # pixel centres are at whole numbers
        corners = self.boxes.reshape(-1, 2, 2) * scale + shift
        return Detection(corners.reshape(-1, 4), self.probabilities, self.landmarks * scale + shift)

    def rounded(self) -> Detection:
        """The same faces rounded to 1/32 pixel, so that last bits, which vary by processor, do not affect the crops."""
        boxes, landmarks = (np.rint(each * _GRID) / _GRID for each in (self.boxes, self.landmarks))
        return Detection(boxes, self.probabilities, landmarks)


class FoundFaces(Mapping[int, Detection]):
    """Detections by frame, all in one growing array of 60 bytes per face.

    Thousands of small arrays, allocated between pictures, would fragment the heap: that cost 38 kB per frame.
    """

    def __init__(self) -> None:
        self._values = array("f")
        self._places: dict[int, tuple[int, int]] = {}

    def add(self, frame: int, found: Detection) -> None:
        """Add the faces of a frame."""
        rows = np.column_stack((found.boxes, found.probabilities, found.landmarks.reshape(-1, 10)))
        self._places[frame] = len(self._values), len(rows)
        self._values.frombytes(rows.astype(np.float32).tobytes())

    def __getitem__(self, frame: int) -> Detection:
        start, number = self._places[frame]
        rows = np.array(self._values[start : start + 15 * number], np.float32).reshape(number, 15)
        return Detection(rows[:, :4], rows[:, 4], rows[:, 5:].reshape(number, 5, 2))

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


Detector = Callable[[Sequence[NDArray[np.uint8]]], list[Detection]]


def make_detector(config: FaceConfig, device: str = "cpu") -> Detector:
    """Make a detector for pictures of one size, already shrunk; imports facenet-pytorch, which takes seconds."""
    from extract.faces.mtcnn import Cascade

    cascade = Cascade(config.min_face_size, config.thresholds, device)

    def detect(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
        found = []
        for boxes, landmarks in cascade(np.stack(pictures)):
            sure = boxes[:, 4] >= config.min_probability
            found.append(Detection(boxes[sure, :4], boxes[sure, 4], landmarks[sure]))
        return found

    return detect


class FaceSearch:
    """Detects faces in every k-th frame, in the last one, and (`settle`) by bisection between samples that disagree.

    Keeps at most `config.every * batch_size` pictures in memory.

    Args:
        detector: finds the faces of a batch.
        config: settings.
        batch_size: pictures per batch; affects speed, memory and delay, not the result.

    Attributes:
        found: frame → its faces, in pixels of the given pictures.
    """

    def __init__(self, detector: Detector, config: FaceConfig, batch_size: int) -> None:
        self.found = FoundFaces()
        self._detector, self._config, self._batch_size = detector, config, batch_size
        self._pending: dict[int, NDArray[np.uint8]] = {}
        self._samples: list[int] = []
        self._before: int | None = None

    def add(self, index: int, picture: NDArray[np.uint8]) -> list[int]:
        """The next picture (H, W, 3) uint8 RGB; returns the frames that were examined now, in order."""
        self._pending[index] = picture
        if index % self._config.every == 0:
            self._samples.append(index)
        return self._examine() if len(self._samples) == self._batch_size else []

    def finish(self) -> list[int]:
        """The last picture was added; returns the frames that were examined now, in order."""
        if self._pending:
            self._samples = list(dict.fromkeys([*self._samples, max(self._pending)]))
        return self._examine() if self._samples else []

    def _examine(self) -> list[int]:
        samples = self._samples
        _detect_batches(self._pending, samples, self._detector, self._batch_size, self.found)
        anchors = samples if self._before is None else [self._before, *samples]
        while self._config.settle and (between := _disagreements(anchors, self.found, self._config)):
            _detect_batches(self._pending, between, self._detector, self._batch_size, self.found)
            anchors = sorted({*anchors, *between})
        examined = [index for index in anchors if index != self._before]
        self._before, self._samples, self._pending = samples[-1], [], {}
        return examined


def detect_faces(
    frames: Iterable[tuple[int, NDArray[np.uint8]]], detector: Detector, config: FaceConfig, batch_size: int = 16
) -> FoundFaces:
    """Detect faces in all pictures of a video, see `FaceSearch`.

    Args:
        frames: (index, (H, W, 3) uint8 RGB picture) in order, shrunk for detection.
        detector: finds the faces of a batch.
        config: settings.
        batch_size: pictures per batch.
    """
    search = FaceSearch(detector, config, batch_size)
    for index, picture in frames:
        search.add(index, picture)
    search.finish()
    return search.found


def _detect_batches(
    pictures: Mapping[int, NDArray[np.uint8]],
    indices: Sequence[int],
    detector: Detector,
    batch_size: int,
    found: FoundFaces,
) -> None:
    """Detect faces in some pictures; a batch ends when the picture size changes."""
    start = 0
    while start < len(indices):
        stop = start + 1
        shape = pictures[indices[start]].shape
        while stop < min(start + batch_size, len(indices)) and pictures[indices[stop]].shape == shape:
            stop += 1
        batch = indices[start:stop]
        for index, faces in zip(batch, detector([pictures[index] for index in batch]), strict=True):
            found.add(index, faces)
        start = stop


def _disagreements(frames: Sequence[int], found: Mapping[int, Detection], config: FaceConfig) -> list[int]:
    """Frames halfway between successive samples that do not show the same faces."""
    halfway = []
    for first, second in pairwise(frames):
        one, other = found[first].boxes, found[second].boxes
        alike = len(one) == len(other) == len(match_boxes(one, other, config.min_overlap))
        if second - first > 1 and not alike:
            halfway.append((first + second) // 2)
    return halfway


def overlaps(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, M) intersection over union of (N, 4) and (M, 4) boxes."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (one, other)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def match_boxes(one: NDArray[np.float32], other: NDArray[np.float32], min_overlap: float) -> list[tuple[int, int]]:
    """Pairs of boxes that overlap at least this much, best first, each box once."""
    if not len(one) or not len(other):
        return []
    table = overlaps(one, other)
    rows, columns = np.nonzero(table >= max(min_overlap, 1e-6))
    pairs: list[tuple[int, int]] = []
    used: tuple[set[int], set[int]] = set(), set()
    for place in np.argsort(-table[rows, columns], kind="stable"):
        row = int(rows[place])
        column = int(columns[place])
        if row not in used[0] and column not in used[1]:
            pairs.append((row, column))
            used[0].add(row)
            used[1].add(column)
    return pairs


def align_face(
    frame: NDArray[np.uint8], landmarks: NDArray[np.float32], size: int = TEMPLATE_SIZE
) -> NDArray[np.uint8]:
    """Rotate, scale and shift a face so that its landmarks lie nearest to those of the template.

    The similarity transform is the least-squares one without reflection [Umeyama1991], in closed form. Sampling is
    bilinear, after averaging boxes of pixels if the face shrinks by more than a factor of two.

    Args:
        frame: (H, W, 3) uint8 RGB.
        landmarks: (5, 2) x, y in pixels, finite.
        size: side of the result, pixels.

    Returns:
        (size, size, 3) uint8 RGB, black outside the frame.

    Raises:
        ShapeError: if the landmarks are not finite or all the same.
    """
    turn, shift = _similarity_to_frame(landmarks, size)
    corners = turn * np.array([0, size, size * 1j, size * (1 + 1j)]) + shift
    shrink = max(1, int(abs(turn)))
    margin = 2 * shrink
    left, top = (max(0, int(np.floor(side.min())) - margin) for side in (corners.real, corners.imag))
    right, bottom = (int(np.ceil(side.max())) + margin for side in (corners.real, corners.imag))
    region = frame[top : max(bottom, 0), left : max(right, 0)]
    if region.size == 0:
        return np.zeros((size, size, 3), np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(region))
    if shrink > 1:
        picture = picture.reduce(shrink)
    turn = turn / shrink
    shift = (shift - complex(left, top)) / shrink
    matrix = (turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag)
    upright = picture.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.array(upright)


def face_corners(landmarks: NDArray[np.float32]) -> NDArray[np.float64]:
    """(4, 2) x, y of the corners of an aligned face in the frame, pixels, clockwise from the top left.

    Raises:
        ShapeError: as `align_face`.
    """
    turn, shift = _similarity_to_frame(landmarks, 1)
    corners = turn * np.array([0, 1, 1 + 1j, 1j]) + shift
    return np.stack([corners.real, corners.imag], axis=1)


def _similarity_to_frame(landmarks: NDArray[np.float32], size: int) -> tuple[complex, complex]:
    """Factor and shift from the aligned face to the frame, as x + iy, pixel corners at whole numbers."""
    points = np.asarray(landmarks, np.float64) + 0.5
    goal = (TEMPLATE + 0.5) * (size / TEMPLATE_SIZE)
    source = points[:, 0] + 1j * points[:, 1]
    target = goal[:, 0] + 1j * goal[:, 1]
    centred = source - source.mean()
    factor = complex((centred.conj() * (target - target.mean())).sum())
    if not np.isfinite(factor) or abs(factor) < 1e-9:
        raise ShapeError(
            f"Landmarks {np.asarray(landmarks).tolist()} do not span a face; expected five finite, distinct points. "
            "Leave the frame out."
        )
    factor /= float((np.abs(centred) ** 2).sum())
    turn = 1 / factor
    return turn, complex(source.mean()) - turn * complex(target.mean())
