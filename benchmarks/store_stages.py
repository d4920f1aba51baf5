"""The store inside the two stages: how much its writing slows extraction, and how fast the bank is loaded from it.

Called by `benchmarks/store.py`, which prints the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.recipe import Recipe
from cache.store.store import FeatureStore
from extract.backbones.contract import Backbone, load_backbone
from extract.engine.devices import choose_device, keep_big_buffers
from extract.engine.embedding import EngineOptions, extract_features
from extract.engine.runtimes import Executor, make_executor
from fusion.bank.bank import Bank

SIDE = 112  # pixels of a crop
CLOCK_HZ = Fraction(30)


class Unwritten(FeatureStore):
    """A store that claims and looks up like any other, and writes nothing."""

    def write(self, *args: Any, **kwargs: Any) -> Any:
        """Do nothing."""


class Instant:
    """An executor that costs nothing: all that is left is reading, bookkeeping and writing."""

    def __init__(self, dim: int, batch_size: int) -> None:
        self._rows = np.random.default_rng(0).standard_normal((batch_size, dim), np.float32)

    def start(self, batch: NDArray[Any]) -> Callable[[], NDArray[np.float32]]:
        """The same numbers for every batch."""
        return lambda: self._rows[: len(batch)]


def make_crops(folder: Path, trials: int, frames: int) -> Manifest:
    """Trials of smooth crops with a little noise, one JPEG per frame."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(np.int16)
    made = []
    for index in range(trials):
        (folder / f"trial{index}").mkdir(parents=True)
        for frame in range(frames):
            noisy = np.roll(smooth, frame + index, axis=1) + rng.normal(0, 6, smooth.shape).astype(np.int16)
            picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
            picture.save(folder / f"trial{index}" / f"{frame + 1:05d}.jpg", quality=95)
        media = {"crops": f"trial{index}"}
        made.append(Trial(f"trial{index}", f"s{index}", "train", FrameClock(CLOCK_HZ, frames), media, None))
    return Manifest(folder, tuple(made))


def measure_extraction(
    folder: Path, trials: int, frames: int, repeats: int, device: str
) -> dict[str, tuple[float, float, float, float]]:
    """Extraction against the same run that writes nothing, in turns, from crops on disk.

    Returns:
        Executor → frames per second with and without writing (best rounds), and the slowdown of the best and of the
        median round, as shares.
    """
    keep_big_buffers()
    backbone, options = load_backbone("mobilefacenet", "random"), EngineOptions(device=device, redo=True)
    manifest = make_crops(folder / "crops", trials, frames)
    chosen = choose_device(device)
    executors: dict[str, Executor] = {
        f"mobilefacenet on {chosen.type}": make_executor(
            backbone, options.batch_size, chosen, "torch", "fp32", compiled=False
        ),
        "an executor that costs nothing": Instant(backbone.dim, options.batch_size),
    }
    found = {}
    for name, executor in executors.items():
        times = _take_turns(backbone, folder, manifest, options, executor, repeats)
        total, (written, unwritten) = trials * frames, times
        found[name] = (
            total / min(written),
            total / min(unwritten),
            min(written) / min(unwritten) - 1,
            float(np.median(written) / np.median(unwritten)) - 1,
        )
    return found


def _take_turns(
    backbone: Backbone, folder: Path, manifest: Manifest, options: EngineOptions, executor: Executor, repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds of each round with and without writing, after one of each that warms up."""
    path, recipe = folder / "extracted.zarr", backbone.recipe("float16")
    stores = FeatureStore.create(path, recipe), Unwritten.create(path, recipe)
    times: tuple[list[float], list[float]] = [], []
    for _ in range(repeats + 1):
        for store, seconds in zip(stores, times, strict=True):
            start = time.perf_counter()
            outcome = extract_features(
                backbone, store, manifest, manifest.trials, None, options, executor=lambda: executor
            )
            seconds.append(time.perf_counter() - start)
            assert not outcome.failures, outcome.failures
    return times[0][1:], times[1][1:]


def measure_bank(path: Path, recipe: Recipe, lengths: dict[str, int], repeats: int) -> tuple[float, float]:
    """Seconds to load a whole store into a bank, every byte checked, and of `np.load` over one npy per trial into one tensor.

    Args:
        path: of the store; the npy files lie beside it.
        recipe: of its features.
        lengths: trial → its number of frames.
        repeats: rounds, of which the best counts.

    Returns:
        Of the bank and of the npy files.
    """
    trials = (Trial(name, name, "", FrameClock(CLOCK_HZ, number), {}) for name, number in lengths.items())
    manifest, total = Manifest(path.parent, tuple(trials)), sum(lengths.values())

    def bank() -> None:
        loaded = Bank.from_stores({"visual": FeatureStore(path, recipe.fingerprint)}, manifest, list(lengths))
        assert len(loaded.labels) == total + 1

    def npy() -> None:
        rows, row = torch.zeros(total + 1, recipe.dim, dtype=torch.float16), 0
        for name, number in lengths.items():
            rows.numpy()[row : row + number] = np.load(path.parent / f"{name}.npy")
            row += number

    variants = (bank, npy)
    times: list[list[float]] = [[] for _ in variants]
    for _ in range(repeats + 1):
        for run, seconds in zip(variants, times, strict=True):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    return min(times[0][1:]), min(times[1][1:])
