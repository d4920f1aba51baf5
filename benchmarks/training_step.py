"""The cost of training's data path: a step fed by the bank, and in the usual ways, against the same step on fixed tensors.

    python -m benchmarks.training_step [--models rnn,leader_follower] [--repeats 20] [--device cpu] [--clock wall|cpu]

Prints Markdown: minimum milliseconds of interleaved repeats, one CPU thread. Sources of batches: the bank; a DataLoader
without workers over one memory-mapped npy per trial; the same over windows that zarr-python reads from the store.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.names import encode_trial_id
from cache.recipe import Recipe
from cache.store.store import FeatureStore
from cache.windows import Window
from extract.engine.devices import keep_big_buffers
from fusion.bank.bank import Bank
from fusion.bank.batches import Batch
from fusion.scores.losses import Objective
from fusion.settings import TrainConfig
from fusion.training.building import build_model
from fusion.training.schedule import make_optimizer

TARGETS = ("valence", "arousal")
DIMS = {"audio": 128, "visual": 512, "text": 768}
CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}
CASES = {  # model → modalities, batch, window
    "rnn": [(("audio", "visual"), 64, 16), (("audio", "visual"), 12, 300)],
    "leader_follower": [(("audio", "visual", "text"), 12, 300)],
    "channel_attention": [(("audio", "visual"), 12, 300)],
    "recursive_cross_attention": [(("audio", "visual", "text"), 12, 300)],
}
Read = Callable[[str, Window], NDArray[Any]]
Measure = Callable[[dict[str, Callable[[], Any]]], dict[str, float]]


def make_corpus(
    folder: Path, num_trials: int, num_frames: int, dims: dict[str, int] = DIMS
) -> tuple[dict[str, FeatureStore], Manifest]:
    """Random float16 features: 2 % of the frames without a face, 5 % of the trials shorter; also as npy files."""
    rng = np.random.default_rng(0)
    trials = []
    stores = {m: FeatureStore.create(folder / f"{m}.zarr", Recipe("random", m, dim)) for m, dim in dims.items()}
    for i in range(num_trials):
        name, length = f"t{i:03d}", num_frames if i % 20 else num_frames * 2 // 3
        clock = FrameClock(Fraction(30), length)
        labels = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
        trials.append(Trial(name, name, "train", clock, {}, labels))
        for modality, store in stores.items():
            valid = rng.random(length) > (0.02 if modality == "visual" else -1)
            rows = rng.standard_normal((length, store.recipe.dim), np.float32).astype(np.float16)
            store.write(name, rows, valid, source="xxh3:0", clock=clock)
            np.save(folder / f"{modality}-{name}.npy", store.read(name).embeddings)
    return stores, Manifest(folder, tuple(trials))


class Windows(Dataset[Any]):
    """Windows as a usual data set gives them: one item, one read per modality."""

    def __init__(self, read: Read, modalities: Sequence[str], manifest: Manifest, windows: Sequence[Window]) -> None:
        self._read, self._modalities, self._windows = read, modalities, windows
        self._labels = {trial.id: trial.labels for trial in manifest.trials if trial.labels is not None}

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        window = self._windows[index]
        rows = {m: torch.from_numpy(self._read(m, window).astype(np.float32)) for m in self._modalities}
        return rows, torch.from_numpy(self._labels[window.trial_id][window.start : window.stop])


def npy_reader(folder: Path) -> Read:
    """Windows of memory-mapped npy files that are kept open."""
    maps = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    return lambda modality, window: maps[f"{modality}-{window.trial_id}"][window.start : window.stop]


def zarr_reader(stores: dict[str, FeatureStore]) -> Read:
    """Windows of arrays that zarr-python keeps open."""
    arrays: dict[tuple[str, str], Any] = {}

    def read(modality: str, window: Window) -> NDArray[Any]:
        key = modality, window.trial_id
        if key not in arrays:
            arrays[key] = zarr.open_array(f"{stores[modality].group}/{encode_trial_id(window.trial_id)}", mode="r")
        return np.asarray(arrays[key][window.start : window.stop])

    return read


def load(data: Windows, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """Endless shuffled batches of a DataLoader."""
    while True:
        loader: DataLoader[Any] = DataLoader(data, batch_size, shuffle=True, drop_last=True)
        for rows, targets in loader:
            mask = torch.ones(targets.shape[:2], dtype=torch.bool, device=device)
            lengths = torch.full((len(targets),), targets.shape[1])
            moved = {modality: values.to(device) for modality, values in rows.items()}
            yield Batch(
                moved, dict.fromkeys(rows, mask), mask[..., None].expand(targets.shape), targets.to(device), (), lengths
            )


def clone(batch: Batch) -> Batch:
    """Copy the batch to new memory."""
    own = {m: x.clone() for m, x in batch.embeddings.items()}
    return Batch(own, batch.valid, batch.mask, batch.targets, batch.windows, batch.lengths)


def compare(
    model: str, bank: Bank, readers: dict[str, Read], manifest: Manifest, batch_size: int, window: int, measure: Measure
) -> str:
    """One row of the table: each source of batches against the bare step, each data path against a copy of its bytes."""
    windows = bank.cut(list(bank.lengths), window, window, tail="drop")
    whole = windows[: len(windows) // batch_size * batch_size]  # no smaller last batch, which would flatter the bank
    batches = bank.batches(whole, window, batch_size)
    order = torch.Generator().manual_seed(0)
    endless = itertools.chain.from_iterable(batches.epoch(order) for _ in itertools.count())
    sources: dict[str, Iterator[Batch]] = {"bank": endless}
    for name, read in readers.items():
        sources[name] = load(Windows(read, list(bank.dims), manifest, whole), batch_size, bank.device)
    fixed, step = clone(next(endless)), make_step(model, bank, batch_size, window)
    ratios = {}
    for name, source in sources.items():  # in pairs, as a slow source empties the processor's caches for the next call
        times = measure({"bare": partial(step, fixed), "fed": feed(step, source)})
        ratios[name] = times["fed"] / times["bare"]
        if name == "bank":
            bare = times["bare"]
    chosen = itertools.cycle(torch.randperm(len(whole), generator=order).split(batch_size))
    alone: dict[str, Callable[[], Any]] = {"memcpy": copy_elsewhere(batch_size * window, bank)}
    alone["bank"] = lambda: batches.gather(next(chosen))
    alone |= {name: partial(next, sources[name]) for name in readers}
    times = measure(alone)
    cells = [model, f"{batch_size} x {window}", f"{bare:.2f}"]
    cells += [f"{ratios[name]:.3f}" if name in ratios else "" for name in ("bank", "npy", "zarr")]
    cells += [f"{times['bank']:.3f}", f"{times['memcpy']:.3f}", f"{times['bank'] / times['memcpy']:.2f}"]
    cells += [f"{times[name] / times['bank']:.1f}" if name in times else "" for name in ("npy", "zarr")]
    return "| " + " | ".join(cells) + " |"


def feed(step: Callable[[Batch], None], source: Iterator[Batch]) -> Callable[[], None]:
    """A step on the source's next batch."""
    return lambda: step(next(source))


