"""The store against numpy memmap, one npy per trial, h5py, LMDB, tensorstore and zarr-python's defaults.

    python -m benchmarks.store [--trials 100] [--frames 5000] [--dim 512] [--repeats 5] [--folder .] [--device auto]

All hold the same float16 embeddings and are measured in one run, taking turns; the best of several rounds counts. The
page cache is warm. Prints Markdown tables: random windows, loading everything, the bank, writing, extraction with and
without writing, opening, size, and a profile.
Needs `pip install 'avfusion[bench]'`; what is not installed is left out.
"""

from __future__ import annotations

import argparse
import cProfile
import importlib.util
import io
import os
import platform
import pstats
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray

from benchmarks.store_stages import measure_bank, measure_extraction
from cache.clock import FrameClock
from cache.recipe import Recipe
from cache.store.receipt import Receipt, open_receipt
from cache.store.store import FeatureStore

WINDOW = 300  # frames
OURS = "ours"

Read = Callable[[int, int, NDArray[Any]], None]
"""Copies frames from `start` of a trial (by number) into a buffer."""


class Layouts:
    """The same trials in every layout."""

    def __init__(self, folder: Path, lengths: list[int], dim: int) -> None:
        self.folder, self.lengths, self.dim = folder, lengths, dim
        self.names = [f"trial{i:04d}" for i in range(len(lengths))]
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).tolist()
        rng = np.random.default_rng(0)
        self.rows = np.empty((sum(lengths), dim), np.float16)
        for start, stop in zip(self.starts[:-1], self.starts[1:], strict=True):
            self.rows[start:stop] = rng.standard_normal((stop - start, dim), np.float32)
        self.recipe = Recipe("bench", "visual", dim)

    def trial(self, index: int) -> NDArray[np.float16]:
        """Embeddings of one trial."""
        return self.rows[self.starts[index] : self.starts[index + 1]]

    def write_ours(self, path: Path) -> FeatureStore:
        """A store as extraction writes it."""
        store = FeatureStore.create(path, self.recipe)
        for index in range(len(self.names)):
            self.write_one(store, index)
        return store

    def write_one(self, store: FeatureStore, index: int) -> None:
        """One trial of it."""
        rows = self.trial(index)
        clock = FrameClock(Fraction(30), len(rows))
        store.write(self.names[index], rows, np.ones(len(rows), bool), source="s", clock=clock)

    def readers(self) -> dict[str, Read]:
        """Write every layout and open it for reading."""
        readers: dict[str, Read] = {}
        self.rows.tofile(self.folder / "all.raw")
        whole = np.memmap(self.folder / "all.raw", np.float16, "r", shape=self.rows.shape)
        readers["numpy memmap, one file"] = lambda i, s, out: np.copyto(
            out, whole[self.starts[i] + s : self.starts[i] + s + len(out)]
        )
        for index, name in enumerate(self.names):
            np.save(self.folder / f"{name}.npy", self.trial(index))
        maps = [np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in self.names]
        readers["npy per trial, memmaps kept open"] = lambda i, s, out: np.copyto(out, maps[i][s : s + len(out)])
        self.write_ours(self.folder / "ours.zarr")
        store = FeatureStore(self.folder / "ours.zarr", self.recipe.fingerprint)
        readers[OURS] = lambda i, s, out: np.copyto(out, store.read(self.names[i], s, s + len(out)).embeddings)
        readers["h5py, chunks of 256"] = self._h5py()
        if importlib.util.find_spec("lmdb"):
            readers["LMDB, one value per trial"] = self._lmdb()
        if importlib.util.find_spec("tensorstore"):
            readers["tensorstore on our Zarr"] = self._tensorstore(store)
        readers["zarr-python on our Zarr"] = self._zarr(
            [zarr.open_array(f"{store.group}/{n}", mode="r") for n in self.names]
        )
        group = zarr.open_group(self.folder / "defaults.zarr", mode="w")
        arrays = [group.create_array(name, data=self.trial(i)) for i, name in enumerate(self.names)]
        readers["zarr-python, its defaults"] = self._zarr(arrays)
        return readers

    def _h5py(self) -> Read:
        with h5py.File(self.folder / "all.h5", "w") as file:
            for index, name in enumerate(self.names):
                rows = self.trial(index)
                file.create_dataset(name, data=rows, chunks=(min(256, len(rows)), self.dim))
        opened = h5py.File(self.folder / "all.h5", "r")
        sets = [opened[name] for name in self.names]
        return lambda i, s, out: sets[i].read_direct(out, np.s_[s : s + len(out)])

    def _lmdb(self) -> Read:
        import lmdb

        environment = lmdb.open(str(self.folder / "lmdb"), map_size=4 * self.rows.nbytes + 2**24)
        with environment.begin(write=True) as transaction:
            for index, name in enumerate(self.names):
                transaction.put(name.encode(), self.trial(index).tobytes())
        reading = environment.begin(buffers=True)

        def read(index: int, start: int, out: NDArray[Any]) -> None:
            rows = np.frombuffer(reading.get(self.names[index].encode()), np.float16).reshape(-1, self.dim)
            np.copyto(out, rows[start : start + len(out)])

        return read

    def _tensorstore(self, store: FeatureStore) -> Read:
        import tensorstore

        arrays = [
            tensorstore.open(
                {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{store.group}/{name}/"}}, read=True
            ).result()
            for name in self.names
        ]
        return lambda i, s, out: np.copyto(out, arrays[i][s : s + len(out)].read().result())

    @staticmethod
    def _zarr(arrays: list[Any]) -> Read:
        return lambda i, s, out: np.copyto(out, arrays[i][s : s + len(out)])


def best(variants: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Seconds of each variant, the best of several rounds in which all take turns."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def measure_windows(layouts: Layouts, readers: dict[str, Read], number: int, repeats: int) -> dict[str, float]:
    """Random windows per second of each layout, copied into one buffer."""
    rng = np.random.default_rng(1)
    length = min(WINDOW, min(layouts.lengths))
    picks = [
        (i, int(rng.integers(layouts.lengths[i] - length + 1))) for i in rng.integers(len(layouts.names), size=number)
    ]
    out = np.empty((length, layouts.dim), np.float16)
    counts = {name: number // 20 + 1 if "zarr-python" in name else number for name in readers}

    def run(read: Read, count: int) -> None:
        for index, start in picks[:count]:
            read(int(index), start, out)

    for name, read in readers.items():  # every layout gives the same frames
        read(int(picks[0][0]), picks[0][1], out)
        assert np.array_equal(out, layouts.trial(int(picks[0][0]))[picks[0][1] : picks[0][1] + length]), name
        run(read, counts[name])
    variants: dict[str, Callable[[], None]] = {
        name: (lambda read=read, name=name: run(read, counts[name])) for name, read in readers.items()
    }
    return {name: counts[name] / seconds for name, seconds in best(variants, repeats).items()}


def measure_loading(layouts: Layouts, readers: dict[str, Read], repeats: int) -> dict[str, float]:
    """Seconds to load everything into one resident array."""
    bank = np.zeros_like(layouts.rows)

    def parts() -> list[tuple[int, NDArray[Any]]]:
        return [(i, bank[layouts.starts[i] : layouts.starts[i + 1]]) for i in range(len(layouts.names))]

    def load(read: Read) -> None:
        for index, out in parts():
            read(index, 0, out)

    def load_npy() -> None:
        for index, out in parts():
            np.copyto(out, np.load(layouts.folder / f"{layouts.names[index]}.npy"))

    def load_ours(check: bool) -> None:
        store = FeatureStore(layouts.folder / "ours.zarr", layouts.recipe.fingerprint)
        for index, out in parts():
            np.copyto(out, store.read(layouts.names[index], check=check).embeddings)

    variants: dict[str, Callable[[], None]] = {
        "np.load, npy per trial": load_npy,
        f"{OURS}, opened anew": lambda: load_ours(False),
        f"{OURS}, opened anew, every byte checked": lambda: load_ours(True),
    }
    variants |= {name: (lambda read=read: load(read)) for name, read in readers.items() if name != OURS}
    return best(variants, repeats)


def measure_writing(layouts: Layouts, repeats: int) -> dict[str, list[float]]:
    """Milliseconds per trial of `np.save` with fsync and of a commit, trial by trial in turns."""
    times: dict[str, list[float]] = {"np.save + fsync": [], OURS: [], "zarr-python, its defaults, no fsync": []}
    store = FeatureStore.create(layouts.folder / "written.zarr", layouts.recipe)
    group = zarr.open_group(layouts.folder / "written-defaults.zarr", mode="w")
    number = min(len(layouts.names), 10 * repeats)
    for index in range(number):
        start = time.perf_counter()
        with open(layouts.folder / f"written{index}.npy", "wb") as file:
            np.save(file, layouts.trial(index))
            file.flush()
            os.fsync(file.fileno())
        times["np.save + fsync"].append(time.perf_counter() - start)
        start = time.perf_counter()
        layouts.write_one(store, index)
        times[OURS].append(time.perf_counter() - start)
        start = time.perf_counter()
        group.create_array(layouts.names[index], data=layouts.trial(index))
        times["zarr-python, its defaults, no fsync"].append(time.perf_counter() - start)
    return times


def measure_opening(folder: Path, trials: int, repeats: int) -> float:
    """Seconds to open three receipts of many short trials and read each trial once, every byte checked."""
    rng = np.random.default_rng(0)
    paths = []
    for name in ("a", "b", "c"):
        store = FeatureStore.create(folder / f"{name}.zarr", Recipe(name, "visual", 8))
        for index in range(trials):
            rows = rng.normal(size=(10, 8))
            clock = FrameClock(Fraction(30), 10)
            store.write(f"trial{index:04d}", rows, np.ones(10, bool), source="s", clock=clock)
        Receipt.of(store, store.trial_ids()).save(folder / f"{name}.json")
        paths.append(folder / f"{name}.json")

    def run() -> None:
        for path in paths:
            store, receipt = open_receipt(path)
            for trial_id in receipt.trials:
                store.read(trial_id, check=True)

    return best({"open": run}, repeats)["open"]


def measure_size(layouts: Layouts) -> tuple[float, float, float]:
    """Bytes of all files, and blocks on disk of files and folders, against raw float16; files per trial."""
    paths = list((layouts.folder / "ours.zarr").rglob("*"))
    files = [path for path in paths if path.is_file()]
    size = sum(path.stat().st_size for path in files) / layouts.rows.nbytes
    blocks = 512 * sum(path.stat().st_blocks for path in paths) / layouts.rows.nbytes
    return size, blocks, (len(files) - 2) / len(layouts.names)  # two describe store and fingerprint


def profile(layouts: Layouts, number: int) -> str:
    """Where the time of random windows goes beyond the copy itself."""
    store = FeatureStore(layouts.folder / "ours.zarr", layouts.recipe.fingerprint)
    for name in layouts.names:
        store.read(name)
    start = time.perf_counter()
    for index in range(number):
        store.read(layouts.names[index % len(layouts.names)], 10, 10 + WINDOW)
    read = (time.perf_counter() - start) / number
    profiler = cProfile.Profile()
    fresh = FeatureStore(layouts.folder / "ours.zarr", layouts.recipe.fingerprint)
    profiler.enable()
    for name in layouts.names:
        fresh.read(name, check=True)
    profiler.disable()
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(6)
    lines = [line.strip() for line in text.getvalue().splitlines() if "(" in line and "function calls" not in line]
    return "\n".join(
        [f"A window costs {1e6 * read:.2f} us before its copy. First read of each trial, checked:", *lines]
    )


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(header) + " |\n|" + " --- |" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def report_stages(layouts: Layouts, options: argparse.Namespace) -> None:
    """Measure the store inside the two stages and print it."""
    lengths = dict(zip(layouts.names, layouts.lengths, strict=True))
    bank, npy = measure_bank(layouts.folder / "ours.zarr", layouts.recipe, lengths, options.repeats)
    size = layouts.rows.nbytes / 1e6
    table(
        ("loading the bank of training", "MB/s", "of np.load"),
        [
            ("np.load, npy per trial, into one tensor", f"{size / npy:,.0f}", "1.00"),
            ("Bank.from_stores, opened anew, every byte checked", f"{size / bank:,.0f}", f"{npy / bank:.2f}"),
        ],
    )
    sizes = options.extract_trials, options.extract_frames
    found = measure_extraction(layouts.folder, *sizes, options.repeats, options.device)
    table(
        (f"extracting {sizes[0]} trials of {sizes[1]} frames", "frames/s", "without writing", "slower", "median"),
        [
            (name, f"{with_it:,.0f}", f"{without:,.0f}", f"{100 * best:.2f} %", f"{100 * median:.2f} %")
            for name, (with_it, without, best, median) in found.items()
        ],
    )


def report(layouts: Layouts, options: argparse.Namespace) -> None:
    """Measure everything and print it."""
    repeats, windows = options.repeats, options.windows
    readers = layouts.readers()
    rates = measure_windows(layouts, readers, windows, repeats)
    reference = rates["npy per trial, memmaps kept open"]
    defaults = rates["zarr-python, its defaults"]
    table(
        (f"random windows of {WINDOW}", "per second", "of npy memmap", "of zarr-python's defaults"),
        [(name, f"{rate:,.0f}", f"{rate / reference:.2f}", f"{rate / defaults:.1f}") for name, rate in rates.items()],
    )
    loads = measure_loading(layouts, readers, repeats)
    reference = loads["np.load, npy per trial"]
    table(
        ("loading everything", "MB/s", "of np.load"),
        [(n, f"{layouts.rows.nbytes / s / 1e6:,.0f}", f"{reference / s:.2f}") for n, s in loads.items()],
    )
    times = measure_writing(layouts, repeats)
    reference = min(times["np.save + fsync"])
    middle = float(np.median(times["np.save + fsync"]))
    table(
        ("writing a trial", "best, ms", "of np.save", "median, ms", "of np.save"),
        [
            (
                n,
                f"{1e3 * min(t):.1f}",
                f"{reference / min(t):.2f}",
                f"{1e3 * np.median(t):.1f}",
                f"{middle / np.median(t):.2f}",
            )
            for n, t in times.items()
        ],
    )
    report_stages(layouts, options)
    opening = measure_opening(layouts.folder / "opening", 600, repeats)
    size, blocks, files = measure_size(layouts)
    table(
        ("what", "found"),
        [
            ("opening 600 trials of 3 backbones, each read once and checked, s", f"{opening:.2f}"),
            ("bytes of all files, of raw float16", f"{size:.4f}"),
            ("blocks on disk of files and folders, of raw float16", f"{blocks:.4f}"),
            ("files per trial", f"{files:.0f}"),
        ],
    )
    print("```\n" + profile(layouts, windows) + "\n```")


def main() -> None:
    """Parse the sizes and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--frames", type=int, default=5000, help="mean length; trials differ by a tenth")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--windows", type=int, default=4000, help="random windows per round")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--extract-trials", type=int, default=4, help="of the extraction with and without writing")
    parser.add_argument("--extract-frames", type=int, default=500, help="of each of them")
    parser.add_argument("--device", default="auto", help="that extracts")
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to measure")
    options = parser.parse_args()
    rng = np.random.default_rng(2)
    lengths = rng.integers(int(options.frames * 0.9), int(options.frames * 1.1) + 1, options.trials).tolist()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix=".bench") as folder:
        print(f"{options.trials} trials, {sum(lengths):,} frames, {options.dim} numbers each, float16.")
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, zarr {zarr.__version__}.\n"
        )
        report(Layouts(Path(folder), lengths, options.dim), options)


if __name__ == "__main__":
    main()
