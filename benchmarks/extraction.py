"""Frames per second from face crops to the store: our engine, the bare network, and the usual loop.

    python -m benchmarks.extraction [--frames 256] [--rounds 3] [--cores 1] [--backbones mobilefacenet facenet resnet50]
    python -m benchmarks.extraction --scaling
    python -m benchmarks.extraction --device cuda --cores 8 --threads 8 --batch-size 128 --frames 2048

All variants take turns, on generated 112x112 JPEGs and random weights; the best round of each counts.

* usual loop: Pillow, torchvision transforms, one frame at a time, eager, without gradients, each row written to a Zarr
  array immediately; "in a list": the rows are kept and written once. In a separate process with the default allocator;
* bare network: our executor on one batch in memory, with torch, compiled by torch (half a minute, not counted) and with
  OpenVINO;
* engine: `extract_features` from a folder of crops to a finished store on disk, on the same runtime, whose set-up (one to
  three seconds for OpenVINO) is not counted;
* sgemm: a product of two matrices of 1536x1536 (8192x8192 on CUDA) in float32, the machine's rate to which networks are
  compared.

The processes are bound to `--cores` cores, so that decoding cannot hide on another one; `--threads` threads decode for the
engine. With `--device cuda` everything, including the usual loop, computes there, without OpenVINO. With `--scaling`: bare networks,
batches of 64 against 8, and two threads against one. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.store.store import FeatureStore
from extract.backbones.contract import Backbone, load_backbone
from extract.engine.devices import choose_device, keep_big_buffers
from extract.engine.embedding import EngineOptions, extract_features
from extract.engine.runtimes import Executor, make_executor

SIDE = 112  # pixels of a crop
NUM_TRIALS = 4
USUAL_FRAMES = 64  # of the usual loop, which is slow


def make_corpus(folder: Path, num_frames: int) -> Manifest:
    """Trials of JPEGs that compress like faces: smooth shapes with a little noise."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(np.int16)
    trials = []
    for index in range(NUM_TRIALS):
        (folder / f"trial{index}").mkdir(parents=True)
        length = max(1, num_frames // NUM_TRIALS)
        for frame in range(length):
            noisy = np.roll(smooth, frame, axis=1) + rng.normal(0, 6, smooth.shape).astype(np.int16)
            picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
            picture.save(folder / f"trial{index}" / f"{frame + 1:05d}.jpg", quality=95)
        media = {"crops": f"trial{index}"}
        trials.append(Trial(f"trial{index}", f"s{index}", "train", FrameClock(Fraction(30), length), media, None))
    return Manifest(folder, tuple(trials))


def usual_loop(name: str, manifest: Manifest, folder: Path, device: str, at_once: bool) -> Callable[[], int]:
    """One frame at a time; says how many frames it did."""
    backbone = load_backbone(name, "random").to(device)
    image: Any = backbone.input
    prepare = transforms.Compose(
        [
            transforms.Resize((image.read_size, image.read_size)),
            transforms.CenterCrop(image.size),
            transforms.ToTensor(),
            transforms.Normalize(image.mean, image.std),
        ]
    )
    paths = [path for trial in manifest.trials for path in sorted(manifest.path(trial, "crops").iterdir())]
    paths = paths[:USUAL_FRAMES]

    @torch.no_grad()
    def run() -> int:
        array = zarr.create_array(
            folder / "usual.zarr",
            shape=(len(paths), backbone.dim),
            chunks=(256, backbone.dim),
            dtype="f4",
            overwrite=True,
        )
        rows = []
        for index, path in enumerate(paths):
            row = backbone.body(prepare(Image.open(path).convert("RGB"))[None].to(device)).flatten().cpu().numpy()
            rows.append(row)
            if not at_once:
                array[index] = row
        if at_once:
            array[:] = np.stack(rows)
        return len(paths)

    return run


def serve_usual_loops(pipe: Connection, name: str, manifest: Manifest, folder: Path, cores: int, device: str) -> None:
    """Run the loop that is asked for, again and again; a process that knows nothing of our settings."""
    bind(cores)
    loops = {at_once: usual_loop(name, manifest, folder, device, at_once) for at_once in (False, True)}
    while (at_once := pipe.recv()) is not None:
        pipe.send(loops[at_once]())


def bind(cores: int) -> None:
    """Keep this process on some cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(cores)


@contextmanager
def usual_loops(
    name: str, manifest: Manifest, folder: Path, cores: int, device: str
) -> Iterator[dict[str, Callable[[], int]]]:
    """Both usual loops, in another process."""
    here, there = multiprocessing.Pipe()
    arguments = there, name, manifest, folder, cores, device
    process = multiprocessing.get_context("spawn").Process(target=serve_usual_loops, args=arguments, daemon=True)
    process.start()

    def ask(at_once: bool) -> int:
        here.send(at_once)
        return int(here.recv())

    yield {"usual": partial(ask, False), "usual in a list": partial(ask, True)}
    here.send(None)
    process.join()


def bare_network(backbone: Backbone, num_frames: int, how: EngineOptions) -> Callable[[], int]:
    """Batch after batch of the same pixels; says how many frames it did."""
    executor, batch_size = make(backbone, how), how.batch_size
    size = backbone.input.size  # type: ignore[attr-defined]
    batch = np.random.default_rng(0).integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
    count = max(1, num_frames // batch_size)

    def run() -> int:
        for _ in range(count):
            executor.start(batch)()
        return count * batch_size

    return run


def make(backbone: Backbone, how: EngineOptions) -> Executor:
    """An executor for some options."""
    device = choose_device(how.device)
    return make_executor(backbone, how.batch_size, device, how.runtime, how.precision, how.compiled)


def sgemm(device: str) -> Callable[[], int]:
    """Products of two matrices; says how many operations it did."""
    side = 1536 if device == "cpu" else 8192
    one, other = torch.rand(2, side, side, device=device)

    def run() -> int:
        for _ in range(4):
            torch.mm(one, other)
        if one.is_cuda:
            torch.cuda.synchronize()
        return 4 * 2 * side**3

    return run


def operations(backbone: Backbone) -> float:
    """Operations of one frame, two per multiplication and addition."""
    image: Any = backbone.input
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(torch.zeros((1, image.size, image.size, 3), dtype=torch.uint8))
    return float(counter.get_total_flops())


def engine(backbone: Backbone, manifest: Manifest, folder: Path, options: EngineOptions) -> Callable[[], int]:
    """A whole extraction into a new store by a network that is loaded; says how many frames it did."""
    executor = make(backbone, options)

    def run() -> int:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            store = FeatureStore.create(Path(place) / f"{backbone.name}.zarr", backbone.recipe())
            outcome = extract_features(
                backbone, store, manifest, manifest.trials, None, options, executor=lambda: executor
            )
        assert not outcome.failures, outcome.failures
        return outcome.frames

    return run


def measure(calls: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Best frames per second of each call, the calls taking turns after one round that does not count."""
    best = dict.fromkeys(calls, 0.0)
    for index in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            frames = call()
            if index:
                best[name] = max(best[name], frames / (time.perf_counter() - start))
    return best


def machine(cores: int, device: str) -> str:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    name = torch.cuda.get_device_name() if device.startswith("cuda") else (models or [platform.processor()])[0]
    return f"{name}, {cores} core{'s' if cores > 1 else ''}, torch {torch.__version__}"


def show_engine(options: argparse.Namespace, variants: dict[str, EngineOptions]) -> None:
    """The usual loops, bare networks and engines."""
    columns = (
        "backbone|usual loop, frames/s|in a list|runtime|bare network|engine|engine / bare|engine / usual|engine / list"
    )
    print(f"|{columns}|of sgemm|\n" + "|---" * 10 + "|")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        manifest = make_corpus(folder / "corpus", options.frames)
        for name in options.backbones:
            backbone = load_backbone(name, "random")
            with usual_loops(name, manifest, folder, options.cores, options.device) as calls:
                calls["sgemm"] = sgemm(options.device)
                for label, how in variants.items():
                    bare = bare_network(backbone, options.frames, how)
                    calls |= {f"bare {label}": bare, f"engine {label}": engine(backbone, manifest, folder, how)}
                speed = measure(calls, options.rounds)
            for label in variants:
                usual, listed = speed["usual"], speed["usual in a list"]
                network, ours = speed[f"bare {label}"], speed[f"engine {label}"]
                share = network * operations(backbone) / speed["sgemm"]
                print(
                    f"| {name} | {usual:.1f} | {listed:.1f} | {label} | {network:.1f} | {ours:.1f} | {ours / network:.2f} | "
                    f"{ours / usual:.2f} | {ours / listed:.2f} | {share:.2f} |",
                    flush=True,
                )


def show_scaling(options: argparse.Namespace, variants: dict[str, EngineOptions]) -> None:
    """Bare networks: batch sizes, and numbers of threads."""
    print("| backbone | runtime | batches of 64 / of 8 | two threads / one |\n|---|---|---|---|")

    def threaded(call: Callable[[], int], threads: int) -> Callable[[], int]:
        def run() -> int:
            torch.set_num_threads(threads)
            return call()

        return run

    for name in options.backbones:
        backbone = load_backbone(name, "random")
        for variant, how in variants.items():
            calls = {}
            for label, size, threads in (
                ("8", 8, 1),
                ("64", 64, 1),
                ("two", options.batch_size, 2),
                ("one", options.batch_size, 1),
            ):
                torch.set_num_threads(threads)
                calls[label] = threaded(bare_network(backbone, 128, replace(how, batch_size=size)), threads)
            speed = measure(calls, options.rounds)
            print(
                f"| {name} | {variant} | {speed['64'] / speed['8']:.2f} | {speed['two'] / speed['one']:.2f} |",
                flush=True,
            )


def main() -> None:
    """Measure every backbone and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="of the engine, that decode ahead")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument(
        "--not-compiled", action="store_true", help="leave torch.compile out, which takes its time first"
    )
    parser.add_argument("--backbones", nargs="+", default=["mobilefacenet", "facenet", "resnet50"])
    options = parser.parse_args()
    torch_only = EngineOptions(batch_size=options.batch_size, threads=options.threads, device=options.device)
    variants = {"torch": torch_only}
    if not (options.scaling or options.not_compiled):
        variants["torch, compiled"] = replace(torch_only, compiled=True)
    if options.device == "cpu" and importlib.util.find_spec("openvino"):
        variants["OpenVINO"] = replace(torch_only, runtime="openvino")
    keep_big_buffers()
    if not options.scaling:
        bind(options.cores)
    print(f"{machine(options.cores, options.device)}; batches of {options.batch_size}\n")
    (show_scaling if options.scaling else show_engine)(options, variants)


if __name__ == "__main__":
    main()
