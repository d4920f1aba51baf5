"""AV-SA: the counts of [Karas2022, Table 5] and the order of its parts."""

from __future__ import annotations

import pytest
import torch

from cache.errors import SettingError
from fusion.training.building import build_model

AV = {"audio": 128, "visual": 512}
BOTH = ("valence", "arousal")


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({}, 192_666),  # E2E, [Karas2022, Table 4]; 193 K in Table 5
        ({"d_model": 256, "d_ff": 64, "n_layers": 2}, 765_338),  # Inception
        ({"d_model": 128, "d_ff": 256, "n_layers": 3}, 482_842),  # Mobile
    ],
)
def test_parameters_of_the_paper(count, settings, parameters):
    assert count("self_attention", AV, BOTH, **settings) == parameters


def test_alone_a_convolution_replaces_the_linear_map(count):
    joint = count("self_attention", {"visual": 640}, BOTH)
    assert joint - count("self_attention", AV, BOTH) == 2 * 640 * 64


def test_order_of_the_parts(tiny, windows):
    dims = {"visual": 3, "audio": 2}
    model = tiny("self_attention", dims, BOTH, d_model=8, d_ff=6, n_heads=2, n_layers=2)
    inputs = windows(dims, 2, 5)
    x = torch.cat((inputs.embeddings["audio"], inputs.embeddings["visual"]), dim=-1)
    hidden = model.encoder(torch.nn.functional.gelu(model.reduce(x)) + model.positions(torch.zeros(2, 5, 8)))
    estimate = model(inputs)
    expected = torch.nn.functional.gelu(hidden)
    torch.testing.assert_close(estimate.values, model.heads.values(expected))
    torch.testing.assert_close(estimate.logits, model.heads.logits(expected))


def test_alpha_dropout_only_alone_and_with_selu():
    for dims, activation, kind in [
        ({"audio": 3}, "selu", torch.nn.AlphaDropout),
        ({"audio": 3}, "gelu", torch.nn.Dropout),
        ({"audio": 3, "visual": 3}, "selu", torch.nn.Dropout),
    ]:
        model = build_model("self_attention", dims, BOTH, {"activation": activation})
        assert type(model.dropout) is type(model.encoder[0].dropout1) is kind


def test_garbage_in_padding_may_even_be_nan(tiny, windows):
    model = tiny("self_attention", {"audio": 3}, d_model=8, d_ff=6, n_heads=2, n_layers=1)
    inputs = windows({"audio": 3}, 2, 6, [6, 3])
    before = model(inputs).values
    inputs.embeddings["audio"][1, 3:] = torch.nan
    assert torch.equal(model(inputs).values[1, :3], before[1, :3])


def test_heads_must_divide_the_width():
    with pytest.raises(SettingError, match="'d_model' is 60, expected a multiple of 8 heads"):
        build_model("self_attention", AV, BOTH, {"d_model": 60})
