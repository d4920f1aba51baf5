"""The recipe holds the whole chain: other crops are other features, and a checkpoint rebuilds what it was trained on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from cache.corpus.manifest import Manifest
from cache.errors import FingerprintError, WeightsError
from cache.store.feature_sets import find_set
from cache.store.receipt import Receipt, open_receipt
from cache.store.store import FeatureStore, fingerprints
from extract.backbones.contract import rebuild
from extract.faces.settings import CropConfig
from extract.inputs.sentences import SentenceInput
from extract.inputs.wordpieces import Speller
from extract.words.transcripts import write_words
from extract.words.words import Word
from fusion.bank.bank import Bank
from fusion.training import inference
from fusion.training.checkpoint import load
from pipelines import predict

ROOT = Path(__file__).parents[2]
OLD = ROOT / "tests" / "data" / "store_v1"
RECEIPT = Path("features/receipts/mobilefacenet.json")
Run = Callable[..., Result]


def extract(run: Run) -> str:
    result = run("extract", "--backbone", "mobilefacenet", "--json")
    assert result.exit_code == 0, result.output
    return result.stdout


def test_back_to_earlier_crops_extracts_nothing(project: Path, run: Run, edit_params: Callable) -> None:
    first = RECEIPT.read_bytes()
    edit_params(lambda params: params["crops"].update(quality=80))
    result = run("extract", "--backbone", "mobilefacenet", "--json")
    assert '"computed": 3' in result.stdout
    assert "'mobilefacenet' with another recipe, which are kept" in result.stderr
    assert "upstream.crops.quality: 95, now 80" in result.stderr
    assert len(fingerprints("features/mobilefacenet.zarr")) == 2
    edit_params(lambda params: params["crops"].update(quality=95))
    assert '"computed": 0' in extract(run)
    assert RECEIPT.read_bytes() == first


def test_features_of_an_older_program_are_read_and_computed_again(project: Path, run: Run) -> None:
    shutil.rmtree("features/mobilefacenet.zarr")
    RECEIPT.unlink()
    shutil.copytree(OLD / "visual", "features/visual")
    old, _ = open_receipt(find_set("features", "mobilefacenet").receipt)
    assert old.recipe.upstream is None
    result = run("extract", "--backbone", "mobilefacenet", "--json")
    assert '"computed": 3' in result.stdout
    assert "how faces were cropped" in result.stderr
    assert len(FeatureStore("features/visual/mobilefacenet.zarr", old.recipe.fingerprint).trial_ids()) == 2
    assert find_set("features", "mobilefacenet").receipt == RECEIPT


def test_the_recipe_lies_in_store_receipt_and_checkpoint(project: Path, run: Run) -> None:
    assert run("train", "--system", "visual").exit_code == 0
    recipe = Receipt.load(RECEIPT).recipe
    assert recipe.upstream is not None
    assert recipe.upstream["crops"]["size"] == 112
    assert recipe.input == {"kind": "images", "version": 1}
    assert (recipe.provenance.weights, recipe.provenance.config) == (
        "random:2022",
        {"variant": "", "colour": "", "missing": "skip"},
    )
    store = FeatureStore("features/mobilefacenet.zarr", recipe.fingerprint)
    checkpoint = load("work/models/visual/fold0/seed0")
    assert checkpoint.recipes == {"visual": recipe}
    assert store.recipe.provenance == checkpoint.recipes["visual"].provenance == recipe.provenance


def test_a_checkpoint_alone_rebuilds_crops_features_and_prediction(project: Path, run: Run, tmp_path: Path) -> None:
    assert run("train", "--system", "fused").exit_code == 0
    manifest = Manifest.load(Path("work/corpus"))
    trial = manifest.trials[1]  # with a label for each picture
    stores = {
        modality: open_receipt(Path(f"features/receipts/{name}.json"))[0]
        for modality, name in (("visual", "mobilefacenet"), ("audio", "conv1d"))
    }
    folder = Path("work/models/fused/fold0/seed0")
    expected = inference.predict(load(folder), Bank.from_stores(stores, manifest, [trial.id]))[0]
    shutil.copytree(folder, tmp_path / "handed on")
    shutil.rmtree("features")
    shutil.rmtree("work/crops")

    found = predict(manifest.path(trial, "video"), tmp_path / "handed on")
    assert np.abs(found["valence"]).max() > 0.001
    for column, target in enumerate(expected.targets):
        np.testing.assert_array_equal(found[target], expected.values[:, column])


def test_weights_that_are_not_there_are_named(project: Path, tmp_path: Path) -> None:
    recipe = Receipt.load(RECEIPT).recipe
    about = replace(recipe.provenance, weights="face.pt", origin="https://example.org/face.pt")
    ours = replace(recipe, weights_sha256="ab" * 32, provenance=about)
    with pytest.raises(WeightsError, match=r"'face.pt' \(sha256 abababababab…, https://example.org/face.pt\)"):
        rebuild(ours)
    with pytest.raises(WeightsError, match="have sha256 'random:2022…', expected 'face.pt'"):
        rebuild(ours, "random")
    with pytest.raises(FingerprintError, match="algorithm: 99, now "):
        rebuild(replace(recipe, algorithm=99))


def test_who_heard_the_words_is_part_of_the_recipe(project: Path) -> None:
    manifest, config = Manifest.load(Path("work/corpus")), CropConfig()
    sentences = SentenceInput(Speller.letters(), 16, 1.0)
    assert sentences.upstream(manifest, config) == {"words": "given"}
    heard = Path("heard.json").absolute()
    write_words(heard, [Word("so", 0, 1)], {"recogniser": "pocketsphinx", "punctuation": ""})
    first = replace(manifest.trials[0], media={"words": heard.as_posix()})
    manifest = replace(manifest, trials=(first, *manifest.trials[1:]))
    assert sentences.upstream(manifest, config) == {"words": [{"recogniser": "pocketsphinx", "punctuation": ""}]}
