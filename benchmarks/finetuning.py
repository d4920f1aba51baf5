"""What training end to end costs, against training on cached features; and what our loop and its pieces add.

    python -m benchmarks.finetuning [--windows 64] [--length 16] [--repeats 2] [--threads 2] [--device cpu] [--parts 123]

1. An optimiser step of the recurrent model of [Karas2022, Table 4] on the same windows: on cached features (one thread), with both
   backbones frozen in front of it, and with all of them trained; `--piece` items at a time, since activations of 1,024 faces
   take 50 GB.
2. Our loop, which reads and decodes the crops of shuffled windows, against the bare step on one batch in memory.
3. A batch computed in pieces, with the same gradient, against all at once: time, and peak memory of a process each.

The variants of a part take turns; the minimum counts. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.extraction import make_corpus
from cache.corpus.manifest import Manifest
from extract.backbones.contract import load_backbone
from extract.engine.devices import keep_big_buffers
from fusion.bank.bank import Bank
from fusion.bank.normalisation import Moments
from fusion.model import Inputs
from fusion.scores.losses import Objective
from fusion.settings import TrainConfig
from fusion.training.building import build_model
from fusion.training.fitting import fit
from fusion.training.schedule import make_optimizer
from pipelines.endtoend.batches import ItemBatches
from pipelines.endtoend.items import ItemReader, Items
from pipelines.endtoend.network import EndToEnd, MixedInputs

TARGETS = ("valence", "arousal")
BACKBONES = {"visual": "mobilefacenet", "audio": "conv1d"}
Call = Callable[[], Any]


def make_network(names: dict[str, str], device: str, piece: int = 0) -> EndToEnd:
    """Untrained backbones under the recurrent model."""
    backbones = {modality: load_backbone(name, "random").requires_grad_(True) for modality, name in names.items()}
    dims = {modality: backbone.dim for modality, backbone in backbones.items()}
    moments = {modality: Moments(torch.zeros(dim), torch.ones(dim)) for modality, dim in dims.items()}
    network = EndToEnd(backbones, build_model("rnn", dims, TARGETS, {}), moments, piece=piece)
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def make_inputs(network: EndToEnd, num_windows: int, length: int, device: str) -> MixedInputs:
    """One item per frame and modality, in memory."""
    count = num_windows * length
    shape = num_windows, length
    items = {
        modality: Items(
            torch.from_numpy(backbone.input.example(count)),  # type: ignore[union-attr, operator]
            torch.arange(num_windows).repeat_interleave(length),
            torch.arange(count).view(shape),
            torch.ones(shape, dtype=torch.int64),
            torch.ones(shape, dtype=torch.bool),
        ).to(torch.device(device))
        for modality, backbone in network.backbones.items()
    }
    return MixedInputs(Inputs({}, {}, torch.full((num_windows,), length)), items)


def make_step(model: nn.Module, inputs: Any, shape: tuple[int, int], device: str) -> Call:
    """Forward, loss, backward and optimiser on one batch."""
    objective = Objective(TARGETS, "batch", 0.84, 0.88).to(device)
    optimizer = make_optimizer([p for p in model.parameters() if p.requires_grad], TrainConfig())
    labels = torch.rand(*shape, 2, device=device) * 2 - 1
    mask = torch.ones_like(labels, dtype=torch.bool)
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        objective(model(inputs), labels, mask).backward()
        optimizer.step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    return step


def best_of(calls: dict[str, Call], repeats: int, warm_up: int = 1) -> dict[str, float]:
    """Least seconds of each call, after some to warm up; the calls take turns."""
    best = dict.fromkeys(calls, float("inf"))
    for turn in range(repeats + warm_up):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn >= warm_up:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def compare_with_cache(options: argparse.Namespace) -> None:
    """Part 1."""
    shape = options.windows, options.length
    network = make_network(BACKBONES, options.device, options.piece)
    inputs = make_inputs(network, *shape, options.device)
    frozen = make_network(BACKBONES, options.device, options.piece)
    frozen.backbones.requires_grad_(False)
    valid = torch.ones(shape, dtype=torch.bool, device=options.device)
    rows = {modality: torch.randn(*shape, dim, device=options.device) for modality, dim in network.fusion.dims.items()}
    cached = Inputs(rows, dict.fromkeys(rows, valid), torch.full((shape[0],), shape[1]))
    fast = make_step(
        build_model("rnn", network.fusion.dims, TARGETS, {}).to(options.device), cached, shape, options.device
    )
    slow = {
        "backbones frozen in front": make_step(frozen, inputs, shape, options.device),
        "end to end": make_step(network, inputs, shape, options.device),
    }
    torch.set_num_threads(1)  # as training does: more slow small models down
    base = min(best_of({"cached": fast}, 20).values())
    torch.set_num_threads(options.threads)
    print(f"\n| step on {shape[0]} x {shape[1]} frames | ms | against cached features |\n|---|---|---|")
    print(f"| cached features | {1000 * base:.2f} | 1 |")
    for name, seconds in best_of(slow, 1, warm_up=0).items():
        print(f"| {name} | {1000 * seconds:,.0f} | {seconds / base:,.0f} |", flush=True)


def label(manifest: Manifest) -> Manifest:
    """The same trials with labels."""
    chance = np.random.default_rng(0)
    trials = (
        replace(trial, labels=chance.uniform(-1, 1, (trial.clock.num_frames, 2)).astype(np.float32))
        for trial in manifest.trials
    )
    return replace(manifest, trials=tuple(trials))


def compare_loop(options: argparse.Namespace) -> None:
    """Part 2: an epoch of our loop on crops in files, against as many bare steps."""
    shape = 8, 8
    with tempfile.TemporaryDirectory() as folder:
        manifest = label(make_corpus(Path(folder), 512))
        network = make_network({"visual": "mobilefacenet"}, options.device)
        reader = ItemReader(network.backbones["visual"].input, manifest, manifest.trials, None)  # type: ignore[arg-type]
        bank = Bank.of_labels(manifest.trials, manifest.targets, options.device)
        windows = bank.batches(bank.cut(list(bank.lengths), shape[1], shape[1]), shape[1], shape[0])
        batches = ItemBatches(windows, lambda: {"visual": reader}, {}, seed=0)
        config = TrainConfig(epochs=1, schedule="constant")
        objective = Objective(TARGETS, "batch", 0.84, 0.88).to(options.device)
        validation = dict.fromkeys(TARGETS, 0.5)
        step = make_step(network, make_inputs(network, *shape, options.device), shape, options.device)

        def bare() -> None:
            for _ in range(len(batches)):
                step()

        calls = {"loop": lambda: fit(network, objective, batches, lambda: validation, config), "bare": bare}
        best = best_of(calls, options.repeats)
    print(f"\n| {len(batches)} steps of 64 crops | s | against the bare step |\n|---|---|---|")
    print(f"| bare, one batch in memory | {best['bare']:.2f} | 1 |")
    print(f"| our loop, crops read and decoded | {best['loop']:.2f} | {best['loop'] / best['bare']:.3f} |", flush=True)


def serve_steps(pipe: Connection, piece: int, shape: tuple[int, int], device: str, threads: int) -> None:
    """Run a step whenever asked; sends its seconds and the process's peak memory in MB."""
    keep_big_buffers()
    torch.set_num_threads(threads)
    network = make_network({"visual": "mobilefacenet"}, device, piece)
    step = make_step(network, make_inputs(network, *shape, device), shape, device)
    while pipe.recv():
        start = time.perf_counter()
        step()
        seconds = time.perf_counter() - start
        used = torch.cuda.max_memory_allocated() if device.startswith("cuda") else 1024 * _peak_kb()
        pipe.send((seconds, used / 1e6))


