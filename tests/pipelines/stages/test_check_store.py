"""`verify --against-source` computes trials anew and notices what digests cannot: features that were wrong from the start."""

from __future__ import annotations

import json
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.store.receipt import Receipt, open_receipt
from cache.store.store import FeatureStore
from extract.backbones.contract import load_backbone
from extract.engine.embedding import EngineOptions, extract_features
from pipelines.cli.commands import avfusion

PARAMS = """
corpus: {name: folder, root: media}
crops: {}
extract:
  conv1d: {weights: random, settings: {window_s: 0.1}}
  facenet: {weights: random}
fusion:
  seeds: [0]
  systems: {audio: {model: rnn, modalities: {audio: conv1d}}}
"""
NUM_FRAMES = 25


def write_sound(path: Path, seed: int) -> None:
    samples = np.random.default_rng(seed).integers(-20_000, 20_000, NUM_FRAMES * 640).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """A project with three finished trials of sound."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "media").mkdir()
    (tmp_path / "params.yaml").write_text(PARAMS)
    clock = FrameClock(Fraction(25), NUM_FRAMES)
    for seed, name in enumerate("abc"):
        write_sound(tmp_path / f"media/{name}.wav", seed)
    trials = tuple(Trial(name, name, "train", clock, {"audio": f"{name}.wav"}) for name in "abc")
    manifest = Manifest(tmp_path / "media", trials)
    manifest.save(tmp_path / "work/corpus")
    backbone = load_backbone("conv1d", "random", {"window_s": 0.1})
    store = FeatureStore.create("features/conv1d.zarr", backbone.recipe())
    extract_features(backbone, store, manifest, trials, None, EngineOptions(batch_size=7))
    Receipt.of(store, "abc").save("features/receipts/conv1d.json")
    return store


def verify(number: int) -> tuple[Result, list[dict[str, str]]]:
    result = CliRunner().invoke(avfusion, ["cache", "verify", "--against-source", str(number), "--json"])
    return result, json.loads(result.stdout)


def test_another_batch_size_is_no_fault(project: FeatureStore) -> None:
    result, findings = verify(2)
    assert (result.exit_code, findings) == (0, [])


def test_features_that_were_wrong_from_the_start_are_found(project: FeatureStore) -> None:
    features, record = project.read("b"), project.record("b")
    wrong = features.embeddings * np.float16(1.1)
    project.write("b", wrong, features.valid, source=record.source, clock=record.clock)
    Receipt.of(project, "abc").save("features/receipts/conv1d.json")
    assert open_receipt("features/receipts/conv1d.json")
    result, (finding,) = verify(3)
    assert result.exit_code == 1
    assert finding["trial"] == "b"
    assert "differs from a fresh computation by" in finding["what"]


def test_a_changed_medium_is_found(project: FeatureStore) -> None:
    write_sound(Path("media/c.wav"), 77)
    result, (finding,) = verify(3)
    assert result.exit_code == 1
    assert (finding["trial"], finding["what"].endswith("extract again")) == ("c", True)


def test_changed_settings_are_found(project: FeatureStore) -> None:
    Path("params.yaml").write_text(PARAMS.replace("window_s: 0.1", "window_s: 0.2"))
    result, (finding,) = verify(3)
    assert result.exit_code == 1
    assert "settings.window_s: 0.1, now 0.2" in finding["what"]


def test_stores_of_lower_precision_are_computed_in_it(project: FeatureStore) -> None:
    backbone, manifest = load_backbone("conv1d", "random", {"window_s": 0.1}), Manifest.load(Path("work/corpus"))
    store = FeatureStore.create("features/conv1d.zarr", backbone.recipe("float16", "bf16"))
    extract_features(backbone, store, manifest, manifest.trials, None, EngineOptions(precision="bf16"))
    Receipt.of(store, "abc").save("features/receipts/conv1d.json")
    result, findings = verify(2)
    assert (result.exit_code, findings) == (0, [])

    kept, record = project.read("a"), project.record("a")  # of fp32, which is near enough to bf16
    store.write("a", kept.embeddings * np.float16(1.1), kept.valid, source=record.source, clock=record.clock)
    Receipt.of(store, "abc").save("features/receipts/conv1d.json")
    result, (finding,) = verify(3)
    assert (result.exit_code, finding["trial"], finding["fingerprint"]) == (1, "a", store.recipe.fingerprint)
