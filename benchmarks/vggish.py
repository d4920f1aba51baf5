"""VGGish: log-mel patches per second, shared spectrogram against one per frame, and the engine against the bare network.

    python -m benchmarks.vggish [--seconds 60] [--rounds 3]

* per frame: torchvggish's own front end on the 0.975 s of sound of each frame, as the usual code does (30 frames timed);
* ours: one spectrogram of the whole sound, patches cut from it, one per frame at 30 Hz;
* bare network: our executor on one batch in memory; engine: from a sound file to a finished store.

One core, one thread; the variants take turns, the best round of each counts. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
import torch

from benchmarks.extraction import measure
from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.store.store import FeatureStore
from extract.backbones.contract import load_backbone
from extract.engine.devices import choose_device, keep_big_buffers
from extract.engine.embedding import EngineOptions, extract_features
from extract.engine.runtimes import make_executor
from extract.inputs.spectrogram import LogMelPatches

RATE_HZ, FPS, BATCH = 16_000, 30, 32
PATCH_SAMPLES = 15_600  # 0.975 s


def per_frame(samples: np.ndarray) -> Callable[[], int]:
    """The log-mel patch of each frame from its own samples."""
    from torchvggish import vggish_input

    def run() -> int:
        for frame in range(FPS):
            start = frame * RATE_HZ // FPS
            vggish_input.waveform_to_examples(samples[start : start + PATCH_SAMPLES], RATE_HZ)
        return FPS

    return run


def shared(samples: np.ndarray, clock: FrameClock) -> Callable[[], int]:
    """Patches of all frames from one spectrogram."""

    def run() -> int:
        patches = LogMelPatches(samples, clock, "ahead")
        frames = np.flatnonzero(patches.valid)
        for start in range(0, len(frames), BATCH):
            patches.read(frames[start : start + BATCH])
        return len(frames)

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    torch.set_num_threads(1)
    keep_big_buffers()
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, options.seconds * RATE_HZ).astype(np.float32)
    patches = measure(
        {
            "per frame": per_frame(samples),
            "ours": shared(samples, FrameClock(Fraction(FPS), options.seconds * FPS)),
        },
        options.rounds,
    )
    backbone = load_backbone("vggish", "random")
    executor = make_executor(backbone, BATCH, choose_device("cpu"), "torch", "fp32", False)
    batch, count = backbone.input.example(BATCH), 6
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        short = FrameClock(Fraction(FPS), count * BATCH)
        soundfile.write(folder / "a.wav", samples[: round(short.num_frames / FPS * RATE_HZ)], RATE_HZ)
        manifest = Manifest(folder, (Trial("a", "a", "", short, {"audio": "a.wav"}),))

        def bare() -> int:
            for _ in range(count):
                executor.start(batch)()
            return count * BATCH

        def engine() -> int:
            with tempfile.TemporaryDirectory(dir=folder) as into:
                store = FeatureStore.create(Path(into) / "vggish.zarr", backbone.recipe())
                how = EngineOptions(BATCH, device="cpu")
                return extract_features(backbone, store, manifest, manifest.trials, None, how).frames

        speed = measure({"bare": bare, "engine": engine}, options.rounds)
    print("| what | usual, per second | ours | ratio |\n|---|---|---|---|")
    usual, ours = patches["per frame"], patches["ours"]
    print(f"| log-mel patches | {usual:.0f} | {ours:.0f} | {ours / usual:.0f} |")
    print(
        f"| engine against bare network | {speed['bare']:.1f} | {speed['engine']:.1f} | {speed['engine'] / speed['bare']:.2f} |"
    )


if __name__ == "__main__":
    main()
