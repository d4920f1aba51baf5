"""Whole trials: one row per frame, overlaps averaged, padding of no influence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.errors import SettingError, UnknownNameError
from cache.targets import Target
from fusion.bank.counted_padding import count_padding, padding_rows
from fusion.model import Estimate, FusionModel, Inputs
from fusion.settings import TrainConfig
from fusion.training.building import build_model
from fusion.training.checkpoint import Checkpoint
from fusion.training.inference import Prediction, merge, predict, run_model


class Echo(FusionModel):
    """Says of each frame its first audio number plus the frame's place in the window."""

    def forward(self, inputs: Inputs) -> Estimate:
        audio = inputs.embeddings["audio"]
        return Estimate(audio[..., :1] + torch.arange(audio.shape[1])[:, None])


def test_overlaps_are_averaged_frame_by_frame(corpus):
    bank = corpus.bank("c")  # 8 frames
    (prediction,) = run_model(Echo(bank.dims, ("valence",), None), bank, ["c"], 6, 4, 1)
    first = corpus.stores["audio"].read("c").embeddings[:, 0].astype(np.float32)
    place = np.array([0, 1, (2 + 0) / 2, (3 + 1) / 2, (4 + 2) / 2, (5 + 3) / 2, 4, 5])
    np.testing.assert_allclose(prediction.values[:, 0], first + place, rtol=1e-6)
    assert prediction.values.dtype == np.float32
    assert prediction.targets == ("valence",)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_every_trial_has_a_row_per_frame_whatever_the_batch(corpus, batch_size):
    bank = corpus.bank()
    torch.manual_seed(0)
    model = build_model("rnn", bank.dims, ("valence", "arousal"), {"n_layers": 2, "bidirectional": True})
    chosen = ["f", "c", "a"]
    predictions = run_model(model, bank, chosen, 10, 7, batch_size)
    assert [p.trial_id for p in predictions] == chosen
    assert [p.values.shape for p in predictions] == [(12, 2), (8, 2), (40, 2)]
    alone = run_model(model, bank, ["c"], 10, 7, 1)[0]
    np.testing.assert_allclose(predictions[1].values, alone.values, atol=1e-5)
    assert model.training, "the mode in which the model came"


def test_unknown_trial(corpus):
    bank = corpus.bank("a")
    with pytest.raises(UnknownNameError, match="Unknown trial of the bank 'b'"):
        run_model(Echo(bank.dims, ("valence",), None), bank, ["b"], 6, 4, 1)


def checkpoint(corpus, seed: int, targets: tuple[str, ...], **training: object) -> Checkpoint:
    torch.manual_seed(seed)
    bank = corpus.bank()
    model = build_model("rnn", bank.dims, targets, {"d_model": 4, "d_hidden": 4}).eval()
    config = TrainConfig(targets=targets, **{"window": 8, "hop": 6, **training})
    declared = tuple(map(Target, targets))
    return Checkpoint(model, bank.measure(["a", "b"]), bank.recipes, corpus.fold, config, {}, {}, declared)


def test_an_ensemble_is_the_mean_of_its_members(corpus):
    """Seeds of other windows and normalisation, and two networks of one target each."""
    both, other = checkpoint(corpus, 0, ("valence", "arousal")), checkpoint(corpus, 1, ("valence", "arousal"), hop=8)
    single = [checkpoint(corpus, 2, ("arousal",)), checkpoint(corpus, 3, ("valence",))]
    bank, chosen = corpus.bank(), ["f", "a"]
    members = [predict(member, bank, chosen) for member in (both, other, *single)]
    result = merge(members)
    assert [prediction.trial_id for prediction in result] == chosen
    for index, prediction in enumerate(result):
        assert prediction.targets == ("valence", "arousal")
        values = [member[index].values for member in members]
        pair = np.concatenate([values[3], values[2]], axis=1)
        np.testing.assert_allclose(prediction.values, (values[0] + values[1] + pair) / 3, atol=1e-6)
    alone = merge(members[2:])[0]
    assert alone.targets == ("arousal", "valence")
    np.testing.assert_array_equal(alone.values[:, 0], members[2][0].values[:, 0])
    with pytest.raises(SettingError, match="0 models; expected at least one.*Name"):
        merge([])


def test_runs_of_folds_are_joined_trial_by_trial():
    def say(trial_id: str, value: float) -> Prediction:
        return Prediction(trial_id, np.full((2, 1), value, np.float32), ("valence",))

    joined = merge([[say("a", 1.0), say("b", 2.0)], [say("b", 4.0), say("c", 5.0)]])
    assert {p.trial_id: float(p.values[0, 0]) for p in joined} == {"a": 1.0, "b": 3.0, "c": 5.0}


def test_counted_padding_is_what_zeros_become_by_normalisation(corpus):
    """Trial 'c' has 8 frames, 'b' an unlabelled one that stays out of the mask."""
    bank = corpus.bank()
    moments = bank.measure(["a", "b"])
    normalised = bank.normalised(moments, ["b", "c"])
    windows = normalised.cut(["c", "b"], 10, 10, tail="pad")
    plain, batch = (next(normalised.batches(windows, 10, 9).epoch()) for _ in range(2))
    counted = count_padding(batch, padding_rows(moments))
    assert [window.num_frames for window in windows] == [8, 10, 10, 10, 3]
    inside = torch.arange(10) < plain.lengths[:, None]
    assert counted.lengths.tolist() == [10] * 5
    assert torch.equal(counted.mask, plain.mask | ~inside[..., None])
    assert not counted.mask[inside].all()
    for modality, rows in counted.embeddings.items():
        torch.testing.assert_close(rows[inside], plain.embeddings[modality][inside])
        expected = -moments[modality].mean / moments[modality].std
        torch.testing.assert_close(rows[~inside], expected.expand_as(rows[~inside]))
        assert counted.valid[modality][~inside].all()
        assert torch.equal(counted.valid[modality][inside], plain.valid[modality][inside])
    whole = next(normalised.batches(windows[1:2], 10, 1).epoch())
    assert count_padding(whole, padding_rows(moments)) is whole


def test_models_that_learned_with_padding_are_given_it_at_inference(corpus):
    """A backward LSTM sees the padding behind a short trial."""
    bank = corpus.bank()
    results = []
    for masked in (True, False):
        trained = checkpoint(corpus, 0, ("valence",), window=10, masked=masked)
        torch.manual_seed(0)
        model = build_model("rnn", bank.dims, ("valence",), {"bidirectional": True}).eval()
        results.append(predict(replace(trained, model=model), bank, ["c", "f"]))
    assert np.abs(results[0][0].values - results[1][0].values).max() > 1e-4
    np.testing.assert_allclose(results[0][1].values, results[1][1].values, atol=1e-6)
