"""A trial frame by frame: the rows of one window over all of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.errors import SettingError
from cache.targets import Target
from fusion.bank.bank import Bank
from fusion.settings import TrainConfig
from fusion.training.building import build_model
from fusion.training.checkpoint import Checkpoint
from fusion.training.inference import predict
from fusion.training.live import LiveNetwork

TARGETS = (Target("valence"), Target("arousal", low=1, high=9))


def checkpoint(corpus, name: str, settings: dict, **training: object) -> Checkpoint:
    torch.manual_seed(0)
    bank = corpus.bank()
    model = build_model(name, bank.dims, ("valence", "arousal"), settings).eval()
    config = TrainConfig(targets=("valence", "arousal"), **{"window": 8, "hop": 6, **training})
    return Checkpoint(model, bank.measure(["a", "b"]), bank.recipes, corpus.fold, config, {}, {}, TARGETS)


def follow(network: LiveNetwork, bank: Bank, trial_id: str) -> list[np.ndarray]:
    """The rows after every frame, and those at the end."""
    span = bank.span(trial_id)
    found = []
    for frame in range(span.start, span.stop):
        rows = {
            m: (own.trial(trial_id, span).numpy()[frame - span.start, None], bank.valid[m].numpy()[frame, None])
            for m, own in bank.embeddings.items()
        }
        found.append(network.push(rows))
    return [*found, network.finish()]


@pytest.mark.parametrize(
    ("name", "settings", "training"),
    [
        ("rnn", {"d_model": 4, "d_hidden": 4, "n_layers": 2}, {}),
        ("rnn", {"d_model": 4, "d_hidden": 4}, {"drop_unseen": ("visual",)}),
        ("tcn", {"channels": (6, 6), "channels_of": {}}, {"masked": False}),
    ],
)
@pytest.mark.parametrize("trial_id", ["a", "c"])
def test_rows_are_those_of_one_window_over_the_trial(corpus, name, settings, training, trial_id):
    """Trial 'a' has frames without a face; 'c' is as long as a window of training."""
    network = checkpoint(corpus, name, settings, **training)
    bank = corpus.bank(trial_id)
    whole = predict(network.answering(window=bank.lengths[trial_id]), bank)[0].values
    found = follow(LiveNetwork(network), bank, trial_id)
    assert [len(rows) for rows in found] == [1] * len(whole) + [0]
    np.testing.assert_allclose(np.concatenate(found), whole, rtol=0, atol=1e-5)
    assert np.ptp(whole[:, 1]) > 0.01


@pytest.mark.parametrize("first", [3, 8])
def test_frames_before_the_first_face_wait_for_it(corpus, first):
    """Also where none comes."""
    network = checkpoint(corpus, "rnn", {"d_model": 4, "d_hidden": 4}, drop_unseen=("visual",))
    bank = corpus.bank("c")
    valid = bank.valid["visual"].clone()
    valid[:first] = False
    bank = replace(bank, valid=bank.valid | {"visual": valid})
    whole = predict(network.answering(window=8), bank)[0].values
    found = follow(LiveNetwork(network), bank, "c")
    expected = [0, 0, 0, 4, 1, 1, 1, 1, 0] if first == 3 else [0] * 8 + [8]
    assert [len(rows) for rows in found] == expected
    np.testing.assert_allclose(np.concatenate(found), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("rnn", {"bidirectional": True}, "'bidirectional: true'.*train it with 'bidirectional: false'"),
        ("self_attention", {}, "'self_attention' reads all frames.*train one that only looks back: rnn"),
    ],
)
def test_what_looks_ahead_is_refused(corpus, name, settings, said):
    with pytest.raises(SettingError, match=said):
        LiveNetwork(checkpoint(corpus, name, settings))
