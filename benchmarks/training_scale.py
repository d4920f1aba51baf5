"""Training beyond one model in memory: features larger than the memory budget, and seeds side by side in processes.

    python -m benchmarks.training_scale [--repeats 200] [--seeds 8] [--workers 2]

Prints Markdown. Memory: the AV-RNN's training steps on features that stay in their stores (`fusion.bank.memory_gb` 0, warm page
cache), against the same steps on a resident bank, and both without the step; one CPU thread. Seeds: all of them
with `--workers` processes against one seed, including the start of the processes and loading.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from training_step import feed, make_corpus, make_step, measure

from cache.corpus.folds import make_folds
from cache.corpus.manifest import Manifest
from cache.recipe import Recipe
from cache.store.store import FeatureStore
from extract.engine.devices import keep_big_buffers
from fusion.bank.bank import Bank
from fusion.settings import TrainConfig
from fusion.training.trainer import train
from pipelines.project.jobs import available_cores, run_jobs

DIMS = {"audio": 128, "visual": 512}


def show_budget(folder: Path, repeats: int) -> None:
    """Rates of mapped against resident banks."""
    stores, manifest = make_corpus(folder, 60, 3000, DIMS)
    trial_ids = [trial.id for trial in manifest.trials]
    banks = {
        name: Bank.from_stores(stores, manifest, trial_ids, memory_gb=gb)
        for name, gb in (("resident", 9), ("mapped", 0))
    }
    moments = banks["resident"].measure(trial_ids)
    banks = {name: bank.normalised(moments, trial_ids) for name, bank in banks.items()}
    print(
        "| windows | resident + step, ms | mapped + step, ms | rate of mapped | data path alone, resident, ms | mapped, ms |"
    )
    print("|---|---|---|---|---|---|")
    for batch_size, length in ((64, 16), (12, 300)):
        windows = banks["resident"].cut(trial_ids, length, length, tail="drop")
        windows = windows[: len(windows) // batch_size * batch_size]
        calls: dict[str, Any] = {}
        for name, bank in banks.items():
            batches, order = bank.batches(windows, length, batch_size), torch.Generator().manual_seed(0)
            endless = itertools.chain.from_iterable(map(batches.epoch, itertools.repeat(order)))
            calls[name] = feed(make_step("rnn", bank, batch_size, length), endless)
            chosen = itertools.cycle(torch.randperm(len(windows)).split(batch_size))
            calls[f"{name} alone"] = lambda batches=batches, chosen=chosen: batches.gather(next(chosen))
        steps = measure({name: calls[name] for name in banks}, repeats)
        alone = measure({name: calls[f"{name} alone"] for name in banks}, repeats)
        print(
            f"| {batch_size} x {length} | {steps['resident']:.2f} | {steps['mapped']:.2f} | "
            f"{steps['resident'] / steps['mapped']:.2f} | {alone['resident']:.2f} | {alone['mapped']:.2f} |",
            flush=True,
        )


class Trainer:
    """Trains the AV-RNN from stores, as `train-fusion` does: the bank is loaded once per process."""

    def __init__(self, folder: Path, ahead: bool) -> None:
        keep_big_buffers()
        torch.set_num_threads(1)
        manifest = Manifest.load(folder)
        stores = {m: FeatureStore.create(folder / f"{m}.zarr", Recipe("random", m, dim)) for m, dim in DIMS.items()}
        self._bank = Bank.from_stores(stores, manifest, [trial.id for trial in manifest.trials], ahead=ahead)
        self._fold = make_folds(manifest, "grouped", 5)[0]

    def __call__(self, seed: int) -> float:
        """Train with a seed; the best validation score."""
        result = train(self._bank, self._fold, "rnn", {}, TrainConfig(seed=seed, epochs=12))
        return max(record.score for record in result.history)


def show_seeds(folder: Path, seeds: int, workers: int) -> None:
    """Time of some seeds against one."""
    _, manifest = make_corpus(folder, 60, 1000, DIMS)
    manifest.save(folder)
    times = {}
    for count, processes in ((1, 1), (seeds, 1), (seeds, workers)):
        start = time.perf_counter()
        run_jobs(range(count), partial(Trainer, folder, processes < available_cores()), processes)
        times[count, processes] = time.perf_counter() - start
    one = times[1, 1]
    print("\n| seeds | processes | seconds | times one seed |\n|---|---|---|---|")
    for (count, processes), seconds in times.items():
        print(f"| {count} | {processes} | {seconds:.1f} | {seconds / one:.2f} |")


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    keep_big_buffers()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        show_budget(Path(folder), options.repeats)
    with tempfile.TemporaryDirectory() as folder:
        show_seeds(Path(folder), options.seeds, options.workers)


if __name__ == "__main__":
    main()
