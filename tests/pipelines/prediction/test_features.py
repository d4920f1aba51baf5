"""Words of new videos: those beside them, else those that the recipe's recogniser hears, once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from cache.corpus.manifest import Manifest
from cache.errors import SettingError
from cache.recipe import Recipe
from extract.backbones.contract import load_backbone, rebuild
from extract.engine.outcome import Outcome
from extract.faces.settings import CropConfig
from extract.words.transcripts import write_words
from extract.words.words import Word
from pipelines.prediction import features
from pipelines.prediction.features import FeatureMaker
from pipelines.project.loose_media import loose_manifest
from pipelines.stages import transcripts


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "talk.wav"
    soundfile.write(path, np.random.default_rng(1).normal(0, 0.1, 32000), 16000)
    return path


@pytest.fixture
def recipe() -> Recipe:
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'avfusion[text]'")
    return load_backbone("bert", "random").recipe(
        upstream={"words": [{"recogniser": "pocketsphinx", "punctuation": ""}]}
    )


def make(maker: FeatureMaker, sound: Path, recipe: Recipe) -> np.ndarray:
    """Which frames have words."""
    manifest, faults = loose_manifest([sound], None)
    assert not faults
    maker.make(manifest, {recipe.fingerprint: ("text", recipe)}, lambda modality, own: rebuild(own))
    assert not maker.failures, maker.failures
    return maker.open_store(recipe).read("talk").valid


def test_words_are_heard_once_as_for_training(
    sound: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def open_recogniser(name: str) -> object:
        opened.append(name)
        return lambda samples: [Word("well", 0.5, 1.0)]

    monkeypatch.setattr(transcripts, "open_recogniser", open_recogniser)
    for _ in range(2):
        maker = FeatureMaker(tmp_path / "cache")
        found = make(maker, sound, recipe)
        assert np.flatnonzero(found).tolist() == list(range(13, 25))
    assert opened == ["pocketsphinx"]
    assert maker.seen == {recipe.fingerprint: "words"}
    write_words(sound.with_suffix(".json"), [Word("so", 1.0, 2.0)])
    assert np.flatnonzero(make(FeatureMaker(tmp_path / "cache"), sound, recipe)).tolist() == list(range(25, 50))
    assert opened == ["pocketsphinx"]


def test_who_shall_hear_words_is_asked_for(sound: Path, recipe: Recipe, tmp_path: Path) -> None:
    manifest, _ = loose_manifest([sound], None)
    given = replace(recipe, upstream={"words": "given"})
    maker = FeatureMaker(tmp_path / "cache")
    maker.make(manifest, {"": ("text", given)}, lambda modality, own: rebuild(own))
    assert maker.failures["talk"].endswith(
        "has no words, and nobody knows how the model's were recognised. Give --recogniser pocketsphinx, or put a transcript beside it, "
        "such as 'talk.json'."
    )
    vosk = replace(recipe, upstream={"words": [{"recogniser": "vosk:vosk-model-en", "punctuation": ""}]})
    with pytest.raises(SettingError, match="'vosk:vosk-model-en'.*--recogniser vosk:<folder>"):
        FeatureMaker(tmp_path / "cache").make(manifest, {"": ("text", vosk)}, lambda modality, own: rebuild(own))


@pytest.mark.parametrize(
    ("crops", "size", "said"), [("given", 112, True), (CropConfig(size=64).to_document(), 64, False)]
)
def test_crops_are_those_of_the_recipe(
    sound: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    crops: Any,
    size: int,
    said: bool,
) -> None:
    made = []

    def make_crops(manifest: Manifest, config: CropConfig, *others: Any, **how: Any) -> Outcome:
        made.append(config)
        return Outcome(failures={"talk": "no picture"})

    monkeypatch.setattr(features, "make_crops", make_crops)
    manifest, _ = loose_manifest([sound], None)
    manifest = replace(manifest, trials=(replace(manifest.trials[0], media={"video": sound.as_posix()}),))
    recipe = load_backbone("mobilefacenet", "random").recipe(upstream={"crops": crops})
    maker = FeatureMaker(tmp_path / "cache")
    maker.make(manifest, {recipe.fingerprint: ("visual", recipe)}, lambda modality, own: rebuild(own))
    assert [config.size for config in made] == [size]
    assert maker.failures == {"talk": "no picture"}
    assert ("cropped by our own defaults" in capsys.readouterr().err) == said
