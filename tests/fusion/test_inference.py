"""Whole trials: one row per frame, overlaps averaged, padding of no influence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cache.errors import UnknownNameError
from fusion.inference import run_model
from fusion.model import Estimate, FusionModel, Inputs, build_model


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
