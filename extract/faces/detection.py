"""What a face is in a picture, and how the picture of one is aligned.

`extract.faces.search` finds the faces of a video with a `Detector`, `extract.faces.tracking` follows one person.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.errors import ShapeError
from extract.faces.settings import TEMPLATE_SIZE, FaceConfig

# Eyes, nose and corners of the mouth in a 112x112 face, pixel centres at whole numbers [models.md 4.4].
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2042]]
)
_GRID = np.float32(32)  # places of faces per pixel


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

    @classmethod
    def none(cls) -> Detection:
        """No faces."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))

    @classmethod
    def of(cls, parts: Sequence[Detection]) -> Detection:
        """The faces of several detections in one picture."""
        fields = ("boxes", "probabilities", "landmarks")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))

    def where(self, chosen: NDArray[np.bool_]) -> Detection:
        """The faces for which `chosen` (N,) is true."""
        return Detection(self.boxes[chosen], self.probabilities[chosen], self.landmarks[chosen])

    def replaced(self, chosen: NDArray[np.bool_], others: Detection) -> Detection:
        """With other faces where `chosen` (N,) is true."""
        parts = [each.copy() for each in (self.boxes, self.probabilities, self.landmarks)]
        for mine, new in zip(parts, (others.boxes, others.probabilities, others.landmarks), strict=True):
            mine[chosen] = new
        return Detection(*parts)

    def scaled(self, factors: tuple[float, float]) -> Detection:
        """The same faces in a picture enlarged by these factors."""
        landmarks = _scale_points(self.landmarks, factors)
        return Detection(scale_boxes(self.boxes, factors), self.probabilities, landmarks)

    def rounded(self) -> Detection:
        """The same faces rounded to 1/32 pixel, so that last bits, which vary by processor, do not affect the crops."""
        boxes, landmarks = (np.rint(each * _GRID) / _GRID for each in (self.boxes, self.landmarks))
        return Detection(boxes, self.probabilities, landmarks)


def scale_boxes(boxes: NDArray[np.float32], factors: tuple[float, float]) -> NDArray[np.float32]:
    """(N, 4) boxes in a picture enlarged by these factors."""
    return _scale_points(boxes.reshape(-1, 2, 2), factors).reshape(-1, 4)


def _scale_points(points: NDArray[np.float32], factors: tuple[float, float]) -> NDArray[np.float32]:
    scale = np.array(factors, np.float32)
    return points * scale + (scale - 1) / np.float32(2)  # pixel centres are at whole numbers


class Detector(NamedTuple):
    """Finds faces in pictures of one size (H, W, 3) uint8 RGB, already shrunk.

    Attributes:
        search: maps pictures to all faces in them.
        measure: maps pictures, and for each of them the boxes (N, 4) near which faces should be, to N faces with
            boxes, landmarks, and the probability that it is one.
        factors: by which what is found is larger than in these pictures, x and y.
    """

    search: Callable[[Sequence[NDArray[np.uint8]]], list[Detection]]
    measure: Callable[[Sequence[NDArray[np.uint8]], Sequence[NDArray[np.float32]]], list[Detection]]
    factors: tuple[float, float] = (1.0, 1.0)


def make_detector(config: FaceConfig, device: str = "cpu") -> Detector:
    """Make a detector; imports facenet-pytorch, which takes seconds."""
    from extract.faces.mtcnn import Cascade

    cascade = Cascade(config.min_face_size, config.thresholds, device)

    def search(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
        return [
            faces.where(faces.probabilities >= config.min_probability) for faces in cascade.search(np.stack(pictures))
        ]

    return Detector(search, cascade.measure)


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
