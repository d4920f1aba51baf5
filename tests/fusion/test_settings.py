"""Settings are checked by name, type and range, all faults at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cache.errors import SettingError, UnknownNameError
from cache.names import load_named
from fusion.settings import CLASS_WEIGHTINGS, LOSSES, OPTIMIZERS, SCHEDULES, TrainConfig, configure


def test_plain_values_become_settings():
    config = configure("training", TrainConfig, {"lr": 1, "targets": ["arousal"], "lambda_ce": 0})
    assert config == TrainConfig(lr=1.0, targets=("arousal",), lambda_ce=0.0)


def test_what_may_be_left_open_is_none_or_of_its_type():
    assert configure("training", TrainConfig, {"lambda_ce": None, "patience": 3}) == TrainConfig(patience=3)
    assert configure("training", TrainConfig, {"lambda_ce": 1}).lambda_ce == 1.0
    with pytest.raises(SettingError, match="'lambda_ce' is 'no', expected float | None"):
        configure("training", TrainConfig, {"lambda_ce": "no"})


def test_all_faults_at_once():
    with pytest.raises(SettingError) as caught:
        configure("training", TrainConfig, {"epcohs": 3, "lr": "2e-4", "window": True, "targets": "arousal"})
    for text in (
        "'epcohs' is unknown",
        "'lr' is '2e-4', expected float",
        "'window' is True",
        "'targets' is 'arousal'",
        "restart_steps",
    ):
        assert text in str(caught.value)


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


def test_targets_must_be_labelled():
    with pytest.raises(UnknownNameError, match="Unknown target 'arousal'"):
        TrainConfig().check_targets(("valence",))


@pytest.mark.parametrize("table", [LOSSES, OPTIMIZERS, SCHEDULES, CLASS_WEIGHTINGS])
def test_every_named_thing_exists(table):
    for name in table:
        assert callable(load_named("entry", table, name))


def test_reading_settings_needs_no_torch():
    code = "import sys, fusion.settings as s; s.TrainConfig(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
