"""How commands grow with the number of trials, on metadata alone: empty media, features of two frames, networks of nothing.

`python -m benchmarks.scaling` fits the exponent of the processor time of each step at four sizes in one run (1 is linear), with the peak
memory of each size; `--sizes 200000` shows the seconds of one size, `--dvc` adds `dvc status` in a Git repository of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from click.testing import CliRunner

from cache.clock import FrameClock
from cache.corpus.folds import Fold, load_folds, make_folds, save_folds
from cache.corpus.manifest import Manifest, Trial
from cache.recipe import Recipe
from cache.store.feature_sets import locate_set
from cache.store.receipt import Receipt, ReceiptEntry, open_receipt
from cache.store.store import FeatureStore
from pipelines.cli.commands import avfusion
from pipelines.finished.extraction import watch_sets
from pipelines.project import paths
from pipelines.project.code_digest import digest_code
from pipelines.project.params_file import read_params
from pipelines.project.runs import ROOT, Digests, Job
from pipelines.stages.plan import plan_stages
from pipelines.training.features import open_stores
from pipelines.training.folds import refuse_leaks

SIZES = (2000, 4000, 8000, 16000)
FRAMES = 2
NAME = "conv1d"
RECIPE = Recipe(NAME, "audio", 4)
PARAMS = {
    "corpus": {"name": "folder", "root": "media"},
    "extract": {NAME: {"weights": "random"}},
    "fusion": {"seeds": [0], "systems": {"audio": {"model": "rnn", "modalities": {"audio": NAME}}}},
}


Step = Callable[..., Any]
"""Name of a step, the work, and how often it is done; the fastest counts."""


def make_manifest(count: int) -> Manifest:
    """Trials of four subjects in a hundred, labelled."""
    noise = np.random.default_rng(0).uniform(-1, 1, (count, FRAMES, 2)).astype(np.float32)
    clock = FrameClock(Fraction(25), FRAMES)
    trials = [
        Trial(
            f"trial{i:07d}", f"s{i // 25}", "", clock, {"video": f"trial{i:07d}.mp4", "audio": f"trial{i:07d}.mp4"}, own
        )
        for i, own in enumerate(noise)
    ]
    return Manifest(Path("media"), tuple(trials))


def make_media(manifest: Manifest) -> None:
    """Empty files."""
    Path("media").mkdir()
    for trial in manifest.trials:
        (Path("media") / trial.media["video"]).touch()


def make_store(manifest: Manifest) -> FeatureStore:
    """Features as extraction writes them, except that the disk is not waited for."""
    sync, os.fsync = os.fsync, lambda descriptor: None
    try:
        store = FeatureStore.create(locate_set(paths.FEATURES, NAME).store, RECIPE)
        rows, valid = np.ones((FRAMES, 4), np.float16), np.ones(FRAMES, bool)
        for trial in manifest.trials:
            store.write(trial.id, rows, valid, source="0" * 64, clock=trial.clock)
    finally:
        os.fsync = sync
    return store


def call(*arguments: str) -> None:
    """A command in this process."""
    result = CliRunner().invoke(avfusion, arguments)
    assert result.exit_code == 0, result.output


def measure(count: int, dvc: bool, with_store: bool) -> dict[str, float]:
    """Seconds of processor time of each step with so many trials, and the peak memory in MB; run in an empty folder."""
    found: dict[str, float] = {}

    def step(name: str, work: Callable[[], Any], times: int = 3) -> Any:
        for _ in range(times):
            began = time.process_time()
            result = work()
            found[name] = min(found.get(name, 1e9), time.process_time() - began)
        print(f"{count} {name}: {found[name]:.3f} s", file=sys.stderr, flush=True)
        return result

    paths.PARAMS.write_text(yaml.safe_dump(PARAMS), encoding="utf-8")
    make_folds(make_manifest(200), "stratified", 6)  # imports scikit-learn
    digest_code(("fusion.models.rnn", "fusion.training.trainer"), ROOT)
    manifest = make_manifest(count)
    make_media(manifest)
    receipt = locate_set(paths.FEATURES, NAME).receipt
    step("Manifest.save", lambda: manifest.save(paths.CORPUS))
    manifest = step("Manifest.load", lambda: Manifest.load(paths.CORPUS))
    folds = step("six grouped folds", lambda: make_folds(manifest, "grouped", 6))
    step("six stratified folds", lambda: make_folds(manifest, "stratified", 6))
    step("saving folds", lambda: save_folds(folds, Path("folds.json"), manifest))
    step("loading folds", lambda: load_folds(Path("folds.json"), manifest))
    step("`avfusion plan`, the first", lambda: plan_stages(read_params()), 1)
    step("`avfusion plan`, nothing changed", lambda: plan_stages(read_params()))
    entries = {trial.id: ReceiptEntry("0" * 64, "1" * 37, FRAMES) for trial in manifest.trials}
    step("saving a receipt", lambda: Receipt(RECIPE, entries).save(receipt))
    step("loading it", lambda: Receipt.load(receipt))
    if with_store:
        measure_store(manifest, folds, step)
    found["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if with_store:
        measure_bank(manifest, step)
    if dvc:
        measure_dvc(found)
    return found


def measure_store(manifest: Manifest, folds: Sequence[Fold], step: Step) -> None:
    """What reads the records of a store."""
    receipt = locate_set(paths.FEATURES, NAME).receipt
    store = step("writing the store, without waiting for the disk", lambda: make_store(manifest), 1)
    made = step("making its receipt", lambda: Receipt.of(store, [trial.id for trial in manifest.trials]), 1)
    made.save(receipt)
    step("opening a receipt's store, checked", lambda: open_receipt(receipt), 1)
    step("`avfusion cache ls`", lambda: call("cache", "ls"), 1)
    params = read_params()
    watch = step("watching an extraction", lambda: watch_sets(params, [NAME], str(paths.FEATURES), "fp32"))[NAME]
    watch.keep([{"features": NAME}])
    step("an extraction with nothing to do", lambda: watch_sets(params, [NAME], "features", "fp32")[NAME].rows())
    systems = params.fusion.systems
    step("looking for leaks in six folds", lambda: refuse_leaks(systems, folds, manifest, paths.FEATURES))
    digests = Digests(params.fusion, manifest, lambda names, fold: open_stores(paths.FEATURES, names, manifest, fold))
    job = Job("audio", systems["audio"], folds[0], replace(systems["audio"].train, seed=0))
    step("digest of a network", lambda: digests(job), 1)


def measure_bank(manifest: Manifest, step: Step) -> None:
    """Loading all features; after the memory was read, as torch alone needs hundreds of megabytes."""
    from fusion.bank.bank import Bank

    store = open_receipt(locate_set(paths.FEATURES, NAME).receipt)[0]
    names = [trial.id for trial in manifest.trials]
    bank = step(
        "`Bank.from_stores`, every byte checked", lambda: Bank.from_stores({"audio": store}, manifest, names), 1
    )
    step("cutting windows, and their batches", lambda: bank.batches(bank.cut(names, 2, 2), 2, 64))


def measure_dvc(found: dict[str, float]) -> None:
    """`dvc status` of a stage whose output is the store."""
    stage = {"cmd": "true", "deps": ["work/corpus"], "outs": [{f"features/{NAME}.zarr": {"persist": True}}]}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"extract": stage}}), encoding="utf-8")
    quiet = {"capture_output": True, "check": True}
    subprocess.run(["git", "init", "-q"], **quiet)  # type: ignore[call-overload]
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], **quiet)  # type: ignore[call-overload]
    for name, command in (("`dvc commit` of the store", ("commit", "-f")), ("`dvc status`", ("status",))):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "dvc", *command], **quiet)  # type: ignore[call-overload]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found[name] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found["peak memory of dvc, MB"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def measure_alone(count: int, options: Sequence[str], folder: Path) -> dict[str, float]:
    """The same in a process and a folder of its own."""
    command = [sys.executable, "-m", "benchmarks.scaling", "--sizes", str(count), "--alone", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        done = subprocess.run(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--dvc", action="store_true")
    parser.add_argument("--without-store", action="store_true", help="leave out what needs files of features")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.alone:
        print(json.dumps(measure(chosen.sizes[0], chosen.dvc, not chosen.without_store)))
        return
    options = ["--dvc"] * chosen.dvc + ["--without-store"] * chosen.without_store
    found = [measure_alone(count, options, chosen.folder) for count in chosen.sizes]
    exponent = len(found) > 1
    print(f"| step | {' | '.join(f'{count:,}' for count in chosen.sizes)} |{' exponent |' * exponent}")
    print(f"|---|{'---|' * (len(found) + exponent)}")
    for name in found[0]:
        figures = [each[name] for each in found]
        cells = [f"{figure:.0f}" if name.endswith("MB") else f"{figure:.2f}" for figure in figures]
        if exponent:
            slope = np.polyfit(np.log(chosen.sizes), np.log(np.maximum(figures, 1e-4)), 1)[0]
            cells.append(f"{slope:.2f}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
