"""The temporal network against its equations, its causality, and its normalisation against padding."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cache.errors import SettingError
from fusion.layers.tcn import TCN, Branch, FrameNorm, Level, widths_of
from fusion.model import Inputs
from fusion.training.building import build_model


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.01 * x)


def causal_conv(x: np.ndarray, conv: torch.nn.Module, dilation: int) -> np.ndarray:
    """b + sum_j W_j x_{t - j d} with W = g v / |v|, taken apart into numbers."""
    state = {name: value.detach().numpy() for name, value in conv.state_dict().items()}
    g, v = state["parametrizations.weight.original0"], state["parametrizations.weight.original1"]
    weight = g * v / np.sqrt((v**2).sum(axis=(1, 2), keepdims=True))
    kernel, result = weight.shape[2], np.zeros((weight.shape[0], x.shape[1]))
    for t in range(x.shape[1]):
        result[:, t] = state["bias"]
        for j in range(kernel):
            if t - j * dilation >= 0:
                result[:, t] += weight[:, :, kernel - 1 - j] @ x[:, t - j * dilation]
    return result


@pytest.mark.parametrize(("dim_out", "dilation"), [(4, 1), (3, 2)])
def test_a_level_is_its_equation(dim_out, dilation):
    torch.manual_seed(0)
    level = Level(3, dim_out, 3, dilation, 0.5).double().eval()
    with torch.no_grad():  # g and |v| start equal, which would hide a normalisation that is missing
        level.blocks[0].conv.parametrizations.weight.original0 *= 1.7
    x = np.random.default_rng(0).standard_normal((3, 9))
    hidden = x
    for block in level.blocks:
        hidden = leaky(causal_conv(hidden, block.conv, dilation))
    shortcut = x
    if dim_out != 3:
        state = level.shortcut.state_dict()
        shortcut = state["weight"].numpy()[:, :, 0] @ x + state["bias"].numpy()[:, None]
    got = level(torch.from_numpy(x)[None])[0].detach().numpy()
    np.testing.assert_allclose(got, leaky(hidden + shortcut), atol=1e-12)


def test_dilations_double_and_widths_follow():
    tcn = TCN(3, (4, 4, 2), 5, 0.0)
    assert [level.blocks[0].conv.dilation[0] for level in tcn] == [1, 2, 4]
    assert [level.blocks[1].conv.dilation[0] for level in tcn] == [1, 2, 4]
    assert [isinstance(level.shortcut, torch.nn.Identity) for level in tcn] == [False, True, False]
    assert tcn(torch.zeros(2, 3, 6)).shape == (2, 2, 6)


def test_the_future_never_changes_the_past():
    torch.manual_seed(0)
    branch = Branch(3, (4, 4, 4, 4), 5, 0.0).eval()
    x = torch.randn(1, 60, 3)
    changed = x.clone()
    changed[:, 40:] += 5
    before, after = branch(x), branch(changed)
    torch.testing.assert_close(before[:, :40], after[:, :40], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, 40], after[:, 40])


@pytest.mark.parametrize(("levels", "frames"), [(4, 121), (5, 249)])
def test_receptive_field_of_the_papers(levels, frames):
    torch.manual_seed(0)
    tcn = TCN(1, (2,) * levels, 5, 0.0).double().eval()
    assert tcn.receptive_field == frames
    x = torch.randn(1, 1, 400, dtype=torch.float64, requires_grad=True)
    tcn(x)[0, :, 350].sum().backward()
    reached = x.grad[0, 0].nonzero().flatten()
    assert (int(reached.min()), int(reached.max())) == (350 - frames + 1, 350)


def test_convolutions_start_as_pytorch_starts_them_and_shortcuts_from_xavier():
    torch.manual_seed(0)
    level = Level(64, 128, 5, 1, 0.0)
    bound = 1 / np.sqrt(64 * 5)
    assert float(level.blocks[0].conv.weight.detach().std()) == pytest.approx(bound / np.sqrt(3), rel=0.02)
    assert float(level.shortcut.weight.detach().std()) == pytest.approx(np.sqrt(2 * 2 / (64 + 128)), rel=0.02)


def test_statistics_are_those_of_the_frames_inside():
    torch.manual_seed(0)
    x = torch.randn(3, 2, 5, dtype=torch.float64) * 3 + 1
    lengths = torch.tensor([5, 2, 3])
    inside = torch.arange(5) < lengths[:, None]
    norm, plain = FrameNorm(2).double(), torch.nn.BatchNorm1d(2).double()
    frames = x.transpose(1, 2)[inside]
    got = norm(x.masked_fill(~inside[:, None], 1e6), inside)
    torch.testing.assert_close(got.transpose(1, 2)[inside], plain(frames))
    torch.testing.assert_close(norm.running_mean, plain.running_mean)
    torch.testing.assert_close(norm.running_var, plain.running_var)
    torch.testing.assert_close(FrameNorm(2).double()(x), torch.nn.BatchNorm1d(2).double()(x))
    torch.testing.assert_close(norm.eval()(x, inside), plain.eval()(x))


def test_one_frame_alone_can_be_trained_on():
    norm = FrameNorm(2)
    inside = torch.tensor([[True, False]])
    assert norm(torch.randn(1, 2, 2), inside).isfinite().all()
    assert norm(torch.randn(1, 2, 1)).isfinite().all()
    assert norm.running_mean.tolist() == [0.0, 0.0]


def test_widths_are_chosen_by_the_name_of_the_modality():
    config = SimpleNamespace(channels=(5, 4), channels_of={"audio": (3,)})
    assert widths_of(config, "audio") == (3,)
    assert widths_of(config, "visual") == widths_of(config, "pulse") == (5, 4)


@pytest.mark.parametrize("model", ["tcn", "late", "leader_follower", "channel_attention", "concatenation"])
def test_impossible_widths_are_refused(model):
    with pytest.raises(SettingError, match=f"model '{model}'.*'channels' is \\[\\], expected 1 to 12 widths"):
        build_model(model, {"audio": 3}, ("valence",), {"channels": ()})
    with pytest.raises(SettingError, match="'channels' is \\[4, 0\\]"):
        build_model(model, {"audio": 3}, ("valence",), {"channels": [4, 0]})
    with pytest.raises(SettingError, match="'kernel' is 0, expected 1 to 255"):
        build_model(model, {"audio": 3}, ("valence",), {"kernel": 0})


@pytest.mark.parametrize("name", ["channel_attention", "concatenation", "late", "leader_follower", "tcn"])
def test_in_training_it_does_not_matter_how_much_padding_there_is(name):
    dims = {"audio": 3, "visual": 2}
    settings = {"channels": (4,), "dropout": 0.0}
    if name != "concatenation":
        settings["channels_of"] = {"audio": (3,)}
    if name == "leader_follower":
        settings["dropout_fusion"] = 0.0
    lengths, results = torch.tensor([4, 2]), []
    for num_frames in (4, 9):
        torch.manual_seed(0)
        model = build_model(name, dims, ("valence",), settings).double().train()
        inside = torch.arange(num_frames) < lengths[:, None]
        rows = {m: torch.linspace(-1, 3, 2 * 4 * d, dtype=torch.float64).sin().view(2, 4, d) for m, d in dims.items()}
        padded = {m: torch.nn.functional.pad(x, (0, 0, 0, num_frames - 4)) * inside[..., None] for m, x in rows.items()}
        values = model(Inputs(padded, dict.fromkeys(dims, inside), lengths)).values
        results.append((values[0, :4], values[1, :2], dict(model.named_buffers())))
    torch.testing.assert_close(results[0], results[1])