def copy_elsewhere(num_frames: int, bank: Bank) -> Callable[[], None]:
    """Copy a batch's float32 bytes from memory that is no longer in the processor's caches."""
    dim = sum(bank.dims.values())
    places = torch.randn(max(2, 2**26 // (num_frames * dim)), num_frames, dim, device=bank.device)
    target, turn = torch.empty_like(places[0]), itertools.cycle(places)

    def run() -> None:
        target.copy_(next(turn))

    return run


def make_step(model: str, bank: Bank, batch_size: int, window: int) -> Callable[[Batch], None]:
    """Forward, loss, backward and optimiser."""
    lambda_ce = 0.88 if model == "rnn" else 0.0
    config = TrainConfig(batch_size=batch_size, window=window, hop=window, lambda_ce=lambda_ce)
    network = build_model(model, bank.dims, TARGETS, {}).to(bank.device)
    objective = Objective(TARGETS, config.loss, config.lambda_mse, lambda_ce).to(bank.device)
    optimizer = make_optimizer(network.parameters(), config)

    def step(batch: Batch) -> None:
        loss = objective(network(batch.inputs), batch.targets, batch.mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measure(
    calls: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Minimum milliseconds of each call, the calls taking turns."""
    best = dict.fromkeys(calls, float("inf"))
    gc.collect()
    gc.disable()
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            call()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            best[name] = min(best[name], (clock() - start) * 1000)
    gc.enable()
    return best


def main() -> None:
    """Measure every model and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--repeats", type=int, default=20, help="of the slow models; the RNN gets five times as many")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of this thread, for a busy machine")
    parser.add_argument("--no-loaders", action="store_true", help="the bank alone, without the DataLoaders")
    options = parser.parse_args()
    keep_big_buffers()
    torch.set_num_threads(1)
    print(
        "| model | windows | bare step, ms | bank / bare | npy / bare | Zarr / bare | bank alone, ms | memcpy, ms |"
        " bank / memcpy | npy / bank alone | Zarr / bank alone |\n|" + "---|" * 11
    )
    with tempfile.TemporaryDirectory() as folder:
        stores, manifest = make_corpus(Path(folder), 60, 3000)
        readers = {} if options.no_loaders else {"npy": npy_reader(Path(folder)), "zarr": zarr_reader(stores)}
        for model in options.models.split(","):
            for modalities, batch_size, window in CASES[model]:
                used = {m: stores[m] for m in modalities}
                bank = Bank.from_stores(used, manifest, [trial.id for trial in manifest.trials], options.device)
                repeats = options.repeats * (5 if model == "rnn" else 1)
                best = partial(measure, repeats=repeats, clock=CLOCKS[options.clock])
                print(compare(model, bank, readers, manifest, batch_size, window, best), flush=True)


if __name__ == "__main__":
    main()
