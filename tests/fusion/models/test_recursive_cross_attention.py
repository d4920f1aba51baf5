"""RCMA and RJCMA: the counts of the authors' code, and one iteration of every kind in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cache.errors import SettingError, ShapeError
from fusion.models.recursive_cross_attention import JointHead
from fusion.training.building import build_model

ALL = {"audio": 128, "text": 768, "visual": 512}
DIMS = {"audio": 2, "text": 4, "visual": 3}
SMALL = {"channels": (4,), "channels_of": {"audio": (3,), "text": (2,)}, "length": 5}
RJCMA = {
    "joint": "all",
    "channels": (512, 512, 512, 256),
    "channels_of": {"audio": (128,) * 4, "text": (512, 512, 512, 128)},
}


def test_parameters_of_the_authors_code(count):
    assert count("recursive_cross_attention", ALL) == 29_638_633
    with torch.device("meta"):
        model = build_model("recursive_cross_attention", ALL, ("valence",), {})
    assert {m: count(branch.tcn) for m, branch in model.branches.items()} == {
        "audio": 657_408,
        "text": 11_543_040,
        "visual": 10_493_952,
    }
    assert sum(count(branch.norm) for branch in model.branches.values()) == 2_304
    assert (count(model.iterations), count(model.regress)) == (6_940_776, 1_153)


def test_parameters_of_rjcma_without_its_dead_projections(count):
    with torch.device("meta"):
        model = build_model("recursive_cross_attention", ALL, ("valence",), RJCMA)
    assert model.branches.dims == {"audio": 128, "text": 128, "visual": 256}
    assert count(model.iterations) == 1_790_056 - 525_312
    assert count(model.regress) == (512 * 256 + 256) + 2 * 256 + 257


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def iterate(x: dict[str, np.ndarray], s: dict[str, np.ndarray], prefix: str, variant: str, joint: str) -> dict:
    """Equations 2-10 of [Praveen2024] for one window, X_m of shape (L, d_m)."""
    updated = {}
    for m in x:
        j = np.concatenate([x[other] for other in sorted(x) if joint == "all" or other != m], axis=1)
        w = {key[len(f"{prefix}.{m}.") :]: value for key, value in s.items() if key.startswith(f"{prefix}.{m}.")}
        if variant == "code" and joint == "others":
            j = j @ w["joint.weight"].T + w["joint.bias"]
        time = w["time.weight"] @ x[m] + w.get("time.bias", np.zeros(len(x[m])))[:, None]
        c = np.tanh(time.T @ j / math.sqrt(j.shape[1]))
        assert c.shape == (x[m].shape[1], j.shape[1])
        h = (x[m] @ w["feature.weight"].T + w.get("feature.bias", 0)) @ c
        if variant == "code":
            updated[m] = x[m] + relu(relu(np.tanh(h)) @ w["attended.weight"].T + w["attended.bias"])
        else:
            updated[m] = x[m] + relu(h) @ w["attended.weight"].T
    return updated


@pytest.mark.parametrize("variant", ["code", "paper"])
@pytest.mark.parametrize("joint", ["others", "all"])
def test_iterations_are_their_equations(tiny, windows, variant, joint):
    model = tiny("recursive_cross_attention", DIMS, **SMALL, variant=variant, joint=joint)
    inputs = windows(DIMS, 2, 5)
    s = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    assert ("iterations.0.audio.time.bias" in s) == (variant == "code")
    branches = {m: h.detach().numpy() for m, h in model.branches(inputs).items()}
    for b in range(2):
        x = {m: branches[m][b] for m in branches}
        for iteration in range(2):
            x = iterate(x, s, f"iterations.{iteration}", variant, joint)
        joined = np.concatenate([x[m] for m in sorted(x)], axis=1)
        if joint == "all":
            f = joined @ s["regress.hidden.weight"].T + s["regress.hidden.bias"]
            scale = s["regress.norm.weight"] / np.sqrt(s["regress.norm.running_var"] + 1e-5)
            normed = (f - s["regress.norm.running_mean"]) * scale + s["regress.norm.bias"]
            joined = np.where(normed > 0, normed, 0.01 * normed)
        name = "regress.regress" if joint == "all" else "regress"
        expected = np.tanh(joined @ s[f"{name}.weight"].T + s[f"{name}.bias"])
        np.testing.assert_allclose(model(inputs).values[b].detach(), expected, atol=1e-10)


def test_the_three_dropouts_are_where_they_say():
    settings = {**SMALL, "dropout_scores": 0.1, "dropout_attended": 0.2, "dropout_head": 0.3}
    model = build_model("recursive_cross_attention", DIMS, ("valence",), settings)
    block = model.iterations[0]["text"]
    assert (block.dropout_scores.p, block.dropout_attended.p, model.dropout.p) == (0.1, 0.2, 0.3)
    defaults = build_model("recursive_cross_attention", DIMS, ("valence",), SMALL).config
    assert (defaults.dropout_scores, defaults.dropout_attended, defaults.dropout_head) == (0.6, 0.6, 0.0)


@pytest.mark.parametrize("knob", ["dropout_scores", "dropout_attended", "dropout_head"])
def test_each_dropout_is_active_in_training_only(tiny, windows, knob):
    quiet = dict.fromkeys(("dropout", "dropout_scores", "dropout_attended", "dropout_head"), 0.0)
    model = tiny("recursive_cross_attention", DIMS, **SMALL, **{**quiet, knob: 0.5})
    inputs = windows(DIMS, 2, 5)
    assert torch.equal(model(inputs).values, model(inputs).values)
    model.train()
    assert not torch.equal(model(inputs).values, model(inputs).values)


def test_cross_attention_starts_from_xavier_and_zero():
    torch.manual_seed(0)
    model = build_model("recursive_cross_attention", {"a": 3, "b": 3}, ("valence",), {**SMALL, "length": 60})
    time = model.iterations[0]["a"].time
    assert float(time.weight.detach().std()) == pytest.approx(math.sqrt(2 / 120), rel=0.05)
    assert not time.bias.any()


def test_only_windows_of_its_length(tiny, windows):
    model = tiny("recursive_cross_attention", DIMS, **SMALL)
    assert model.fixed_length == 5
    with pytest.raises(ShapeError, match="Model 'recursive_cross_attention' got windows of 4 frames, expected 5"):
        model(windows(DIMS, 1, 4))


def test_a_modality_alone_is_its_own_joint(tiny, windows):
    model = tiny("recursive_cross_attention", {"audio": 2}, **SMALL)
    assert model.iterations[0]["audio"].joint.in_features == 3
    assert model(windows({"audio": 2}, 1, 5)).values.isfinite().all()


def test_unknown_variants_are_refused():
    with pytest.raises(SettingError, match="'variant' is 'papr', expected one of code, paper(.|\n)*'joint' is 'both'"):
        build_model("recursive_cross_attention", DIMS, ("valence",), {"variant": "papr", "joint": "both"})


def test_padding_has_no_part_in_what_the_head_of_rjcma_learns():
    torch.manual_seed(0)
    head = JointHead(4, 1).train()
    x, inside = torch.randn(2, 5, 4), torch.arange(5) < torch.tensor([[5], [2]])
    head(x, inside)
    torch.testing.assert_close(head.norm.running_mean, head.hidden(x)[inside].mean(dim=0).detach() / 10)
