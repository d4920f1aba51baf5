"""Attention layers against their equations in NumPy, float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fusion.layers.attention import (
    CrossLayer,
    CrossStack,
    EncoderStack,
    FrameConv,
    Positions,
    PreNormCrossLayer,
    sinusoids,
)

DIM, D_FF, HEADS = 6, 5, 2


def numbers(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def selu(x: np.ndarray) -> np.ndarray:
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))


def layer_norm(x: np.ndarray, s: dict, name: str) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * s[f"{name}.weight"] + s[f"{name}.bias"]


def linear(x: np.ndarray, s: dict, name: str) -> np.ndarray:
    return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]


def multi_head(query: np.ndarray, source: np.ndarray, s: dict, name: str, heads: int = HEADS) -> np.ndarray:
    """softmax(Q K^T / sqrt(d_k)) V of every head, concatenated, then mixed; no padding."""
    dim = query.shape[-1]
    weight, bias = s[f"{name}.in_proj_weight"], s[f"{name}.in_proj_bias"]
    q, k, v = (
        x @ weight[i * dim : (i + 1) * dim].T + bias[i * dim : (i + 1) * dim]
        for i, x in enumerate((query, source, source))
    )
    parts, size = [], dim // heads
    for h in range(heads):
        own = slice(h * size, (h + 1) * size)
        scores = np.exp(q[:, own] @ k[:, own].T / math.sqrt(size))
        parts.append(scores / scores.sum(axis=-1, keepdims=True) @ v[:, own])
    return linear(np.concatenate(parts, axis=-1), s, f"{name}.out_proj")


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """In float64 and evaluation mode, no parameter at its initial one or zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in module.double().parameters():
            tensor += torch.randn_like(tensor) / 3
    return module.eval()


def sequence(seed: int, frames: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((frames, DIM))


def test_positions_are_their_formula():
    table = sinusoids(7, 5)
    for t in range(7):
        for i in range(5):
            angle = t / 10000 ** (2 * (i // 2) / 5)
            assert float(table[t, i]) == pytest.approx(math.cos(angle) if i % 2 else math.sin(angle), abs=1e-6)


def test_positions_of_windows_longer_than_the_table():
    positions = Positions(4)
    long = positions(torch.zeros(1, 1000, 4))[0]
    assert torch.equal(long, sinusoids(1000, 4))
    assert torch.equal(long[:512], positions(torch.zeros(1, 512, 4))[0])
    assert positions.state_dict() == {}


def test_a_convolution_of_frames_reads_both_neighbours():
    conv = shaken(FrameConv(DIM, 2))
    s, x = numbers(conv), sequence(0)
    framed = np.pad(x, ((1, 1), (0, 0)))
    expected = s["bias"] + sum(framed[j : j + len(x)] @ s["weight"][:, :, j].T for j in range(3))
    np.testing.assert_allclose(conv(torch.from_numpy(x)[None])[0].detach(), expected, atol=1e-12)


@pytest.mark.parametrize(("name", "activation"), [("gelu", gelu), ("selu", selu)])
def test_encoder_is_its_equation(name, activation):
    stack = shaken(EncoderStack(DIM, D_FF, HEADS, 2, 0.5, name, alpha=name == "selu"))
    expected = x = sequence(0)
    for layer in stack:
        s = numbers(layer)
        y = layer_norm(expected + multi_head(expected, expected, s, "self_attn"), s, "norm1")
        expected = layer_norm(y + linear(activation(linear(y, s, "linear1")), s, "linear2"), s, "norm2")
    np.testing.assert_allclose(stack(torch.from_numpy(x)[None])[0].detach(), expected, atol=1e-10)


def test_encoder_layers_start_apart_and_drop_out_as_set():
    stack = EncoderStack(DIM, D_FF, HEADS, 2, 0.4, "selu", alpha=True)
    assert not torch.equal(stack[0].linear1.weight, stack[1].linear1.weight)
    places = [stack[1].dropout, stack[1].dropout1, stack[1].dropout2]
    assert [(type(place), place.p) for place in places] == [(torch.nn.AlphaDropout, 0.4)] * 3
    assert stack[1].self_attn.dropout == 0.4


def test_cross_layer_is_its_equation():
    layer = shaken(CrossLayer(DIM, D_FF, HEADS, 0.5, 0.3))
    s, t, source = numbers(layer), sequence(1), sequence(2)
    x = layer_norm(t + multi_head(t, source, s, "attention"), s, "norm_attention")
    inner = linear(gelu(linear(x, s, "feed_forward.0")), s, "feed_forward.3")
    expected = layer_norm(x + gelu(inner), s, "norm_ff")
    got = layer(torch.from_numpy(t)[None], torch.from_numpy(source)[None])[0].detach()
    np.testing.assert_allclose(got, expected, atol=1e-10)


def test_pre_norm_cross_layer_forgets_its_target_as_the_authors_do():
    layer = shaken(PreNormCrossLayer(DIM, D_FF, HEADS, 0.5, 0.3))
    s, t, source = numbers(layer), sequence(1), sequence(2)
    attended = multi_head(layer_norm(t, s, "norm_attention"), layer_norm(source, s, "norm_source"), s, "attention")
    x = 2 * attended  # dropout is off, and what it drops is added to itself
    inner = linear(gelu(linear(layer_norm(x, s, "norm_ff"), s, "feed_forward.0")), s, "feed_forward.3")
    got = layer(torch.from_numpy(t)[None], torch.from_numpy(source)[None])[0].detach()
    np.testing.assert_allclose(got, x + gelu(inner), atol=1e-10)


def test_stacks_keep_the_source_and_only_one_keeps_the_target():
    layers = [shaken(CrossLayer(DIM, D_FF, HEADS, 0.5, 0.3)) for _ in range(2)]
    target, source = (torch.from_numpy(sequence(seed))[None] for seed in (1, 2))
    both = layers[1](layers[0](target, source), source)
    torch.testing.assert_close(CrossStack(layers, keep_target=True)(target, source), both)
    torch.testing.assert_close(CrossStack(layers, keep_target=False)(target, source), layers[1](target, source))


@pytest.mark.parametrize("kind", [CrossLayer, PreNormCrossLayer])
def test_padding_is_not_attended_to(kind):
    layer = shaken(kind(DIM, D_FF, HEADS, 0.5, 0.3))
    target, source = (torch.from_numpy(sequence(seed))[None] for seed in (1, 2))
    outside = torch.tensor([[False, False, False, True]])
    short = layer(target[:, :3], source[:, :3])
    torch.testing.assert_close(layer(target, source, outside)[:, :3], short)
    assert not torch.allclose(layer(target, source)[:, :3], short)


@pytest.mark.parametrize("outside", [None, torch.tensor([[False, False, True, True], [False, False, False, False]])])
def test_inference_gives_what_training_code_gives(outside):
    stack = shaken(EncoderStack(DIM, D_FF, HEADS, 2, 0.5, "gelu"))
    x = torch.from_numpy(np.stack([sequence(1), sequence(2)]))
    slow = stack(x, outside)
    with torch.inference_mode():
        fast = stack(x, outside)
    inside = slice(None) if outside is None else ~outside
    torch.testing.assert_close(fast[inside], slow[inside].detach())
