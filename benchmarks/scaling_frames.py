"""How stage one and the store grow with frames and bytes: processor time of crops, two backbones, writing and reading, fitted at four sizes.

In the folder of a project on the demo corpus: `python path/to/benchmarks/scaling_frames.py`; one thread, everything made anew.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest
from cache.recipe import Recipe
from cache.store.store import FeatureStore
from extract.backbones.contract import load_backbone
from extract.engine.cropping import crop_trials, crops_folder
from extract.engine.devices import keep_big_buffers
from extract.engine.embedding import EngineOptions, extract_features
from extract.faces.settings import CropConfig
from pipelines.project import paths

TRIALS = (1, 2, 4, 8)
MEGABYTES = (32, 64, 128, 256)
DIM = 512


def seconds(work: Callable[[], Any]) -> float:
    """Processor time of some work."""
    began = time.process_time()
    work()
    return time.process_time() - began


def show(name: str, sizes: list[float], times: list[float], unit: str) -> None:
    """A row: the times, the cost of a unit between the smallest and the largest size, and the exponent of time without set-up."""
    slope, setup = np.polyfit(sizes, times, 1)
    own = np.maximum(np.array(times) - setup, 1e-6) if setup > 0 else np.array(times)
    exponent = np.polyfit(np.log(sizes), np.log(own), 1)[0]
    cells = [name, " / ".join(f"{size:,.0f}" for size in sizes), " / ".join(f"{each:.2f}" for each in times)]
    print(f"| {' | '.join(cells)} | {slope * 1e3:.3g} ms per {unit} | {setup:.1f} s | {exponent:.2f} |", flush=True)


def measure_frames(manifest: Manifest, folder: Path) -> None:
    """Crops and features of ever more trials."""
    config, options = CropConfig(), EngineOptions(threads=1, device="cpu")
    parts = [replace(manifest, trials=manifest.trials[:count]) for count in TRIALS]
    sizes = [float(sum(trial.clock.num_frames for trial in part.trials)) for part in parts]
    places = [folder / f"crops{count}" for count in TRIALS]
    times = [
        seconds(lambda: crop_trials(part, part.trials, config, place, "cpu"))  # noqa: B023
        for part, place in zip(parts, places, strict=True)
    ]
    show("crops: decoding, faces, JPEGs", sizes, times, "frame")
    for name in ("mobilefacenet", "conv1d"):
        backbone = load_backbone(name, "random")
        times = []
        for part, place in zip(parts, places, strict=True):
            store = FeatureStore.create(folder / f"{name}{len(part.trials)}.zarr", backbone.recipe())
            crops = crops_folder(place, config)
            times.append(seconds(lambda: extract_features(backbone, store, part, part.trials, crops, options)))  # noqa: B023
        show(f"`{name}` and its store, torch", sizes, times, "frame")


def measure_bytes(folder: Path) -> None:
    """Writing and checked reading of one trial of so many bytes."""
    store = FeatureStore.create(folder / "bytes.zarr", Recipe("synthetic", "visual", DIM))
    written, read = [], []
    for megabytes in MEGABYTES:
        count = megabytes * 10**6 // (2 * DIM)
        rows, valid = np.ones((count, DIM), np.float16), np.ones(count, bool)
        clock, name = FrameClock(Fraction(25), count), f"t{megabytes}"
        written.append(seconds(lambda: store.write(name, rows, valid, source="s", clock=clock)))  # noqa: B023
        read.append(min(seconds(lambda: store.read(name, check=True)) for _ in range(3)))  # noqa: B023
    sizes = list(map(float, MEGABYTES))
    show("writing a store", sizes, written, "MB")
    show("reading it, every byte checked", sizes, read, "MB")


def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)
    keep_big_buffers()
    print("| step | size | seconds of the processor | slope | set-up | exponent |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        measure_bytes(Path(place))
        measure_frames(Manifest.load(paths.CORPUS), Path(place))


if __name__ == "__main__":
    main()
