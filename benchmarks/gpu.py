"""Everything about a GPU in one run of at most six minutes: its tests, stage one, decoding, fine-tuning, stage two.

    python -m benchmarks.gpu [--device cuda] [--threads 8] [--batch-size 128] [--trials 24] [--no-tests]

1. The tests marked `gpu`.
2. The demo corpus: crops and every backbone (random weights), fp32 and bf16, from media to a finished store; "bare" is the
   network on batches in memory, and "decoding" reads and prepares the inputs with the same threads, without a network: what
   the cores deliver against what the device takes.
3. An optimiser step on cached features, with frozen backbones in front, and end to end (`benchmarks.finetuning`).

On a machine without a registry, carry the packages that `benchmarks/gpu_wheels.sh` gathers. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.finetuning import compare_with_cache
from cache.corpus.manifest import Manifest, Trial
from cache.errors import SettingError
from cache.store.store import FeatureStore
from extract.backbones import BACKBONES
from extract.backbones.contract import Backbone, load_backbone
from extract.corpora.demo.corpus import Config, DemoCorpus
from extract.engine.cropping import crop_trials, crops_folder
from extract.engine.devices import choose_device, keep_big_buffers
from extract.engine.embedding import EngineOptions, extract_features
from extract.engine.runtimes import DEFAULT_RUNTIME, make_executor
from extract.faces.settings import CropConfig
from extract.inputs.contract import open_source

TESTS_S = 150  # limit of part 1
BARE_BATCHES = 8


def run_tests() -> None:
    """Part 1."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "tests/extract",
        "tests/fusion",
    ]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=TESTS_S)
        last = (found.stdout.strip().splitlines() or ["no output"])[-1]
    except subprocess.TimeoutExpired:
        last = f"not finished after {TESTS_S} s"
    print(f"\nTests marked `gpu`: {last}", flush=True)


def rate_bare(backbone: Backbone, device: torch.device, precision: str, batch_size: int) -> float:
    """Items per second of the network alone, on batches in memory."""
    executor = make_executor(backbone, batch_size, device, DEFAULT_RUNTIME, precision, False)
    batch = backbone.input.example(batch_size)
    executor(batch)
    start = time.perf_counter()
    waiting = [executor.start(batch) for _ in range(BARE_BATCHES)]
    for wait in waiting:
        wait()
    return BARE_BATCHES * batch_size / (time.perf_counter() - start)


def rate_decoding(backbone: Backbone, manifest: Manifest, crops: Path, threads: int) -> float:
    """Items per second that the threads read and prepare."""

    def read(trial: Trial) -> int:
        source = open_source(backbone.input, manifest, trial, crops)
        used = source.load().used_items()
        for start in range(0, len(used), 64):
            source.read(used[start : start + 64])
        return len(used)

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(read, manifest.trials))
    return total / (time.perf_counter() - start)


def rate_engine(
    backbone: Backbone, manifest: Manifest, crops: Path, folder: Path, options: EngineOptions, precision: str
) -> float:
    """Frames per second from media to a finished store."""
    store = FeatureStore.create(folder / f"{backbone.name}-{precision}.zarr", backbone.recipe(precision=precision))
    outcome = extract_features(backbone, store, manifest, manifest.trials, crops, options)
    assert not outcome.failures, outcome.failures
    return outcome.frames / outcome.seconds


def show_stage_one(options: argparse.Namespace) -> None:
    """Part 2."""
    device = choose_device(options.device)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        corpus = DemoCorpus(Config(num_trials=options.trials))
        corpus.generate(folder / "media")
        manifest = corpus.read(folder / "media")
        made = crop_trials(manifest, manifest.trials, CropConfig(), folder / "crops", device)
        print(f"\nCrops of {made.frames} frames: {made.frames / made.seconds:,.0f} frames/s" if made.seconds else "")
        crops = crops_folder(folder / "crops", CropConfig())
        print(
            "\n| backbone | precision | bare, items/s | decoding, items/s | engine, frames/s | engine / bare |\n|"
            + "---|" * 6
        )
        for name in BACKBONES:
            backbone = load_backbone(name, "random")
            decoding = rate_decoding(backbone, manifest, crops, options.threads)
            for precision in ("fp32", "bf16"):
                run = EngineOptions(options.batch_size, options.threads, device, precision=precision)
                cells: list[Any] = [name, precision]
                try:
                    bare = rate_bare(backbone, device, precision, options.batch_size)
                    engine = rate_engine(backbone, manifest, crops, folder, run, precision)
                    cells += [f"{bare:,.0f}", f"{decoding:,.0f}", f"{engine:,.0f}", f"{engine / bare:.2f}"]
                except SettingError as error:
                    cells += [str(error), "", "", ""]
                print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Run all parts and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--piece", type=int, default=0)
    parser.add_argument("--no-tests", action="store_true")
    options = parser.parse_args()
    parts: list[Callable[[], None]] = [] if options.no_tests else [run_tests]
    parts += [lambda: show_stage_one(options), lambda: compare_with_cache(options)]
    if options.device.startswith("cuda"):
        print(
            f"{torch.cuda.get_device_name()}, Python {sys.version.split()[0]}, torch {torch.__version__}, numpy {np.__version__}"
        )
    keep_big_buffers()
    for part in parts:
        start = time.perf_counter()
        part()
        print(f"\n({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
