"""A checkpoint rebuilds its own model, byte for byte the same, and says what is wrong with a bad one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cache.corpus.folds import Fold
from cache.documents.documents import sign
from cache.errors import FingerprintError, MissingFileError, WeightsError
from cache.targets import AFFECT
from fusion.models import MODELS
from fusion.settings import TrainConfig
from fusion.training.building import build_model
from fusion.training.checkpoint import Checkpoint, load, load_run
from fusion.training.inference import predict

TARGETS = ("valence", "arousal")


def make(corpus, name: str = "rnn", seed: int = 0) -> Checkpoint:
    torch.manual_seed(seed)
    bank = corpus.bank()
    model = build_model(name, bank.dims, TARGETS, {})
    training = TrainConfig(window=model.fixed_length or 8, hop=6, seed=seed)
    return Checkpoint(
        model.eval(),
        bank.measure(["a", "b"]),
        bank.recipes,
        Fold(2, ("a", "b"), ("d",)),
        training,
        {"valence": 0.25, "arousal": -0.5},
        {"torch": "2"},
        AFFECT,
    )


@pytest.mark.parametrize("name", MODELS)
def test_save_load_same_output(corpus, tmp_path, name):
    checkpoint = make(corpus, name)
    checkpoint.save(tmp_path / "run")
    torch.manual_seed(9)
    state = torch.get_rng_state()
    again = load(tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), state)
    assert not again.model.training
    for before, after in zip(predict(checkpoint, corpus.bank()), predict(again, corpus.bank()), strict=True):
        assert (before.values == after.values).all()
    for field in ("recipes", "fold", "training", "validation", "versions", "targets"):
        assert getattr(again, field) == getattr(checkpoint, field)
    assert (again.model.name, again.model.dims, again.model.targets) == (name, checkpoint.model.dims, TARGETS)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_same_content_same_bytes_and_no_pickle(corpus, tmp_path):
    make(corpus).save(tmp_path / "one")
    make(corpus).save(tmp_path / "deep" / "two")
    assert files(tmp_path / "one") == files(tmp_path / "deep" / "two")
    assert set(files(tmp_path / "one")) == {"model.safetensors", "model.json"}
    document = json.loads(files(tmp_path / "one")["model.json"])
    assert document["model"] == "rnn"
    assert document["settings"]["d_model"] == 64
    assert document["training"]["window"] == 8
    assert document["validation"] == {"valence": 0.25, "arousal": -0.5}


def test_an_older_checkpoint_is_replaced_as_a_whole(corpus, tmp_path):
    make(corpus).save(tmp_path / "run")
    (tmp_path / "run" / "stray").write_text("x")
    newer = make(corpus, seed=1)
    newer.save(tmp_path / "run")
    assert set(files(tmp_path / "run")) == {"model.safetensors", "model.json"}
    assert load(tmp_path / "run").training.seed == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_failed_save_leaves_the_older_checkpoint(corpus, tmp_path, monkeypatch):
    make(corpus).save(tmp_path / "run")
    before = files(tmp_path / "run")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        make(corpus, seed=1).save(tmp_path / "run")
    assert files(tmp_path / "run") == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_missing(corpus, tmp_path):
    with pytest.raises(MissingFileError, match=r"model.json and model.safetensors missing. Train"):
        load(tmp_path / "nowhere")
    make(corpus).save(tmp_path / "run")
    (tmp_path / "run" / "model.json").unlink()
    with pytest.raises(MissingFileError, match=r": model.json missing"):
        load(tmp_path / "run")


def test_damaged_tensors(corpus, tmp_path):
    make(corpus).save(tmp_path / "run")
    path = tmp_path / "run" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(WeightsError, match="model.safetensors.*model.json.*'avfusion train'"):
        load(tmp_path / "run")


def edit(folder: Path, **changes: object) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(sign({**json.loads(path.read_text()), **changes})))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"version": 99}, "has version 99, expected 4"),
        ({"model": "gone"}, "Unknown fusion model 'gone'"),
        ({"settings": {"d_model": 8}}, "does not fit.*size mismatch"),
        ({"settings": {"wings": 8}}, "'wings' is 8, an unknown setting"),
        ({"fold": {}}, "does not fit"),
    ],
)
def test_documents_that_do_not_fit(corpus, tmp_path, changes, text):
    make(corpus).save(tmp_path / "run")
    edit(tmp_path / "run", **changes)
    with pytest.raises(WeightsError, match=text):
        load(tmp_path / "run")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '"x"'])
def test_damaged_document(corpus, tmp_path, text):
    make(corpus).save(tmp_path / "run")
    (tmp_path / "run" / "model.json").write_text(text)
    with pytest.raises(WeightsError, match="model.json' is damaged"):
        load(tmp_path / "run")


def test_refuses_other_features(corpus, tmp_path):
    checkpoint = make(corpus)
    checkpoint.save(tmp_path / "run")
    ours = checkpoint.recipes["visual"]
    other = replace(ours, upstream={"crops": {"size": 96}})
    recipes = {modality: recipe.to_document() for modality, recipe in checkpoint.recipes.items()}
    edit(tmp_path / "run", specs={**recipes, "visual": other.to_document()})
    with pytest.raises(FingerprintError) as caught:
        predict(load(tmp_path / "run"), corpus.bank())
    for text in ("visual", other.fingerprint, ours.fingerprint, "size"):
        assert text in str(caught.value)


def test_a_run_is_one_checkpoint_or_one_per_target(corpus, tmp_path):
    make(corpus).save(tmp_path / "joint")
    for seed, target in enumerate(TARGETS):
        make(corpus, seed=seed).save(tmp_path / "split" / target)
    assert len(load_run(tmp_path / "joint")) == 1
    assert [part.training.seed for part in load_run(tmp_path / "split")] == [1, 0]  # arousal, valence
    with pytest.raises(MissingFileError, match="Train a model first"):
        load_run(tmp_path / "none")
