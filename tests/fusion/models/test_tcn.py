"""The unimodal network: counts of its branches, and that it is causal as a whole."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize(
    ("modality", "dim", "branch", "width"),
    [("visual", 512, 2_215_296, 128), ("audio", 128, 139_104, 32), ("text", 768, 2_608_512, 128)],
)
def test_parameters_of_a_branch(count, modality, dim, branch, width):
    assert count("tcn", {modality: dim}) == branch + 2 * width + width + 1


def test_a_prediction_never_looks_ahead(tiny, windows):
    dims = {"audio": 3, "visual": 2}
    model = tiny("tcn", dims, channels=(4, 4), channels_of={"audio": (3, 3)})
    inputs = windows(dims, 1, 20)
    before = model(inputs).values
    for x in inputs.embeddings.values():
        x[:, 12:] += 3
    after = model(inputs).values
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12], after[:, 12])


def test_outputs_are_squashed(tiny, windows):
    model = tiny("tcn", {"audio": 3}, channels_of={"audio": (4,)})
    inputs = windows({"audio": 3}, 1, 6)
    inputs.embeddings["audio"].mul_(1e4)
    assert float(model(inputs).values.detach().abs().max()) <= 1
