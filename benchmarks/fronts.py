"""What an epoch costs while the front of a backbone is frozen: computed in every step, or once and read from its store.

    python -m benchmarks.fronts [--seconds 8] [--threads 2]

The first stage of gradual unfreezing [Zhang2023] of untrained VGGish on noise, two of three trials for training. The least of
the epochs after the first one counts. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
import torch

from cache.clock import FrameClock
from cache.corpus.folds import Fold
from cache.corpus.manifest import Manifest, Trial
from extract.backbones.contract import load_backbone
from extract.engine.devices import keep_big_buffers
from fusion.bank.bank import Bank
from fusion.settings import TrainConfig
from fusion.training.fitting import EpochRecord
from pipelines.endtoend.fronts import Fronts
from pipelines.endtoend.items import ItemReader
from pipelines.endtoend.settings import FinetuneConfig
from pipelines.endtoend.training import Watch, finetune

RATE = 25


class Clock(Watch):
    """Seconds of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.start = time.perf_counter()

    def epoch(self, record: EpochRecord) -> None:
        """Take the time."""
        now = time.perf_counter()
        self.seconds.append(now - self.start)
        self.start = now


def make_corpus(folder: Path, seconds: int) -> Manifest:
    """Three trials of noise with labels."""
    chance = np.random.default_rng(0)
    trials = []
    for name in "abc":
        soundfile.write(folder / f"{name}.wav", 0.1 * chance.standard_normal(16_000 * seconds), 16_000)
        labels = chance.uniform(-1, 1, (RATE * seconds, 2)).astype(np.float32)
        clock = FrameClock(Fraction(RATE), len(labels))
        trials.append(Trial(name, name, "", clock, {"audio": f"{name}.wav"}, labels))
    return Manifest(folder, tuple(trials))


def run(manifest: Manifest, stored: bool) -> list[float]:
    """Seconds of the epochs of one run, the first one with all that is done before it, such as computing a front."""
    backbone = load_backbone("vggish", "random")
    reader = ItemReader(backbone.input, manifest, manifest.trials, None)
    fronts = Fronts(manifest.root / "fronts", manifest, manifest.trials, lambda kind: {}) if stored else None
    config = TrainConfig(
        epochs=8 if stored else 3, batch_size=2, window=100, hop=100, schedule="plateau", min_lr=0.0, lr=1e-5
    )
    clock = Clock()
    finetune(
        {"audio": backbone},
        {"audio": reader},
        Bank.of_labels(manifest.trials, manifest.targets),
        Fold(0, ("a", "b"), ("c",)),
        "rnn",
        {},
        config,
        FinetuneConfig(release="gradual"),
        watch=clock,
        fronts=fronts,
    )
    return clock.seconds


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=8, help="of each trial")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    keep_big_buffers()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_corpus(Path(folder), options.seconds)
        plain = run(manifest, stored=False)
        stored = run(manifest, stored=True)
        again = run(manifest, stored=True)
    usual, fast = min(plain[1:]), min(stored[1:] + again[1:])
    print(
        f"| {3 * RATE * options.seconds} frames of VGGish, last layer trained | s | against every step |\n|---|---|---|"
    )
    print(f"| epoch, front computed in every step | {usual:.2f} | 1 |")
    print(f"| epoch, front read from its store | {fast:.2f} | {fast / usual:.3f} |")
    print(f"| computing and storing it, once | {stored[0] - again[0]:.2f} | {(stored[0] - again[0]) / usual:.2f} |")


if __name__ == "__main__":
    main()
