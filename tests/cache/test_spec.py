"""Fingerprints: every fact that changes what is computed changes them, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cache.errors import SettingError
from cache.spec import FeatureSpec, canonical_json

SPEC = FeatureSpec("facenet", "visual", 512, {"size": 160, "mean": [0.5, 0.5]}, "ab12", 1)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "facenet2"},
        {"modality": "audio"},
        {"dim": 128},
        {"settings": {"size": 161, "mean": [0.5, 0.5]}},
        {"weights_sha256": "ab13"},
        {"algorithm": 2},
        {"dtype": "float32"},
    ],
)
def test_every_field_counts(change: dict) -> None:
    assert replace(SPEC, **change).fingerprint != SPEC.fingerprint


def test_order_of_settings_does_not_count() -> None:
    assert replace(SPEC, settings={"mean": [0.5, 0.5], "size": 160}).fingerprint == SPEC.fingerprint
    assert FeatureSpec.from_document(SPEC.to_document()).fingerprint == SPEC.fingerprint


def test_the_fingerprint_is_pinned() -> None:
    """A change here orphans every store in the world."""
    assert SPEC.fingerprint == "54ab15caac916a6a57688b6e85dd617b49c1404a7d6861aef44af96d0f2552b3"


def test_canonical_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


@pytest.mark.parametrize("change", [{"modality": "video"}, {"dtype": "float64"}, {"dim": 0}])
def test_impossible_recipes_are_refused(change: dict) -> None:
    with pytest.raises(SettingError, match="expected one of audio, text, visual"):
        replace(SPEC, **change)
