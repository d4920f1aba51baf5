"""Fingerprints: every fact that changes what is computed changes them, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cache.documents.documents import RecipePart, check_document
from cache.errors import SettingError
from cache.recipe import Provenance, Recipe, Seen, canonical_json, compare

RECIPE = Recipe("facenet", "visual", 512, {"size": 160, "mean": [0.5, 0.5]}, "ab12", 1)


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
        {"upstream": {"crops": {"size": 112}}},
        {"upstream": {}},
        {"input": {"kind": "images", "version": 1}},
    ],
)
def test_every_field_counts(change: dict) -> None:
    assert replace(RECIPE, **change).fingerprint != RECIPE.fingerprint


def test_order_of_settings_does_not_count() -> None:
    assert replace(RECIPE, settings={"mean": [0.5, 0.5], "size": 160}).fingerprint == RECIPE.fingerprint
    assert check_document(RECIPE.to_document(), RecipePart).recipe == RECIPE


def test_the_fingerprint_is_pinned() -> None:
    """A change here orphans every store in the world."""
    assert RECIPE.fingerprint == "54ab15caac916a6a57688b6e85dd617b49c1404a7d6861aef44af96d0f2552b3"


def test_provenance_travels_and_does_not_count() -> None:
    known = Provenance(
        "vggface2",
        "https://example.org/w.pt",
        "MIT",
        ("ab",),
        (Seen("t1"), Seen("t2", "l", "m")),
        {"variant": ""},
        ("AU01",),
    )
    recipe = replace(RECIPE, provenance=known)
    assert recipe.fingerprint == RECIPE.fingerprint
    found = check_document(json.loads(json.dumps(recipe.to_document())), RecipePart).recipe
    assert (found, found.provenance) == (recipe, known)
    edited = recipe.to_document()
    edited["provenance"]["trials"] = [["t3", "", ""]]
    with pytest.raises(ValueError, match="its digest"):
        check_document(edited, RecipePart)


def test_differences_are_named() -> None:
    first, second = (replace(RECIPE, upstream={"crops": {"size": size, "quality": 95}}) for size in (112, 96))
    assert compare(first, second) == {"upstream.crops.size": (112, 96)}
    assert compare(RECIPE, RECIPE) == {}


def test_canonical_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


@pytest.mark.parametrize("change", [{"modality": "../video"}, {"modality": ""}, {"dtype": "float64"}, {"dim": 0}])
def test_impossible_recipes_are_refused(change: dict) -> None:
    with pytest.raises(SettingError, match=f"'{next(iter(change.values()))}'|and 0 dim"):
        replace(RECIPE, **change)


def test_kinds_of_input_are_open() -> None:
    assert replace(RECIPE, modality="pose").modality == "pose"
