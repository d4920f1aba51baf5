"""Every model of the table through the trainer, a checkpoint and prediction, on the small corpus."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.models import MODELS
from fusion.settings import TrainConfig
from fusion.training.checkpoint import load
from fusion.training.inference import predict
from fusion.training.trainer import train

WINDOW = 10  # longer than trial 'c', so that a padded window is among them
LENGTH = {"joint_cross_attention": {"length": WINDOW}, "recursive_cross_attention": {"length": WINDOW}}
NARROW = {"channels": (8,), "channels_of": {"audio": (4,)}}
SETTINGS = {
    "channel_attention": NARROW,
    "concatenation": {"channels": (8,)},
    "late": NARROW,
    "leader_follower": NARROW,
    "recursive_cross_attention": NARROW,
    "tcn": NARROW,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_trained_saved_and_used(name, corpus, tmp_path):
    config = TrainConfig(epochs=1, batch_size=4, window=WINDOW, hop=7, lambda_ce=0.0, lr=1e-3)
    settings = {**SETTINGS.get(name, {}), **LENGTH.get(name, {})}
    result = train(corpus.bank(), corpus.fold, name, settings, config)
    result.checkpoint.save(tmp_path / "model")
    before = predict(result.checkpoint, corpus.bank())
    after = predict(load(tmp_path / "model"), corpus.bank())
    for old, new in zip(before, after, strict=True):
        assert np.isfinite(old.values).all()
        np.testing.assert_array_equal(old.values, new.values)
