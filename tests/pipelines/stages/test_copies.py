"""Copies of a trial in two parts of a fold: said by `corpus check`, refused before anything is fine-tuned."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from cache.clock import FrameClock
from cache.corpus.folds import Fold
from cache.corpus.manifest import Manifest, Trial
from cache.errors import LeakError
from pipelines.training.folds import refuse_copies

Run = Callable[..., Result]
Edit = Callable[[Callable[[dict], None]], None]
CURVE = "valence,arousal\n0.1,0.2\n0.3,0.1\n-0.2,0.4\n"
STILL = "valence,arousal\n0.1,0.2\n0.1,0.2\n0.1,0.2\n"


@pytest.mark.parametrize(
    ("parts", "copies"),
    [
        ((("b",), ("c",), ("a",)), "'b' and 'a'.*'train'.*'test'"),
        ((("c",), ("b",), ("a",)), "'b' and 'a'.*'validation'.*'test'"),
        ((("b",), ("a",), ("c",)), "'b' and 'a'.*'train'.*'validation'"),
        ((("a", "b"), ("c",), ("d",)), ""),
        ((("a",), ("d",), ("e",)), ""),  # these two never vary
    ],
)
def test_a_fold_with_copies_in_two_parts_is_refused(parts: tuple[tuple[str, ...], ...], copies: str) -> None:
    clock, curve = FrameClock(Fraction(5), 5), np.linspace(-1, 1, 10, dtype=np.float32).reshape(5, 2)
    labels = {"a": curve, "b": curve, "c": -curve, "d": curve * 0, "e": curve * 0}
    trials = tuple(Trial(name, name, "", clock, {}, values) for name, values in labels.items())
    train, validate, test = parts
    with pytest.raises(LeakError, match=copies) if copies else nullcontext():
        refuse_copies([Fold(3, train, validate, test)], Manifest(Path(), trials))


def test_copies_in_two_partitions_are_noted_by_a_check(tmp_path: Path, run: Run) -> None:
    trials = {"Train_Set/a": CURVE, "Validation_Set/b": CURVE, "Train_Set/c": STILL, "Validation_Set/d": STILL}
    for name, text in trials.items():
        labels = tmp_path / "6th ABAW Annotations/VA_Estimation_Challenge" / f"{name}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text(text)
        crops = tmp_path / "cropped_aligned" / labels.stem
        crops.mkdir(parents=True)
        (crops / "00001.jpg").touch()
    (document,) = json.loads(run("corpus", "check", tmp_path, "--json").stdout)
    said = [note for note in document["notes"] if "have the same labels" in note]
    assert [("'a' (train)" in note, "'b' (validation)" in note) for note in said] == [(True, True)]


def test_nothing_is_fine_tuned_on_copies_of_what_is_kept_apart(run: Run, project: Path, edit_params: Edit) -> None:
    manifest = Manifest.load(Path("work/corpus"))
    first, *_, last = (trial for trial in manifest.trials if trial.partition in ("train", "validation"))
    copied = replace(last, labels=first.labels, clock=first.clock)
    trials = tuple(copied if trial.id == last.id else trial for trial in manifest.trials)
    replace(manifest, trials=trials).save(Path("work/corpus"))
    edit_params(
        lambda params: params.update(
            finetune={"emotion": {"model": "rnn", "modalities": {"audio": "conv1d"}, "windows": 4}}
        )
    )
    result = run("finetune")
    assert (result.exit_code, f"'{first.id}' and '{last.id}'" in result.output) == (1, True), result.output
    assert not list(Path("work").glob("finetuned/emotion"))
