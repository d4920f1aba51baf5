"""Recordings that are followed while they grow, and networks for them that were never trained."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from cache.corpus.folds import Fold
from cache.recipe import Recipe
from cache.targets import AFFECT
from extract.backbones.contract import load_backbone
from extract.faces.detection import TEMPLATE, Detection
from extract.faces.settings import CropConfig
from fusion.bank.normalisation import Moments
from fusion.settings import TrainConfig
from fusion.training.building import build_model
from fusion.training.checkpoint import Checkpoint
from fusion.training.reading import Reading
from pipelines.cli.commands import avfusion

RATE = 25
SIZE = 144  # so large that a face which comes or goes is no cut
SOUND_HZ = 48_000
SOUND, FACES = {"audio": "conv1d"}, {"visual": "mobilefacenet"}
Rows = dict[str, list[str]]


def write_recording(path: Path, num_frames: int, seen: Callable[[int], bool], size: int = SIZE) -> Path:
    """A face-sized square that moves and changes its shade, and a tone that rises; pictures and sound interleaved."""
    with av.open(str(path), "w") as container:
        matroska = path.suffix == ".mkv"
        pictures: Any = container.add_stream("mpeg4" if matroska else "libx264", rate=RATE)
        pictures.height = pictures.width = size
        pictures.pix_fmt = "yuv420p"
        sound: Any = container.add_stream("pcm_s16le" if matroska else "aac", rate=SOUND_HZ, layout="mono")
        step = SOUND_HZ // RATE
        moments = np.arange(num_frames * step) / SOUND_HZ
        wave = (0.4 * np.sin(2 * np.pi * (200 + 300 * moments) * moments)).astype(np.float32)
        resampler = av.AudioResampler(format=sound.format.name, layout="mono", rate=SOUND_HZ)
        for index in range(num_frames):
            picture = np.full((size, size, 3), 10, np.uint8)
            if seen(index):
                picture[20 + index % 8 : 60 + index % 8, 24:64] = 140 + 3 * index % 110
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.time_base, frame.pts = Fraction(1, RATE), index
            container.mux(pictures.encode(frame))
            block = av.AudioFrame.from_ndarray(
                wave[None, index * step : (index + 1) * step], format="fltp", layout="mono"
            )
            block.sample_rate, block.time_base, block.pts = SOUND_HZ, Fraction(1, SOUND_HZ), index * step
            for converted in resampler.resample(block):
                container.mux(sound.encode(converted))
        container.mux(pictures.encode())
        container.mux(sound.encode())
    return path


def find_square(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
    """A detector for these recordings: one face where the picture is bright."""
    found = []
    for picture in pictures:
        rows, columns = np.nonzero(picture[..., 0] > 90)
        boxes = np.zeros((0, 4), np.float32)
        if len(rows):
            boxes = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
        sides = (boxes[:, 2:] - boxes[:, :2])[:, None]
        marks = boxes[:, None, :2] + TEMPLATE[None].astype(np.float32) / 112 * sides
        found.append(Detection(boxes, np.ones(len(boxes), np.float32), marks))
    return found


def save_model(
    folder: Path, name: str, modalities: dict[str, str], settings: dict | None = None, seed: int = 1, **train: Any
) -> Path:
    """A network that was never trained, which reads trials as a whole."""
    settings_of = {"conv1d": {"window_s": 0.1}}
    recipes: dict[str, Recipe] = {}
    for modality, backbone in modalities.items():
        crops = {"crops": CropConfig().to_document()} if modality == "visual" else {}
        recipes[modality] = load_backbone(backbone, "random", settings_of.get(backbone)).recipe(upstream=crops)
    torch.manual_seed(seed)
    dims = {modality: recipe.dim for modality, recipe in recipes.items()}
    targets = tuple(target.name for target in AFFECT)
    model = build_model(name, dims, targets, settings or {}).eval()
    moments = {m: Moments(torch.zeros(dim), torch.full((dim,), 0.3)) for m, dim in dims.items()}
    config = TrainConfig(targets=targets, **train)
    fold = Fold(0, ("a",), ("b",), ())
    Checkpoint(model, moments, recipes, fold, config, {}, {}, AFFECT, reading=Reading(4096, 1024)).save(folder)
    return folder


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(avfusion, ["predict", *map(str, arguments)])


def read(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
