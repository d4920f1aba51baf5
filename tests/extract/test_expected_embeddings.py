"""What backbones compute today, to a tolerance: a change has to raise the number that tells old features from new ones.

WRITE_EXPECTED=1 python -m pytest tests/extract/test_expected_embeddings.py     # after raising it
"""

from __future__ import annotations

import json
import os
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from extract.backbones import BACKBONES
from extract.backbones.contract import Backbone, load_backbone
from extract.inputs.contract import open_source
from extract.words.transcripts import write_words
from extract.words.words import Word

TABLE = Path(__file__).parents[1] / "data" / "expected_embeddings.json"
NUM_FRAMES = 50
SHOWN = 6  # numbers of each of two frames
TOLERANCE = 2e-3  # of the greatest number; processors differ in the last bits


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A trial of two seconds with drawn crops, a rising tone and four words."""
    folder = tmp_path_factory.mktemp("expected")
    (folder / "crops").mkdir()
    rows, columns = np.mgrid[0:112, 0:112]
    for frame in range(NUM_FRAMES):
        waves = [np.sin((rows * (1 + c) + columns * (3 - c) + 5 * frame) / 17) for c in range(3)]
        picture = (127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)
        Image.fromarray(picture).save(folder / "crops" / f"{frame + 1:05d}.png")
    moments = np.arange(2 * 16_000) / 16_000
    with wave.open(str(folder / "tone.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((12_000 * np.sin(2 * np.pi * (200 + 300 * moments) * moments)).astype("<i2").tobytes())
    write_words(
        folder / "words.json", [Word(w, i / 2, (i + 1) / 2) for i, w in enumerate(["what", "a", "happy", "day."])]
    )
    media = {"crops": "crops", "audio": "tone.wav", "words": "words.json"}
    return Manifest(folder, (Trial("a", "a", "", FrameClock(Fraction(25), NUM_FRAMES), media),))


def compute(backbone: Backbone, manifest: Manifest) -> list[list[float]]:
    """The first numbers of a frame near the start and of one near the end."""
    source = open_source(backbone.input, manifest, manifest.trials[0], None)
    alignment = source.load()
    items = np.searchsorted(alignment.starts, alignment.first[[10, 40]], side="right") - 1
    rows = alignment.rows_of(items)
    found = backbone.embed(torch.from_numpy(source.read(items))).numpy().astype(np.float64)
    places = [int(np.flatnonzero(rows == alignment.first[frame])[0]) for frame in (10, 40)]
    return [[float(f"{value:.5g}") for value in row[:SHOWN]] for row in found[places]]


@pytest.mark.parametrize("name", BACKBONES)
def test_a_change_of_what_is_computed_has_its_number(name: str, manifest: Manifest) -> None:
    backbone = load_backbone(name, "random")
    found = compute(backbone, manifest)
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    numbers = {"algorithm": backbone.algorithm, "input_version": backbone.input.version}
    if os.environ.get("WRITE_EXPECTED"):
        table[name] = {**numbers, "embeddings": found}
        TABLE.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n", encoding="utf-8")
    known = table[name]
    expected = np.array(known["embeddings"])
    same = np.abs(np.array(found) - expected).max() <= TOLERANCE * np.abs(expected).max()
    again = f"Then write the table again: WRITE_EXPECTED=1 python -m pytest {Path(__file__).name}"
    assert same, (
        f"'{name}' computes {found}, expected {known['embeddings']}: features from before would be mixed with new ones. Raise "
        f"`algorithm` in {type(backbone).__module__}, or `version` in {type(backbone.input).__module__}. {again}"
    )
    assert {key: known[key] for key in numbers} == numbers, f"The numbers of '{name}' were raised. {again}"


def test_frames_differ() -> None:
    for name, known in json.loads(TABLE.read_text(encoding="utf-8")).items():
        first, second = np.array(known["embeddings"])
        assert np.abs(first - second).max() > 5 * TOLERANCE * np.abs(first).max(), name
