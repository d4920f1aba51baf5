"""What the bank costs: a training step fed by it against the same step on a tensor that never changes.

    python benchmarks/training_step.py [--repeats 300] [--device cpu] [--clock wall|cpu]

Prints a Markdown table: minimum milliseconds of several interleaved repeats, one CPU thread.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import torch

from fusion.bank import Bank, Batch
from fusion.losses import Objective
from fusion.model import build_model
from fusion.schedule import make_optimizer
from fusion.settings import TrainConfig

DIMS = {"audio": 128, "visual": 512}
TARGETS = ("valence", "arousal")
CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}


def make_bank(num_trials: int, num_frames: int, device: str) -> Bank:
    """Random float16 features as a store holds them, 2 % of the frames without a face, 5 % of the trials shorter."""
    generator = torch.Generator().manual_seed(0)
    lengths = {f"t{i:03d}": num_frames if i % 20 else num_frames * 2 // 3 for i in range(num_trials)}
    total = sum(lengths.values()) + 1
    valid = {m: torch.rand(total, generator=generator) > (0.02 if m == "visual" else 0) for m in DIMS}
    rows = {
        m: torch.randn(total, dim, generator=generator).half().masked_fill_(~valid[m][:, None], 0)
        for m, dim in DIMS.items()
    }
    labels = torch.rand(total, 2, generator=generator) * 2 - 1
    starts = dict(zip(lengths, itertools.accumulate(lengths.values(), initial=0), strict=False))
    move = {m: x.to(device) for m, x in rows.items()}
    return Bank(
        move,
        {m: x.to(device) for m, x in valid.items()},
        labels.to(device),
        starts,
        lengths,
        TARGETS,
        dict.fromkeys(DIMS, ""),
    )


def variants(bank: Bank, batch_size: int, window: int) -> dict[str, Callable[[], None]]:
    """The bare step, the step fed by the bank, the bank alone, and a copy of as many bytes."""
    config = TrainConfig(batch_size=batch_size, window=window, hop=window)
    windows = bank.cut(list(bank.lengths), window, window)
    whole = len(windows) // batch_size * batch_size  # no smaller last batch, which would flatter the bank
    batches = bank.batches(windows[:whole], window, batch_size)
    order = torch.Generator().manual_seed(0)
    fixed = clone(next(batches.epoch(order)))
    endless = itertools.chain.from_iterable(batches.epoch(order) for _ in itertools.count())
    source = torch.randn(batch_size * window, sum(DIMS.values()), device=bank.device)
    target = torch.empty_like(source)
    model = build_model("rnn", DIMS, TARGETS, {}).to(bank.device)
    objective = Objective(TARGETS, config.loss, config.lambda_mse, config.lambda_ce).to(bank.device)
    optimizer = make_optimizer(model.parameters(), config)

    def step(batch: Batch) -> None:
        loss = objective(model(batch.inputs), batch.targets, batch.mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return {
        "bare step": lambda: step(fixed),
        "bank + step": lambda: step(next(endless)),
        "bank alone": lambda: discard(next(endless)),
        "memcpy of the batch": lambda: discard(target.copy_(source)),
    }


def discard(_: object) -> None:
    """Nothing."""


def clone(batch: Batch) -> Batch:
    """The batch with memory of its own."""
    own = {m: x.clone() for m, x in batch.embeddings.items()}
    return Batch(own, batch.valid, batch.mask, batch.targets, batch.windows, batch.lengths)


def measure(calls: dict[str, Callable[[], None]], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Minimum milliseconds of each call, the calls taking turns."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            call()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            best[name] = min(best[name], (clock() - start) * 1000)
    return best


def main() -> None:
    """Measure both shapes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of this thread, for a busy machine")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bank = make_bank(60, 3000, options.device)
    print("| windows | variant | ms | against the bare step |\n|---|---|---|---|")
    for batch_size, window in ((64, 16), (12, 300)):
        times = measure(variants(bank, batch_size, window), options.repeats, CLOCKS[options.clock])
        for name, value in times.items():
            print(f"| {batch_size} x {window} | {name} | {value:.3f} | {value / times['bare step']:.3f} |")


if __name__ == "__main__":
    main()
