"""The search: its time, ASHA against random points with the same number of epochs, and the memory of trials side by side.

Run it in the folder of a finished demo project, e.g. one that `dvc repro` left: `python path/to/benchmarks/search.py all`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch

from cache.clock import FrameClock
from cache.recipe import Recipe
from cache.store.store import FeatureStore
from fusion.bank.bank import Bank
from fusion.bank.mapped import load_rows
from fusion.scores.ccc import CCC
from fusion.training.inference import predict
from pipelines.project import networks, paths
from pipelines.project.corpus_files import load_corpus
from pipelines.project.params_file import read_params
from pipelines.project.runs import load_networks
from pipelines.search.records import Trial
from pipelines.search.search import Options, Outcome, tune
from pipelines.training.features import open_stores

SYSTEM = "fused"
SEEDS = (0, 1, 2)
TRIALS, FRAMES = 20, 10_000  # of the features in memory


def search(name: str, **options: object) -> tuple[Outcome, float]:
    """One search, begun anew; networks that others left are removed first, so that times count."""
    started = time.perf_counter()
    outcome = tune(read_params().fusion, SYSTEM, Options(name=f"bench-{name}", redo=True, **options))  # type: ignore[arg-type]
    return outcome, time.perf_counter() - started


def forget(outcome: Outcome) -> None:
    """Remove the networks of a search."""
    for trial in outcome.trials:
        if trial.network and networks.place(trial.network).exists():
            networks.remove_network(networks.place(trial.network))


def epochs_of(trials: list[Trial]) -> int:
    """Epochs that were trained; patience may have ended a run before its limit."""
    return sum(trial.epochs for trial in trials)


def score_test(trial: Trial) -> float:
    """Mean CCC of a trial's network over the test trials, which no search sees."""
    params, manifest = read_params().fusion, load_corpus()
    network = load_networks(networks.place(trial.network))[0]
    sets = dict(params.systems[SYSTEM].modalities)
    sets |= {key[11:]: str(value) for key, value in trial.point.items() if key.startswith("modalities.")}
    bank = Bank.from_stores(open_stores(paths.FEATURES, sets, manifest, network.fold), manifest, network.fold.test)
    agreement = CCC()
    for prediction in predict(network, bank, network.fold.test):
        labels = torch.from_numpy(manifest.trial(prediction.trial_id).labels)
        agreement.update(torch.from_numpy(prediction.values), labels, labels.isfinite())
    return float(agreement.compute().mean())


def measure_time() -> None:
    """Twenty configurations of up to ten epochs."""
    for engine in ("optuna", "ray"):
        outcome, seconds = search(engine, engine=engine, trials=20, epochs=10)
        trials = outcome.trials
        print(
            f"{engine}: 20 trials, {epochs_of(trials)} epochs, {seconds:.0f} s, best CCC {trials[0].ccc:.3f}",
            flush=True,
        )
        forget(outcome)


def compare() -> None:
    """ASHA, random points and TPE with successive halving, each with about the epochs that ASHA had."""
    print(
        "| seed | way | trials | epochs | seconds | best validation CCC | its test CCC |\n|---|---|---|---|---|---|---|"
    )
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in SEEDS:
        budget = 0
        for way, engine, stops in (("ASHA", "ray", True), ("random", "ray", False), ("TPE, halving", "optuna", True)):
            count = 16 if stops else max(1, round(budget / 8))
            grace = 1 if stops else 8
            name = f"{way[:4].strip(',')}{seed}"
            outcome, seconds = search(name, engine=engine, trials=count, epochs=8, grace=grace, seed=1 + seed)
            budget = budget or epochs_of(outcome.trials)
            best = outcome.trials[0]
            test = score_test(best)
            found.setdefault(way, []).append((best.ccc, test))
            cells = (seed, way, count, epochs_of(outcome.trials), f"{seconds:.0f}", f"{best.ccc:.3f}", f"{test:.3f}")
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
            forget(outcome)
    for way, figures in found.items():
        validation, test = zip(*figures, strict=True)
        print(
            f"{way}: validation {mean(validation):.3f} ± {stdev(validation):.3f}, test {mean(test):.3f} ± {stdev(test):.3f}"
        )


def hold(store: FeatureStore, memory_gb: float, line: Connection) -> None:
    """Open features as training does, read every row, and say how much memory they cost this process alone."""
    lengths = dict.fromkeys(store.trial_ids(), FRAMES)
    before = own_memory()
    rows, _ = load_rows("visual", store, lengths, memory_gb > 0)
    for index, name in enumerate(lengths):
        float(rows.trial(name, slice(index * FRAMES, (index + 1) * FRAMES))[:, 0].sum())
    line.send(None)  # the others have theirs now, too
    line.recv()
    line.send(own_memory() - before)
    line.recv()


def own_memory() -> float:
    """Megabytes of this process that no other one shares."""
    fields = dict(each.split(":", 1) for each in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty")) / 1024


def measure_memory() -> None:
    """What 1, 2 and 4 trials side by side need for features of 205 MB, read as searches do and loaded into each."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "visual.zarr"
        recipe = Recipe("synthetic", "visual", 512)
        store = FeatureStore.create(folder, recipe)
        clock = FrameClock(Fraction(25), FRAMES)
        noise = np.random.default_rng(0)
        for index in range(TRIALS):
            rows = noise.normal(size=(FRAMES, 512)).astype(np.float16)
            store.write(f"t{index}", rows, np.ones(FRAMES, bool), source="source", clock=clock)
        print("| trials at once | mapped, MB of their own together | loaded, MB |\n|---|---|---|")
        for count in (1, 2, 4):
            figures = [measure_together(store, count, memory_gb) for memory_gb in (0.0, 8.0)]
            print(f"| {count} | {figures[0]:.0f} | {figures[1]:.0f} |", flush=True)


def measure_together(store: FeatureStore, count: int, memory_gb: float) -> float:
    """Megabytes of their own of some processes that hold the same features at the same time."""
    context = multiprocessing.get_context("spawn")
    lines = [context.Pipe() for _ in range(count)]
    held = [context.Process(target=hold, args=(store, memory_gb, theirs)) for _, theirs in lines]
    for process in held:
        process.start()
    for ours, _ in lines:
        ours.recv()
    for ours, _ in lines:
        ours.send(None)
    total = sum(ours.recv() for ours, _ in lines)
    for ours, _ in lines:
        ours.send(None)
    for process in held:
        process.join()
    return total


def main() -> None:
    """Run what the first argument names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["time", "compare", "memory", "all"])
    what = parser.parse_args().what
    if what in ("time", "all"):
        measure_time()
    if what in ("compare", "all"):
        compare()
    if what in ("memory", "all"):
        measure_memory()


if __name__ == "__main__":
    main()
