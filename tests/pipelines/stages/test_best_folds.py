"""The test partition predicted by the best folds, as [Zhang2023, Section 3.4] chose what to submit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.corpus.folds import Fold, save_folds
from cache.corpus.manifest import Manifest
from cache.store.receipt import open_receipt
from fusion.bank.bank import Bank
from fusion.training.checkpoint import load
from fusion.training.inference import predict

SUBMITTED = Path("work/predictions/test/s.npz")
TARGETS = ("valence", "arousal")


@pytest.fixture
def trained(project: Path, run: Callable, edit_params: Callable) -> str:
    """Two folds with the same test trial, two seeds, one network per target; the test trial."""
    manifest = Manifest.load(Path("work/corpus"))
    (held_out,) = [trial.id for trial in manifest.trials if trial.partition == "test"]
    one, other = [trial.id for trial in manifest.trials if trial.id != held_out]
    save_folds(
        [Fold(0, (one,), (other,), (held_out,)), Fold(1, (other,), (one,), (held_out,))], Path("f.json"), manifest
    )
    edit_params(
        lambda params: params["fusion"].update(
            folds={"path": "f.json", "number": -1},
            seeds=[0, 1],
            systems={"s": {"model": "rnn", "modalities": {"audio": "conv1d"}}},
            train={"epochs": 2, "per_target": True},
        )
    )
    assert run("train").exit_code == 0
    return held_out


def expected(count: int, held_out: str) -> np.ndarray:
    """(T, 2) predictions by the best folds."""
    manifest = Manifest.load(Path("work/corpus"))
    bank = Bank.from_stores({"audio": open_receipt("features/receipts/conv1d.json")[0]}, manifest, [held_out])
    networks = [
        [[load(f"work/models/s/fold{fold}/seed{seed}/{target}") for seed in range(2)] for target in TARGETS]
        for fold in range(2)
    ]
    best = [[max(own, key=lambda each: max(each.validation.values())) for own in fold] for fold in networks]
    means = [sum(max(each.validation.values()) for each in fold) for fold in best]
    chosen = sorted(range(2), key=lambda fold: -means[fold])[:count]
    values = [[predict(network, bank, [held_out])[0].values[:, 0] for network in best[fold]] for fold in chosen]
    return np.mean(values, axis=0).T


@pytest.mark.parametrize("count", [1, 2])
def test_each_of_the_best_folds_predicts_by_its_best_seeds(
    run: Callable, edit_params: Callable, trained: str, count: int
) -> None:
    plain = json.loads(run("evaluate", "--json").stdout)[0]
    assert not SUBMITTED.exists()
    edit_params(lambda params: params.update(evaluate={"best_folds": count}))
    document = json.loads(run("evaluate", "--json").stdout)[0]
    (values,) = np.load(SUBMITTED).values()
    assert np.allclose(values, expected(count, trained), atol=1e-6)
    (ensemble,) = np.load("work/predictions/s.npz").values()
    assert (ensemble == values).all()
    before, after = plain["systems"]["s"]["ccc"]["mean"], document["systems"]["s"]["ccc"]["mean"]
    assert before["mean"] == after["mean"]
    assert before["ensemble"] != after["ensemble"]
    edit_params(lambda params: params.update(evaluate={"best_folds": 0}))
    assert json.loads(run("evaluate", "--json").stdout)[0]["systems"] == plain["systems"]
    assert not SUBMITTED.exists(), "that of earlier settings"


def test_a_test_partition_without_labels_is_predicted(
    run: Callable, edit_params: Callable, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest.load(Path("work/corpus"))
    trials = tuple(replace(trial, labels=None) if trial.id == trained else trial for trial in manifest.trials)
    monkeypatch.setattr("pipelines.stages.evaluation.load_corpus", lambda: replace(manifest, trials=trials))
    plain = json.loads(run("evaluate", "--json").stdout)[0]
    edit_params(lambda params: params.update(evaluate={"best_folds": 1}))
    result = run("evaluate", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)[0]
    assert (document["partition"], document["systems"]) == ("validation", plain["systems"])
    (values,) = np.load(SUBMITTED).values()
    assert np.allclose(values, expected(1, trained), atol=1e-6)


def test_folds_that_cannot_be_best_are_refused(run: Callable, edit_params: Callable, trained: str) -> None:
    edit_params(lambda params: params.update(evaluate={"best_folds": 3}))
    assert "evaluate.best_folds is 3, expected at most 2" in run("evaluate").stderr
    manifest = Manifest.load(Path("work/corpus"))
    one, two, three = (trial.id for trial in manifest.trials)
    save_folds([Fold(0, (one,), (two,), (three,)), Fold(1, (two,), (three,), (one,))], Path("f.json"), manifest)
    edit_params(lambda params: params.update(evaluate={"best_folds": 1}))
    assert run("train").exit_code == 0
    result = run("evaluate")
    assert (result.exit_code, "expected folds with the same test trials" in result.stderr) == (1, True)
