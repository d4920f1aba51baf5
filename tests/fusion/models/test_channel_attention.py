"""CAN: the counts of [Zhang2023]'s code and its softmax over all channels in NumPy."""

from __future__ import annotations

import numpy as np
import torch

from fusion.training.building import build_model

AV = {"audio": 128, "visual": 512}


def test_parameters_of_the_authors_code(count):
    assert count("channel_attention", AV) == 3_018_305  # 3,051,201 with the convolution that is never called
    with torch.device("meta"):
        model = build_model("channel_attention", AV, ("valence",), {})
    assert {m: count(branch.tcn) for m, branch in model.branches.items()} == {"audio": 481_088, "visual": 2_379_648}
    assert sum(count(branch.norm) for branch in model.branches.values()) == 384
    assert count(model.project) + count(model.attend) == 90_624
    assert (count(model.hidden), count(model.norm), count(model.regress)) == (65_792, 512, 257)


def test_fusion_is_its_equation(tiny, windows):
    dims = {"audio": 2, "text": 4, "visual": 3}
    small = {"channels": (4,), "channels_of": {"audio": (3,), "text": (2,)}, "width": 3}
    model = tiny("channel_attention", dims, **small)
    inputs = windows(dims, 2, 4)
    hidden = {m: h.detach().numpy() for m, h in model.branches(inputs).items()}
    s = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    parts = [hidden[m] @ s[f"project.{m}.weight"].T + s[f"project.{m}.bias"] for m in sorted(dims)]
    z = np.concatenate(parts, axis=-1)
    weights = np.exp(z @ s["attend.weight"].T + s["attend.bias"])
    weights /= weights.sum(axis=-1, keepdims=True)  # over all 9 channels, not per modality
    f = (weights * z) @ s["hidden.weight"].T + s["hidden.bias"]
    normed = (f - s["norm.running_mean"]) / np.sqrt(s["norm.running_var"] + 1e-5) * s["norm.weight"] + s["norm.bias"]
    expected = np.tanh(np.where(normed > 0, normed, 0.01 * normed) @ s["regress.weight"].T + s["regress.bias"])
    estimate = model(inputs)
    np.testing.assert_allclose(estimate.values.detach(), expected, atol=1e-10)
    assert estimate.logits is None


def test_padding_has_no_part_in_what_training_learns(tiny, windows):
    dims = {"audio": 2, "visual": 3}
    small = {"channels": (4,), "channels_of": {"audio": (3,)}, "width": 3, "dropout": 0.0}
    results = []
    for garbage in (0.0, 50.0):
        model = tiny("channel_attention", dims, **small).train()
        inputs = windows(dims, 2, 6, [6, 3])
        for x in inputs.embeddings.values():
            x[1, 3:] = garbage
        results.append((model(inputs).values[1, :3], model.norm.running_var))
    torch.testing.assert_close(results[0], results[1])
