"""On a CUDA device: batches, training and predictions are those of the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusion.bank.bank import Bank
from fusion.models import MODELS
from fusion.settings import TrainConfig
from fusion.training.checkpoint import load
from fusion.training.inference import predict
from fusion.training.trainer import TrainResult, train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]
TARGETS = ("valence", "arousal")
SMALL = {"channels": (8, 8), "channels_of": {"audio": (8, 8)}}
SETTINGS: dict[str, dict[str, Any]] = {
    "channel_attention": SMALL | {"width": 8},
    "concatenation": {"channels": (8, 8)},
    "cross_modal_attention": {"d_model": 8, "d_ff": 8, "n_layers": 1, "n_heads": 2},
    "joint_cross_attention": {"length": 8, "d_attention": 8},
    "late": SMALL,
    "leader_follower": SMALL | {"modal_dim": 8},
    "linear": {"spans": (1, 5)},
    "recursive_cross_attention": SMALL | {"length": 8},
    "rnn": {"n_layers": 2, "bidirectional": True, "d_hidden": 8},
    "self_attention": {"d_model": 8, "d_ff": 8, "n_layers": 1, "n_heads": 2},
    "tcn": SMALL,
}
CONFIG = TrainConfig(targets=TARGETS, window=8, hop=4, batch_size=4, epochs=2)
TOLERANCE = 1e-3
"""Absolute, of values near [-1, 1]; the devices add in another order."""


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions that round to ten bits would hide what is looked for."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def make_bank(corpus: Any, device: str) -> Bank:
    trial_ids = [trial.id for trial in corpus.manifest.trials]
    return Bank.from_stores(corpus.stores, corpus.manifest, trial_ids, device)


def train_on(corpus: Any, device: str, model: str, config: TrainConfig = CONFIG, **settings: Any) -> TrainResult:
    stores = {"visual": corpus.stores["visual"]} if model == "tcn" else corpus.stores
    chosen = replace(corpus, stores=stores)
    return train(make_bank(chosen, device), corpus.fold, model, {**SETTINGS[model], **settings}, config)


def values_of(result: Any, corpus: Any, device: str, model: str) -> np.ndarray:
    stores = {"visual": corpus.stores["visual"]} if model == "tcn" else corpus.stores
    bank = make_bank(replace(corpus, stores=stores), device)
    return np.concatenate([prediction.values for prediction in predict(result, bank, corpus.fold.validate)])


def test_every_model_is_tried() -> None:
    assert list(SETTINGS) == list(MODELS)


def test_batches_are_those_of_the_cpu(corpus: Any) -> None:
    found, expected = (make_bank(corpus, device) for device in ("cuda", "cpu"))
    assert found.device.type == "cuda"
    trial_ids = ["a", "b", "c"]
    moments = found.measure(trial_ids), expected.measure(trial_ids)
    found, expected = found.normalised(moments[0], trial_ids), expected.normalised(moments[1], trial_ids)
    windows = expected.cut(trial_ids, 16, 8)
    epochs = (bank.batches(windows, 16, 4).epoch(torch.Generator().manual_seed(3)) for bank in (found, expected))
    for mine, wanted in zip(*epochs, strict=True):
        assert mine.windows == wanted.windows
        assert {x.device.type for x in (mine.mask, mine.targets, *mine.embeddings.values())} == {"cuda"}
        torch.testing.assert_close(mine.mask.cpu(), wanted.mask)
        torch.testing.assert_close(mine.targets.cpu(), wanted.targets, equal_nan=True)
        for modality, rows in wanted.embeddings.items():
            torch.testing.assert_close(mine.embeddings[modality].cpu(), rows, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(mine.valid[modality].cpu(), wanted.valid[modality])


@pytest.mark.parametrize("model", MODELS)
def test_what_cuda_trained_predicts_the_same_on_the_cpu(corpus: Any, tmp_path: Path, model: str) -> None:
    result = train_on(corpus, "cuda", model)
    assert all(np.isfinite(record.loss) for record in result.history)
    result.checkpoint.save(tmp_path / "run")
    found = values_of(result.checkpoint, corpus, "cuda", model)
    loaded = load(tmp_path / "run")
    np.testing.assert_allclose(values_of(loaded, corpus, "cpu", model), found, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(values_of(loaded, corpus, "cuda", model), found, rtol=0, atol=TOLERANCE)
    assert np.ptp(found, axis=0).min() > 10 * TOLERANCE


@pytest.mark.parametrize(
    "case",
    [
        {"model": "linear"},
        {"model": "rnn", "dropout": 0.0},
        {"model": "concatenation", "dropout": 0.0},
        {"model": "self_attention", "dropout": 0.0},
    ],
    ids=lambda case: case["model"],
)
def test_without_dropout_training_goes_the_way_of_the_cpu(corpus: Any, case: dict[str, Any]) -> None:
    found, expected = (train_on(corpus, device, **case) for device in ("cuda", "cpu"))
    assert [record.loss for record in found.history] == pytest.approx(
        [record.loss for record in expected.history], abs=TOLERANCE
    )
    assert found.history[-1].validation == pytest.approx(expected.history[-1].validation, abs=10 * TOLERANCE)


@pytest.mark.parametrize("loss", ["batch", "window"])
def test_every_loss_goes_the_way_of_the_cpu(corpus: Any, loss: str) -> None:
    """With classes and their weights, which are counted from the labels."""
    config = replace(CONFIG, loss=loss, lambda_mse=0.5, lambda_ce=0.5, class_weights="training", epochs=1)
    found, expected = (train_on(corpus, device, "rnn", config, dropout=0.0) for device in ("cuda", "cpu"))
    assert found.history[0].loss == pytest.approx(expected.history[0].loss, abs=TOLERANCE)
