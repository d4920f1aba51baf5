"""MTCNN in batches: the networks and weights of facenet-pytorch with a more robust cascade.

Joint face detection and alignment with three cascaded networks [Zhang2016MTCNN]. The weights come with the wheel of
facenet-pytorch (MIT). Its own `detect_face` fails if a box lies outside the picture, if a picture is smaller than the
smallest face, and (with numpy 1.24 and later) if some pictures of a batch show no face; it also spends a third of its time
resizing. Here every resize uses one summed-area table per picture, which gives the same numbers (area averages) faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from facenet_pytorch import MTCNN
from facenet_pytorch.models.utils import detect_face as steps
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms

from extract.faces.detection import Detection

_SMALLEST_INPUT = 12  # pixels; the first network's field of view
_PYRAMID_FACTOR = 0.709
_CROPS_AT_ONCE = 512
_ROWS_AT_ONCE = 32
_MARGIN = 1.05  # sides of the third network's input by those of the boxes that it finds


class Cascade:
    """Finds faces and five landmarks in pictures of one size.

    Args:
        min_face_size: smallest face to detect, pixels.
        thresholds: probability thresholds of the three networks.
        device: torch device.
    """

    def __init__(self, min_face_size: int, thresholds: tuple[float, float, float], device: str) -> None:
        networks = MTCNN(keep_all=True, device=device).eval().to(memory_format=torch.channels_last)
        self._first, self._second, self._third = networks.pnet, networks.rnet, networks.onet
        self._min_face_size, self._thresholds = min_face_size, thresholds
        self._device = torch.device(device)

    @torch.inference_mode()
    def search(self, pictures: NDArray[np.uint8]) -> list[Detection]:
        """Find the faces of a batch (B, H, W, 3) uint8 RGB."""
        sums = _table_of_sums(torch.as_tensor(pictures).to(self._device))
        boxes, owner = self._propose(sums)
        boxes, owner = self._refine(sums, boxes, owner)
        boxes, owner, points = self._locate(sums, boxes, owner)
        of = owner.cpu().numpy()
        found = Detection(boxes[:, :4].cpu().numpy(), boxes[:, 4].cpu().numpy(), points.cpu().numpy())
        return [found.where(of == index) for index in range(len(pictures))]

    @torch.inference_mode()
    def measure(self, pictures: Sequence[NDArray[np.uint8]], boxes: Sequence[NDArray[np.float32]]) -> list[Detection]:
        """Look with the third network where faces should be.

        Its input are squares of each box's longer side. They are cut out at fractions of a pixel, unlike those of `search`, since faces that
        are followed move by less than one from picture to picture.

        Args:
            pictures: B pictures (H, W, 3) uint8 RGB.
            boxes: B times (N, 4) left, top, right, bottom, pixels; one at least.

        Returns:
            B times N faces; those without a pixel in the picture have probability 0.
        """
        owners = [owner for owner, each in enumerate(boxes) for _ in each]
        sizes = np.array([pictures[owner].shape[1::-1] * 2 for owner in owners], np.float32)
        squares = np.clip(_squares(np.concatenate(boxes)), 1, sizes)
        crops = np.stack([_cut_square(pictures[owner], square) for owner, square in zip(owners, squares, strict=True)])
        pixels = torch.from_numpy(crops).to(self._device).permute(0, 3, 1, 2).float().sub_(127.5).mul_(0.0078125)
        offsets, marks, probability = _apply(self._third, pixels)
        places = torch.from_numpy(squares).to(self._device)
        found, points = _place(places, offsets, marks)
        inside = (squares[:, 2:] > squares[:, :2]).all(axis=1)
        sure = np.where(inside, probability[:, 1].cpu().numpy(), 0).astype(np.float32)
        faces = Detection(found.cpu().numpy(), sure, points.cpu().numpy())
        return [faces.where(np.array(owners) == index) for index in range(len(boxes))]

    def _propose(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Candidates of the first network over a pyramid of scales: (N, 5), and the picture of each."""
        height = sums.shape[1] - 1
        width = sums.shape[2] - 1
        found, owners = [sums.new_zeros((0, 9), dtype=torch.float32)], [sums.new_zeros(0, dtype=torch.int64)]
        scale = _SMALLEST_INPUT / self._min_face_size
        while min(height, width) * scale >= _SMALLEST_INPUT:
            level = _shrink(sums, int(height * scale + 1), int(width * scale + 1))
            offsets, probability = self._first(level)
            boxes, owner = steps.generateBoundingBox(offsets, probability[:, 1], scale, self._thresholds[0])
            keep = batched_nms(boxes[:, :4], boxes[:, 4], owner, 0.5)
            found.append(boxes[keep])
            owners.append(owner[keep])
            scale *= _PYRAMID_FACTOR
        boxes = torch.cat(found)
        owner = torch.cat(owners)
        keep = batched_nms(boxes[:, :4], boxes[:, 4], owner, 0.7)
        boxes, owner = boxes[keep], owner[keep]
        size = (boxes[:, 2:4] - boxes[:, :2]).repeat(1, 2)
        return steps.rerec(torch.cat((boxes[:, :4] + boxes[:, 5:9] * size, boxes[:, 4:5]), dim=1)), owner

    def _refine(self, sums: Tensor, boxes: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        """Candidates that the second network keeps, moved and made square."""
        crops, boxes, owner = _cut(sums, boxes, owner, 24)
        if not len(boxes):
            return boxes, owner
        offsets, probability = _apply(self._second, crops)
        keep = probability[:, 1] > self._thresholds[1]
        boxes = torch.cat((boxes[keep, :4], probability[keep, 1:]), 1)
        owner = owner[keep]
        offsets = offsets[keep]
        keep = batched_nms(boxes[:, :4], boxes[:, 4], owner, 0.7)
        return steps.rerec(steps.bbreg(boxes[keep], offsets[keep])), owner[keep]

    def _locate(self, sums: Tensor, boxes: Tensor, owner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Faces that the third network keeps, with landmarks."""
        crops, boxes, owner = _cut(sums, boxes, owner, 48)
        if not len(boxes):
            return boxes, owner, boxes.new_zeros((0, 5, 2))
        offsets, marks, probability = _apply(self._third, crops)
        keep = probability[:, 1] > self._thresholds[2]
        boxes = torch.cat((boxes[keep, :4], probability[keep, 1:]), 1)
        owner = owner[keep]
        offsets = offsets[keep]
        places, points = _place(boxes[:, :4], offsets, marks[keep])
        boxes = torch.cat((places, boxes[:, 4:]), 1)
        keep = steps.batched_nms_numpy(boxes[:, :4], boxes[:, 4], owner, 0.7, "Min")
        return boxes[keep], owner[keep], points[keep]


def _place(squares: Tensor, offsets: Tensor, marks: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 4) boxes and (N, 5, 2) landmarks, pixels, from the third network's answers (N, 4), (N, 10) for squares (N, 4)."""
    size = squares[:, 2:] - squares[:, :2] + 1
    points = marks.view(-1, 2, 5).transpose(1, 2) * size[:, None] + squares[:, None, :2] - 1
    return squares + offsets * size.repeat(1, 2), points


def _squares(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 4) squares around boxes (N, 4), as large as those in which the second network leaves a face."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    halves = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True, initial=0) * np.float32(_MARGIN / 2)
    return np.concatenate((centres - halves, centres + halves), axis=1)


def _cut_square(picture: NDArray[np.uint8], square: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(48, 48, 3) area averages of a square; pixels count from 1, as in the weights' origin."""
    left, top, right, bottom = (square - [1, 1, 0, 0]).tolist()
    first, above = int(left), int(top)
    region = picture[above : max(above + 1, math.ceil(bottom)), first : max(first + 1, math.ceil(right))]
    box = (left - first, top - above, right - first, bottom - above)
    return np.asarray(Image.fromarray(np.ascontiguousarray(region)).resize((48, 48), Image.Resampling.BOX, box))


def _table_of_sums(pictures: Tensor) -> Tensor:
    """(B, H + 1, W + 1, 3) int32: sum of all pixels above and to the left, exact modulo 2**32."""
    batch, height, width, channels = pictures.shape
    table = torch.empty((batch, height + 1, width + 1, channels), dtype=torch.int32, device=pictures.device)
    table[:, 0] = 0
    table[:, :, 0] = 0
    if pictures.device.type != "cpu":
        torch.cumsum(pictures, 1, dtype=torch.int32, out=table[:, 1:, 1:])
        torch.cumsum(table[:, 1:, 1:].clone(), 2, dtype=torch.int32, out=table[:, 1:, 1:])
        return table
    for picture, sums in zip(pictures.numpy(), table.numpy(), strict=True):
        for start in range(0, height, _ROWS_AT_ONCE):  # fits the processor's cache: six times faster
            along_rows = np.cumsum(picture[start : start + _ROWS_AT_ONCE], axis=1, dtype=np.int32)
            for row, along in enumerate(along_rows, start):
                np.add(sums[row, 1:], along, out=sums[row + 1, 1:])
    return table


def _cells(length: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """(N, cells) first pixel and end of the cells into which area averaging divides lengths (N,)."""
    step = torch.arange(cells, device=length.device)
    first = torch.div(step * length[:, None], cells, rounding_mode="floor")
    return first, -torch.div(-(step + 1) * length[:, None], cells, rounding_mode="floor")


def _shrink(sums: Tensor, height: int, width: int) -> Tensor:
    """(B, 3, height, width) area averages of whole pictures, normalised."""
    lengths = torch.tensor(sums.shape[1:3], device=sums.device) - 1
    (top,), (bottom,) = _cells(lengths[:1], height)
    (left,), (right,) = _cells(lengths[1:], width)
    area = ((bottom - top)[:, None] * (right - left))[None, ..., None]
    levels = []
    at_once = 1 if sums.device.type == "cpu" else len(sums)  # one fits the processor's cache
    for picture in sums.split(at_once):
        rows = _pick(picture, 1, bottom).sub_(_pick(picture, 1, top))
        levels.append(_normalise(_pick(rows, 2, right).sub_(_pick(rows, 2, left)), area))
    return torch.cat(levels)


def _pick(table: Tensor, axis: int, places: Tensor) -> Tensor:
    """Rows or columns of a table; with numpy on a CPU, which is 25% faster."""
    if table.device.type != "cpu":
        return table.index_select(axis, places)
    return torch.from_numpy(table.numpy().take(places.numpy(), axis))


def _cut(sums: Tensor, boxes: Tensor, owner: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 3, size, size) area averages of boxes, normalised; boxes without a pixel inside are dropped."""
    end = torch.tensor([sums.shape[2] - 1, sums.shape[1] - 1], device=sums.device)
    corners = boxes[:, :4].trunc().long()
    low = corners[:, :2].clamp(min=1) - 1
    high = torch.minimum(corners[:, 2:], end)
    inside = (high > low).all(dim=1)
    boxes, owner, low, high = boxes[inside], owner[inside], low[inside], high[inside]
    left, right = (cell + low[:, :1] for cell in _cells(high[:, 0] - low[:, 0], size))
    top, bottom = (cell + low[:, 1:] for cell in _cells(high[:, 1] - low[:, 1], size))
    points = sums.reshape(-1, 3)  # gathering rows by one index is several times faster than by three indices

    def gather(rows: Tensor, columns: Tensor) -> Tensor:
        lines = owner[:, None] * sums.shape[1] + rows
        return points.index_select(0, (lines[:, :, None] * sums.shape[2] + columns[:, None]).flatten())

    total = gather(bottom, right).sub_(gather(top, right)).sub_(gather(bottom, left)).add_(gather(top, left))
    total = total.view(-1, size, size, 3)
    area = ((bottom - top)[:, :, None] * (right - left)[:, None])[..., None]
    return _normalise(total, area), boxes, owner


def _normalise(total: Tensor, area: Tensor) -> Tensor:
    """Turn sums over areas (N, H, W, 3) into network inputs (N, 3, H, W) in [-1, 1]."""
    pixels = (total / area).sub_(127.5).mul_(0.0078125)
    return pixels.permute(0, 3, 1, 2)  # channels last, which pools three times faster


def _apply(network: Any, crops: Tensor) -> tuple[Tensor, ...]:
    parts = [network(block) for block in crops.split(_CROPS_AT_ONCE)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))
