"""Peak memory of predict-affect against the length of the recording: video with sound, and sound alone.

    python -m benchmarks.memory_predict [--minutes 1 5] [--sound-minutes 10 60] [--drawn]

Networks of random weights read MobileFaceNet and conv1d, which embed the video of `benchmarks/memory.py` and noise, of the latter a
row per second. Each length runs in a process of its own; `--drawn` draws overlay and plot too. Prints a Markdown table; ratios to the shortest should be at most 1.15.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[1]
RATE_HZ = 16_000
_PROGRAM = """
import resource, sys
from pipelines.cli.commands import avfusion
avfusion(["predict", *sys.argv[1:]], standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write_sound(path: Path, minutes: int) -> None:
    """Noise, a minute at a time."""
    rng = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, "PCM_16") as file:
        for _ in range(minutes):
            file.write((0.1 * rng.normal(size=60 * RATE_HZ)).astype(np.float32))


def save_network(folder: Path, backbones: dict[str, str]) -> None:
    """A network on random features with the recipes of some backbones; modality → name."""
    from cache.corpus.folds import Fold
    from extract.backbones.contract import load_backbone
    from extract.faces.settings import CropConfig
    from fusion.bank.bank import Bank
    from fusion.settings import TrainConfig
    from fusion.training.trainer import train

    rng = np.random.default_rng(0)
    recipes = {}
    for modality, name in backbones.items():
        upstream = {"crops": CropConfig().to_document()} if modality == "visual" else {}
        recipes[modality] = load_backbone(name, "random").recipe("float16", upstream=upstream)
    trials = ("a", "b", "c")
    arrays = {
        modality: {trial: rng.normal(size=(64, recipe.dim)) for trial in trials} for modality, recipe in recipes.items()
    }
    labels = {trial: rng.uniform(-1, 1, (64, 2)) for trial in trials}
    bank = replace(Bank.from_arrays(arrays, labels), recipes=recipes)
    fold = Fold(0, trials[:1], trials[1:2], trials[2:])
    train(bank, fold, "rnn", {"d_model": 64}, TrainConfig(epochs=1, window=16, hop=16)).checkpoint.save(folder)


def measure(title: str, recordings: dict[str, Path], model: Path, folder: Path, options: Sequence[str]) -> None:
    """Print a row per recording."""
    first = 0.0
    for name, recording in recordings.items():
        out = folder / f"out-{recording.stem}"
        command = [sys.executable, "-c", _PROGRAM, str(recording), "--model", str(model), "--out", str(out), *options]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peak = int(result.stdout.split()[-1]) / 1024
        first = first or peak
        print(f"| {title}, {name} | {peak:.0f} | {peak / first:.2f} |", flush=True)


def main() -> None:
    """Measure and print."""
    from benchmarks.memory import write_video

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, nargs="*", default=[1, 5])
    parser.add_argument("--sound-minutes", type=int, nargs="*", default=[10, 60])
    parser.add_argument("--drawn", action="store_true")
    options = parser.parse_args()
    print("| recording | peak RSS, MB | ratio |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save_network(folder / "both", {"visual": "mobilefacenet", "audio": "conv1d"})
        save_network(folder / "sound", {"audio": "conv1d"})
        for minutes in options.minutes:
            write_video(folder / f"v{minutes}.mp4", 60 * minutes)
        for minutes in options.sound_minutes:
            write_sound(folder / f"s{minutes}.wav", minutes)
        drawn = ["--overlay", str(folder / "shown"), "--plot", str(folder / "plots")] if options.drawn else []
        videos = {f"{minutes} min": folder / f"v{minutes}.mp4" for minutes in options.minutes}
        measure("video with sound", videos, folder / "both", folder, drawn)
        sounds = {f"{minutes} min": folder / f"s{minutes}.wav" for minutes in options.sound_minutes}
        measure("sound", sounds, folder / "sound", folder, [*drawn[2:], "--rate", "1"])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
