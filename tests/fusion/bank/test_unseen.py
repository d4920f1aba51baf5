"""Frames that are not seen or not labelled are left out before windows are cut; predictions still have every frame."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from cache.clock import FrameClock
from cache.corpus.folds import Fold
from cache.corpus.manifest import Manifest, Trial
from cache.errors import CorpusError
from cache.recipe import Recipe
from cache.store.store import FeatureStore
from fusion.bank.bank import Bank
from fusion.bank.mapped import MappedRows
from fusion.bank.unseen import drop_unseen
from fusion.settings import TrainConfig
from fusion.training.inference import predict, run_model
from fusion.training.trainer import train

LEFT = {"a": [1, 2, 5, 6, 7, 10, 11], "b": [], "c": [0, 1, 2, 3, 4, 5]}  # counted by hand from `make_bank`
CONFIG = TrainConfig(
    epochs=1, batch_size=4, window=3, hop=3, tail="drop", drop_unseen=("visual",), normalise="none", lr=0.01
)


def make_bank(folder, memory_gb: float = 1.0) -> Bank:
    """Trial 'a' has no face in frames 0, 3, 4, 9 and no label in frame 8; 'b' has no face at all, 'c' has all.

    'd' and 'e' are 'a' and 'c' once more; embeddings tell trial and frame.
    """
    lengths = {"a": 12, "b": 6, "c": 6, "d": 12, "e": 6}
    stores = {
        m: FeatureStore.create(folder / f"{m}.zarr", Recipe("toy", m, 2, dtype="float32")) for m in ("audio", "visual")
    }
    trials = []
    for number, (name, length) in enumerate(lengths.items()):
        clock = FrameClock(Fraction(25), length)
        seen = np.ones(length, bool)
        labels = np.random.default_rng(number).uniform(-1, 1, (length, 2)).astype(np.float32)
        if length == 12:
            seen[[0, 3, 4, 9]] = False
            labels[8] = np.nan
            labels[5, 0] = np.nan  # arousal is enough
        if name == "b":
            seen[:] = False
        rows = np.stack([np.full(length, float(number)), np.arange(length)], axis=1)
        for modality, store in stores.items():
            valid = seen if modality == "visual" else np.ones(length, bool)
            store.write(name, rows * valid[:, None], valid, source="xxh3:0", clock=clock)
        trials.append(Trial(name, name, "train", clock, {}, labels))
    return Bank.from_stores(stores, Manifest(folder, tuple(trials)), list(lengths), memory_gb=memory_gb)


@pytest.mark.parametrize("memory_gb", [0.0, 1.0])
def test_windows_are_cut_from_the_frames_that_are_left(tmp_path, memory_gb):
    bank = make_bank(tmp_path, memory_gb)
    assert isinstance(bank.embeddings["visual"], MappedRows) is not bool(memory_gb)
    left = drop_unseen(bank, ("visual",), Fold(0, ("a", "b"), ("c",)))
    assert {name: left.frames(name).tolist() for name in LEFT} == LEFT
    for bank_of in (left, left.normalised(left.measure(["a"], "none"), ["c", "a", "b"])):
        windows = bank_of.cut(["a", "b", "c"], 3, 3, tail="drop")
        (batch,) = bank_of.batches(windows, 3, 9).epoch()
        expected = [("a", [1, 2, 5]), ("a", [6, 7, 10]), ("c", [0, 1, 2]), ("c", [3, 4, 5])]
        assert [
            (window.trial_id, bank_of.frames(window.trial_id)[window.rows].tolist()) for window in windows
        ] == expected
        for row, (name, frames) in enumerate(expected):
            rows = torch.tensor([[float("abc".index(name)), frame] for frame in frames])
            assert torch.equal(batch.embeddings["visual"][row], rows)
            assert torch.equal(batch.embeddings["audio"][row], rows)
            labels = bank.labels[bank.span(name)][frames]
            assert torch.equal(batch.mask[row], labels.isfinite())
            assert torch.equal(batch.targets[row], labels.nan_to_num())
        assert batch.valid["visual"].all()
    dilated = left.cut(["a"], 3, 3, 2, "drop")
    assert [left.frames("a")[window.rows].tolist() for window in dilated] == [[1, 5, 7], [2, 6, 10]]
    assert left.rows("visual", "a")[:, 1].tolist() == LEFT["a"]
    again = left.keep({"a": np.array([1, 6])})
    assert (again.frames("a").tolist(), again.rows("audio", "a")[:, 1].tolist()) == ([2, 11], [2, 11])
    assert drop_unseen(bank, (), Fold(0, ("a",), ("c",))) is bank


def test_mapped_rows_train_the_same_weights(tmp_path):
    fold = Fold(0, ("a", "b", "c"), ("d", "e"))
    kinds = {"in memory": 1.0, "mapped": 0.0}
    results = [train(make_bank(tmp_path / kind, gb), fold, "rnn", {}, CONFIG) for kind, gb in kinds.items()]
    assert results[0].history[0].validation == results[1].history[0].validation
    states = [result.checkpoint.model.state_dict() for result in results]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_validation_and_prediction(tmp_path):
    """Validation scores the frames that are left; a prediction repeats the last one, or the first one at the start."""
    fold = Fold(0, ("a", "c"), ("d", "e"))
    bank = make_bank(tmp_path)
    result = train(bank, fold, "rnn", {"bidirectional": True}, CONFIG)
    left = drop_unseen(bank, ("visual",), Fold(0, ("d",), ("e",)))
    found = run_model(result.checkpoint.model, left, ["d", "e"], 3, 3, 4)
    values = np.concatenate([each.values for each in found]).astype(np.float64)
    labels = torch.cat([left.labels[left.span(name)] for name in ("d", "e")]).numpy().astype(np.float64)
    assert len(values) == 7 + 6
    for column, score in enumerate(result.checkpoint.validation.values()):
        known = np.isfinite(labels[:, column])
        x, y = values[known, column], labels[known, column]
        assert score == pytest.approx(
            2 * np.cov(x, y, bias=True)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2), abs=1e-6
        )
    trained = result.checkpoint.answering("train")
    predictions = {each.trial_id: each.values for each in predict(trained, bank, ["a", "b", "c"])}
    assert {name: len(each) for name, each in predictions.items()} == {"a": 12, "b": 6, "c": 6}
    seen = bank.keep({"a": np.array([1, 2, 5, 6, 7, 8, 10, 11])})  # labels do not matter
    (of_seen,) = run_model(result.checkpoint.model, seen, ["a"], 3, 3, 4)
    np.testing.assert_allclose(predictions["a"], of_seen.values[[0, 0, 1, 1, 1, 2, 3, 4, 5, 5, 6, 7]], atol=1e-6)
    checkpoint = replace(trained, training=replace(CONFIG, drop_unseen=()))
    plain = {each.trial_id: each.values for each in predict(checkpoint, bank, ["a", "b", "c"])}
    np.testing.assert_array_equal(predictions["b"], plain["b"])  # no face at all: as it is
    np.testing.assert_array_equal(predictions["c"], plain["c"])
    assert np.abs(predictions["a"] - plain["a"]).max() > 1e-4


def test_what_a_system_lacks_has_no_effect_there(tmp_path):
    """Sound alone: only frames without a label are left out."""
    bank = make_bank(tmp_path)
    sound = replace(bank, embeddings={"audio": bank.embeddings["audio"]}, valid={"audio": bank.valid["audio"]})
    assert drop_unseen(sound, ("visual",), Fold(0, ("a",), ("c",))).frames("a").tolist() == [
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        9,
        10,
        11,
    ]


def test_nothing_left_to_learn_from(tmp_path):
    with pytest.raises(
        CorpusError, match="None of 1 training trials has a labelled frame that is valid in visual. .*drop_unseen"
    ):
        train(make_bank(tmp_path), Fold(0, ("b",), ("a",)), "rnn", {}, CONFIG)
    with pytest.raises(CorpusError, match="None of 1 validation trials has a labelled frame"):
        train(make_bank(tmp_path / "again"), Fold(0, ("a",), ("b",)), "rnn", {}, CONFIG)
