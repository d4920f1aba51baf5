"""People for tests: coloured squares on grey, who are found and told apart by their colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock
from extract.faces.crop_files import CropReader
from extract.faces.detection import TEMPLATE, Detection
from extract.faces.likeness import Identity

RED, BLUE, GREEN = (220, 40, 40), (40, 40, 220), (40, 200, 40)
SIDE = 48
Scene = Callable[[int], list[tuple[tuple[int, int, int], int]]]  # frame → colours and left edges of faces


def embed_colour(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 3) mean colour less grey: unlike colours are opposite."""
    means = faces.reshape(len(faces), -1, 3).mean(axis=1).astype(np.float32)
    return means - means.mean(axis=1, keepdims=True)


IDENTITY = Identity(embed_colour, 32, 0.5)


def find_colours(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
    """A face wherever a square is coloured."""
    found = []
    for picture in pictures:
        coloured = np.ptp(picture[8].astype(int), axis=1) > 80
        edges = np.flatnonzero(np.diff(np.concatenate(([0], coloured, [0]))))
        places = [at for at, end in edges.reshape(-1, 2) if end - at > SIDE // 2]
        boxes = np.array([[at, 0, at + SIDE, SIDE] for at in places], np.float32).reshape(-1, 4)
        marks = [TEMPLATE.astype(np.float32) * (SIDE / 112) + np.float32([at, 0]) for at in places]
        found.append(Detection(boxes, np.ones(len(places), np.float32), np.array(marks, np.float32).reshape(-1, 5, 2)))
    return found


def draw(scene: Scene, level: Callable[[int], int]) -> Callable[[int, int, int], NDArray[np.uint8]]:
    def picture(index: int, height: int, width: int) -> NDArray[np.uint8]:
        shown = np.full((height, width, 3), level(index), np.uint8)
        for colour, left in scene(index):
            shown[:SIDE, left : left + SIDE] = colour
        return shown

    return picture


def colours(path: Path, clock: FrameClock) -> dict[int, str]:
    """Frame → colour of its crop."""
    reader = CropReader(path, clock)
    means = reader.read(reader.frames)[:, 30:80, 30:80].mean(axis=(1, 2))
    return {int(frame): "rgb"[int(mean.argmax())] for frame, mean in zip(reader.frames, means, strict=True)}
