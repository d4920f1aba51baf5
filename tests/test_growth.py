"""Nothing that is done for each trial looks at all trials: twice the trials take about twice the operations, never four times."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scaling import NAME, call, make_manifest, make_media, make_store
from cache.corpus.folds import load_folds, make_folds, save_folds
from cache.corpus.manifest import Manifest
from cache.places import folders
from cache.places.folders import LocalFolder
from cache.store.feature_sets import locate_set
from cache.store.receipt import Receipt, open_receipt
from extract.engine.outcome import Outcome
from pipelines.finished.state import Watch
from pipelines.project import paths
from pipelines.stages import crops

SIZES = (100, 200, 400)


def operations(work: Callable[[], Any]) -> int:
    """Calls of functions, those written in C too, and steps of generators."""
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def load(manifest: Manifest) -> None:
    for trial in Manifest.load(paths.CORPUS).trials:
        manifest.trial(trial.id)


def divide(manifest: Manifest) -> None:
    folds = make_folds(manifest, "grouped", 2)
    save_folds(folds, Path("folds.json"), manifest)
    load_folds(Path("folds.json"), manifest)


def receive(manifest: Manifest) -> None:
    path = locate_set(paths.FEATURES, NAME).receipt
    Receipt.of(make_store(manifest), [trial.id for trial in manifest.trials]).save(path)
    open_receipt(path)


def bank(manifest: Manifest) -> None:
    from fusion.bank.bank import Bank

    names = [trial.id for trial in manifest.trials]
    whole = Bank.from_stores({"audio": make_store(manifest)}, manifest, names)
    whole.batches(whole.cut(names, 2, 2), 2, 64)


def listing(manifest: Manifest) -> None:
    make_store(manifest)
    call("cache", "ls")


def watch(manifest: Manifest) -> None:
    make_media(manifest)
    Watch("crops", {}, [Path("media")], []).keep([{"kept": 1}])


@pytest.mark.parametrize("step", [load, divide, receive, bank, listing, watch], ids=lambda step: step.__name__)
def test_operations_grow_with_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Callable[[Manifest], None]
) -> None:
    counts = []
    for size in (50, *SIZES):  # the first imports what is needed
        (tmp_path / str(size)).mkdir()
        monkeypatch.chdir(tmp_path / str(size))
        manifest = make_manifest(size)
        manifest.save(paths.CORPUS)
        counts.append(operations(lambda: step(manifest)))  # noqa: B023
    _, small, middle, large = counts
    assert large - middle < 2.5 * (middle - small)


def test_a_folder_is_looked_through_once_for_all_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(folders.os, "scandir", lambda place, scan=os.scandir: looks.append(place) or scan(place))
    monkeypatch.setattr(Path, "glob", lambda *_: pytest.fail("a look at the whole folder"))
    for index in range(20):
        LocalFolder(tmp_path).write(f"{index}.csv", b"content")
    assert looks == [tmp_path]


def test_shared_crops_are_joined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each join goes through all trials."""
    joins = []
    monkeypatch.setattr(Outcome, "add", lambda *_: pytest.fail("a join for each trial"))
    join = crops.join_outcomes
    monkeypatch.setattr(crops, "join_outcomes", lambda found: joins.append(1) or join(found))
    monkeypatch.setattr(crops, "run_jobs", lambda jobs, *_: [Outcome([job]) for job in jobs])
    made = crops._share(None, [str(index) for index in range(50)], 2, lambda frames, note: None)  # type: ignore[arg-type]
    assert (len(made.computed), joins) == (50, [1])
