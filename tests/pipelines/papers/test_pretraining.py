"""The sound network of [Karas2022, Section 3.2]: trained on RECOLA under an LSTM, then used for another corpus."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from cache.store.receipt import Receipt
from extract.backbones.contract import load_backbone
from extract.corpora.recola import RATERS
from fusion.training.checkpoint import load
from pipelines.papers.presets import FOLDER

PEOPLE = ("P16", "P17", "P19")
SECONDS = 5
WEIGHTS = "work/finetuned/pretrain_conv1d/fold0/weights/audio.safetensors"


def speak(root: Path) -> None:
    """Noise whose loudness is the arousal, and the opposite of the valence, of its speaker."""
    for number, name in enumerate(PEOPLE):
        chance = np.random.default_rng(number)
        ticks = np.arange(25 * SECONDS + 1) / 25
        arousal = np.sin(2 * np.pi * (ticks / 2 + number / 3))
        for target, rated in (("arousal", arousal), ("valence", -arousal)):
            path = root / RATERS / target / f"{name}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [f"{time:.2f};{value:.4f};{value:.4f}" for time, value in zip(ticks, 0.9 * rated, strict=True)]
            path.write_text("\n".join(["time;FM1 ;FF1", *rows]) + "\n", encoding="utf-8")
        seconds = np.arange(16_000 * SECONDS) / 16_000
        loudness = 0.05 + 0.2 * (1 + np.interp(seconds, ticks, arousal)) / 2
        sound = root / "RECOLA-Audio-recordings" / f"{name}.wav"
        sound.parent.mkdir(exist_ok=True)
        soundfile.write(sound, loudness * chance.uniform(-1, 1, len(seconds)), 16_000)


@pytest.mark.filterwarnings("ignore:The corpus has 3 subjects")
def test_weights_of_recola_serve_another_corpus(
    project: Path, run: Callable, edit_params: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The preset's own section, on windows of a second."""
    speak(tmp_path / "RECOLA")
    preset = yaml.safe_load((FOLDER / "karas2022.yaml").read_text(encoding="utf-8"))
    section = preset["finetune"]["pretrain_conv1d"]
    section["train"] |= {"window": 25, "hop": 25, "epochs": 8, "batch_size": 2, "lr": 2e-3, "schedule": "constant"}
    params = {
        "corpus": {"name": "recola", "root": str(tmp_path / "RECOLA")},
        "extract": {"conv1d": {"weights": "random", "settings": {"window_s": 0.1}}},
        "finetune": {"pretrain_conv1d": section},
        "fusion": {"seeds": [0], "systems": {}},
    }
    other = tmp_path / "recola"
    other.mkdir()
    (other / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    monkeypatch.chdir(other)
    assert run("corpus", "build").exit_code == 0
    result = run("finetune", "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert row["ccc"] > 0.3, "the sound says it all"
    lstm = load(other / WEIGHTS.replace("weights/audio.safetensors", "fusion")).model
    assert (lstm.settings["n_layers"], lstm.settings["d_hidden"], set(lstm.dims)) == (2, 256, {"audio"})

    monkeypatch.chdir(project)
    voice = {"backbone": "conv1d", "weights": str(other / WEIGHTS), "settings": {"window_s": 0.1}}
    edit_params(lambda params: params["extract"].update(voice=voice))
    assert run("extract", "--backbone", "voice").exit_code == 0
    recipe = Receipt.load("features/receipts/voice.json").recipe
    assert {seen.id for seen in recipe.provenance.trials + recipe.provenance.selection} == set(PEOPLE)
    before, after = (load_backbone("conv1d", each, {"window_s": 0.1}) for each in ("random", voice["weights"]))
    assert recipe.weights_sha256 == after.weights.sha256
    moved = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert all(moved)
