"""AV-CMA: the counts of [Karas2022, Table 5], and which stack reads what."""

from __future__ import annotations

import pytest
import torch

from cache.errors import SettingError
from fusion.training.building import build_model

AV = {"audio": 128, "visual": 512}
BOTH = ("valence", "arousal")
SMALL = {"d_model": 8, "d_ff": 6, "n_heads": 2, "n_layers": 1}


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({}, 2_365_722),  # E2E, [Karas2022, Table 4]; 2.4 M in Table 5
        ({"variant": "multv2"}, 2_366_746),
        ({"variant": "gatedmultv2"}, 2_366_750),
        (
            {"d_model": 64, "d_ff": 128, "n_layers": 1, "n_cross_of": {"visual_to_audio": 2}},
            134_778,
        ),  # Inception: 3 cross layers
    ],
)
def test_parameters_of_the_paper(count, settings, parameters):
    assert count("cross_modal_attention", AV, BOTH, **settings) == parameters


def test_multv2_has_the_dead_parameters_of_the_authors_code(windows):
    model = build_model("cross_modal_attention", AV, BOTH, {"variant": "multv2"}).double()
    estimate = model(windows(AV, 1, 3))
    (estimate.values.sum() + estimate.logits.sum()).backward()
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.grad is None) == 265_472


def test_depth_is_named_by_source_and_target():
    model = build_model("cross_modal_attention", {**AV, "text": 9}, BOTH, {**SMALL, "n_cross": 2})
    depth = {pair: len(stack) for pair, stack in zip(model.pairs, model.stacks, strict=True)}
    assert depth.pop(("visual", "audio")) == 3
    assert depth.pop(("audio", "visual")) == 1
    assert set(depth.values()) == {2}
    assert len(depth) == 4
    assert model.width == 6 * 4


@pytest.mark.parametrize("variant", ["mult", "multv2", "gatedmultv2"])
def test_order_of_the_parts(tiny, windows, variant):
    dims = {"visual": 3, "audio": 2}
    model = tiny("cross_modal_attention", dims, BOTH, **SMALL, variant=variant)
    inputs = windows(dims, 2, 5)
    audio, visual = (
        model.reduce[m](inputs.embeddings[m]) + model.positions(torch.zeros(2, 5, 4)) for m in sorted(dims)
    )
    stacks = dict(zip(model.pairs, model.stacks, strict=True))
    to_audio, to_visual = (stacks[pair] for pair in (("visual", "audio"), ("audio", "visual")))
    joined = torch.cat((to_audio(audio, visual), to_visual(visual, audio)), dim=-1)
    hidden = torch.nn.functional.gelu(model.encoder(joined))
    estimate = model(inputs)
    torch.testing.assert_close(estimate.values, model.heads.values(hidden))
    torch.testing.assert_close(estimate.logits, model.heads.logits(hidden))


@pytest.mark.parametrize("variant", ["mult", "multv2", "gatedmultv2"])
def test_the_activation_is_the_one_before_the_heads(tiny, windows, variant):
    """As in the authors' code: with SELU, too, layers use GELU and plain dropout."""
    dims = {"visual": 3, "audio": 2}
    inputs, encoded = windows(dims, 2, 5), []
    for activation in ("gelu", "selu"):
        model = tiny("cross_modal_attention", dims, BOTH, **SMALL, variant=variant, activation=activation)
        model.encoder.register_forward_hook(lambda _, __, found: encoded.append(found))
        estimate = model(inputs)
    assert torch.equal(*encoded)
    torch.testing.assert_close(estimate.values, model.heads.values(torch.nn.functional.selu(encoded[1])))
    assert not any(isinstance(module, torch.nn.AlphaDropout) for module in model.modules())


def test_a_modality_alone_is_not_crossed():
    model = build_model("cross_modal_attention", {"audio": 5}, BOTH, SMALL)
    assert len(model.stacks) == 0
    assert model.width == 8


def test_heads_must_divide_the_half():
    with pytest.raises(SettingError, match="'d_model' is 68, expected a multiple of twice 4 heads"):
        build_model("cross_modal_attention", AV, BOTH, {"d_model": 68})
    with pytest.raises(SettingError, match="'variant' is 'multv3', expected one of mult, multv2"):
        build_model("cross_modal_attention", AV, BOTH, {"variant": "multv3"})
