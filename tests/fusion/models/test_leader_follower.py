"""LFAN: the counts of [Zhang2023]'s code and its attention over modalities in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cache.errors import SettingError, UnknownNameError
from fusion.training.building import build_model

ALL = {"audio": 128, "text": 768, "visual": 512}
SMALL = {"channels": (4,), "channels_of": {"audio": (3,)}, "modal_dim": 4}


def test_parameters_of_the_authors_code(count):
    assert count("leader_follower", ALL) == 5_001_153
    assert count("leader_follower", {"audio": 128, "visual": 512}) == 2_374_753
    with torch.device("meta"):
        model = build_model("leader_follower", ALL, ("valence",), {})
    assert {m: count(branch.tcn) for m, branch in model.branches.items()} == {
        "audio": 139_104,
        "text": 2_608_512,
        "visual": 2_215_296,
    }
    assert sum(count(branch.norm) for branch in model.branches.values()) == 576
    assert (count(model.followers), count(model.regress)) == (37_440, 225)


def test_attention_over_modalities_is_its_equation(tiny, windows):
    dims = {"audio": 2, "text": 3, "visual": 5}
    model = tiny("leader_follower", dims, **SMALL)
    inputs = windows(dims, 2, 6)
    hidden = {m: h.detach().numpy() for m, h in model.branches(inputs).items()}
    s = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    expected = np.zeros((2, 6))
    for b in range(2):
        for t in range(6):
            flat = []
            for head in range(2):
                q, k, v = [], [], []
                for m in sorted(dims):
                    projected = s[f"followers.project.{m}.weight"] @ hidden[m][b, t] + s[f"followers.project.{m}.bias"]
                    own = projected[6 * head : 6 * head + 6]
                    q, k, v = [*q, own[:2]], [*k, own[2:4]], [*v, own[4:]]
                for i in range(3):
                    scores = np.exp([q[i] @ k[j] / math.sqrt(2) for j in range(3)])
                    flat += list(sum(w * x for w, x in zip(scores / scores.sum(), v, strict=True)) + v[i])
            mixed = s["followers.mix.weight"] @ np.array(flat) + s["followers.mix.bias"]
            normed = (mixed - mixed.mean()) / np.sqrt(mixed.var() + 1e-5)
            follower = normed * s["followers.norm.weight"] + s["followers.norm.bias"]
            joined = np.concatenate((hidden["visual"][b, t], follower))
            expected[b, t] = np.tanh(s["regress.weight"] @ joined + s["regress.bias"]).item()
    estimate = model(inputs)
    np.testing.assert_allclose(estimate.values[..., 0].detach(), expected, atol=1e-10)
    assert estimate.logits is None


def test_projections_start_from_xavier_and_zero():
    torch.manual_seed(0)
    model = build_model("leader_follower", {"visual": 8}, ("valence",), {})
    linear = model.followers.project["visual"]
    assert float(linear.weight.detach().abs().max()) <= math.sqrt(6 / (128 + 96))
    assert float(linear.weight.detach().std()) == pytest.approx(math.sqrt(2 / (128 + 96)), rel=0.05)
    assert not linear.bias.any()


@pytest.mark.parametrize(
    ("dims", "leader", "expected"),
    [
        (("audio", "text", "visual"), "", "visual"),
        (("text", "audio"), "", "audio"),
        (("audio", "text", "visual"), "text", "text"),
    ],
)
def test_leader(dims, leader, expected):
    model = build_model("leader_follower", dict.fromkeys(dims, 3), ("valence",), {**SMALL, "leader": leader})
    assert model.leader == expected
    assert model.regress.in_features == (3 if expected == "audio" else 4) + 4 * len(dims)


def test_a_leader_of_any_name_leads():
    dims = {"face": 5, "pose": 2, "units": 3}
    model = build_model("leader_follower", dims, ("valence",), {"channels_of": {"units": (7,)}, "leader": "units"})
    assert model.leader == "units"
    assert model.regress.in_features == 7 + 32 * 3


def test_an_unknown_leader_is_refused():
    with pytest.raises(UnknownNameError, match="'vizual'; expected one of audio, visual. Did you mean"):
        build_model("leader_follower", {"audio": 3, "visual": 3}, ("valence",), {"leader": "vizual"})
    with pytest.raises(SettingError, match="'modal_dim' is 5, expected a multiple of 2 heads"):
        build_model("leader_follower", {"audio": 3}, ("valence",), {"modal_dim": 5})