def _peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def compare_pieces(options: argparse.Namespace) -> None:
    """Part 3: 4 windows of 40 frames, all at once and 40 at a time, in a process each."""
    shape = 4, 40
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for piece in (0, 40):
        ours, theirs = context.Pipe()
        arguments = theirs, piece, shape, options.device, options.threads
        context.Process(target=serve_steps, args=arguments, daemon=True).start()
        pipes[piece] = ours
    memory: dict[int, float] = {}

    def ask(piece: int) -> None:
        pipes[piece].send(True)
        _, memory[piece] = pipes[piece].recv()

    best = best_of({str(piece): partial(ask, piece) for piece in pipes}, options.repeats)
    print(f"\n| step on {shape[0]} x {shape[1]} crops | s | against all at once | peak memory, MB |\n|---|---|---|---|")
    for piece in pipes:
        pipes[piece].send(False)
        name = f"{piece} crops at a time" if piece else "all at once"
        print(
            f"| {name} | {best[str(piece)]:.2f} | {best[str(piece)] / best['0']:.2f} | {memory[piece]:,.0f} |",
            flush=True,
        )


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=64, help="of part 1")
    parser.add_argument("--length", type=int, default=16, help="frames of each")
    parser.add_argument("--piece", type=int, default=64, help="items at a time, of part 1; 0 for all")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parts", default="123")
    options = parser.parse_args()
    keep_big_buffers()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    parts: dict[str, Callable[[argparse.Namespace], None]] = {
        "1": compare_with_cache,
        "2": compare_loop,
        "3": compare_pieces,
    }
    for part in options.parts:
        parts[part](options)


if __name__ == "__main__":
    main()
