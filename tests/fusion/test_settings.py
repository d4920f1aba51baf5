"""Settings of training are in their ranges, and what they name exists."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cache.errors import SettingError
from cache.names import load_named
from cache.targets import KINDS
from fusion.scores.metric import load_metrics
from fusion.settings import ACTIVATIONS, CLASS_WEIGHTINGS, LOSS_KINDS, LOSSES, OPTIMIZERS, SCHEDULES, TrainConfig


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"epochs": 0}, "'epochs' is 0, expected 1 to"),
        ({"window": 16, "hop": 17}, "'hop' is 17, expected 1 to 16"),
        ({"lr": float("nan")}, "'lr' is nan"),
        ({"loss": "windows"}, "'loss' is 'windows', expected one of batch, window"),
        ({"optimizer": "sgd"}, "expected one of adam, adamw"),
        ({"schedule": "step"}, "expected one of constant, cosine, plateau"),
        ({"class_weights": "none"}, "expected one of paper, training"),
        ({"patience": 0}, "'patience' is 0"),
        ({"lambda_ce": -1.0}, "'lambda_ce' is -1.0"),
        ({"plateau_factor": 1.0}, "'plateau_factor' is 1.0"),
        ({"targets": ()}, "at least one name"),
        ({"targets": ("arousal", "arousal")}, "each once"),
    ],
)
def test_ranges(settings, text):
    with pytest.raises(SettingError, match=text):
        TrainConfig(**settings)


def test_every_loss_and_metric_names_a_kind_of_target():
    assert LOSS_KINDS.keys() == LOSSES.keys()
    assert {*LOSS_KINDS.values(), *(metric.kind for metric in load_metrics().values())} <= set(KINDS)


@pytest.mark.parametrize("table", [LOSSES, OPTIMIZERS, SCHEDULES, CLASS_WEIGHTINGS, ACTIVATIONS])
def test_every_named_thing_exists(table):
    for name in table:
        assert callable(load_named("entry", table, name))


def test_reading_settings_needs_no_torch():
    code = "import sys, fusion.settings as s; s.TrainConfig(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
