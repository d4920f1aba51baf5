"""The windows of predictions: chosen on the validation trials, kept in the checkpoint, changed without training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fusion.training.trainer
from cache.errors import SettingError
from fusion.settings import TrainConfig
from fusion.training.checkpoint import load
from fusion.training.inference import predict, run_model
from fusion.training.reading import Reading, choose_reading, list_readings
from fusion.training.trainer import train
from pipelines.project.params import EvaluateParams

QUICK = TrainConfig(epochs=2, batch_size=4, window=8, hop=8, lr=0.01, restart_steps=50)
SMALL = {"d_model": 8, "d_hidden": 8}


def test_readings_are_that_of_training_overlapping_ones_and_longer_ones():
    config = TrainConfig(window=16, hop=8)
    found = [(each.window, each.hop) for each in list_readings(config, 500, fixed=False)]
    assert found == [(16, 8), (16, 4), (64, 16), (256, 64), (500, 125)]
    assert list_readings(config, 40, fixed=False)[2:] == [Reading(40, 10)], "none longer than a validation trial"
    assert max(each.window for each in list_readings(config, 10**6, fixed=False)) == 4096, "memory"
    assert list_readings(config, 10, fixed=False) == list_readings(config, 500, fixed=True)
    assert list_readings(replace(config, window=2, hop=2), 500, fixed=True) == [Reading(2, 2), Reading(2, 1)]


@pytest.mark.parametrize(
    ("scores", "expected"), [((0.5, 0.7, 0.6), 1), ((0.5, 0.5 + 1e-7, 0.4), 0), ((0.5, float("nan"), 0.6), 2)]
)
def test_the_best_reading_is_kept_and_ties_keep_that_of_training(scores, expected):
    readings = [Reading(4, hop) for hop in (1, 2, 3)]
    assert choose_reading(readings, scores[0], lambda each: scores[readings.index(each)]) == readings[expected]


def test_longer_windows_need_no_more_memory_and_none_is_longer_than_its_trials():
    config = TrainConfig(window=16, batch_size=64)
    assert Reading(16, 4).within(config, 10) == (16, 4, 64), "windows of training stay as they are"
    assert Reading(256, 64).within(config, 1000) == (256, 64, 4)
    assert Reading(4096, 1024).within(config, 300) == (300, 300, 3)
    assert Reading(4096, 1024).within(replace(config, masked=False), 300) == (4096, 1024, 1), "padding is input"


def test_training_keeps_the_windows_that_are_best_on_validation_trials(corpus, monkeypatch, tmp_path):
    tried = []
    own = fusion.training.trainer.validate

    def validate(model, bank, fold, config, padding=None, reading=None):
        if reading is None:
            return own(model, bank, fold, config, padding)
        tried.append(reading)
        return dict.fromkeys(config.targets, 0.99 if reading == Reading(32, 8) else 0.98)

    monkeypatch.setattr(fusion.training.trainer, "validate", validate)
    result = train(corpus.bank(), corpus.fold, "rnn", SMALL, QUICK)
    assert tried == [Reading(8, 2), Reading(32, 8), Reading(37, 9)]
    assert result.checkpoint.windows == Reading(32, 8)
    assert result.checkpoint.validation == result.history[result.best_epoch].validation, "epochs are chosen as before"
    result.checkpoint.save(tmp_path / "run")
    assert load(tmp_path / "run").windows == Reading(32, 8)


def test_models_of_fixed_length_only_overlap(corpus):
    result = train(corpus.bank(), corpus.fold, "joint_cross_attention", {"length": 8}, QUICK)
    assert result.checkpoint.windows.window == 8
    assert result.checkpoint.answering(64, 2).windows == Reading(8, 2)


def test_predictions_are_made_in_the_windows_of_the_checkpoint(corpus):
    bank = corpus.bank()
    trained = train(bank, corpus.fold, "rnn", SMALL, QUICK).checkpoint

    def by_hand(window: int, hop: int) -> np.ndarray:
        return run_model(trained.model, bank.normalised(trained.moments, ["d"]), ["d"], window, hop, 4)[0].values

    chosen = replace(trained, reading=Reading(16, 4))
    found = {
        asked: predict(chosen.answering(*asked), bank, ["d"])[0].values
        for asked in (("auto", "auto"), ("train", "auto"), ("auto", 8), (12, "auto"), (12, 5), ("train", 2))
    }
    windows = [(16, 4), (8, 8), (16, 8), (12, 3), (12, 5), (8, 2)]
    for (asked, values), (window, hop) in zip(found.items(), windows, strict=True):
        np.testing.assert_allclose(values, by_hand(window, hop), atol=1e-6, err_msg=str(asked))
    assert np.abs(found["auto", "auto"] - found["train", "auto"]).max() > 1e-3
    for window, hop, own in (("auto", 17, 16), ("train", 9, 8), (12, 5000, 12)):
        with pytest.raises(
            SettingError, match=f"hop is {hop}, expected 1 to {own}, the window of a network: frames between"
        ):
            chosen.answering(window, hop)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"window": "trian"}, "window"),
        ({"window": 0}, "window"),
        ({"hop": "train"}, "hop"),
        ({"window": 4, "hop": 5}, "hop"),
    ],
)
def test_settings_of_windows_are_checked(values, key):
    with pytest.raises(SettingError, match="expected 1 to") as refused:
        EvaluateParams(**values)
    assert list(refused.value.faults) == [key]
    assert str(values[key]) in str(refused.value)
