"""JCA: the count of the authors' code of the equations, and the equations in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cache.errors import ShapeError


def test_parameters_of_the_authors_code(count):
    assert count("joint_cross_attention", {"audio": 512, "visual": 512}) == 199_425


@pytest.mark.parametrize("dims", [{"audio": 2, "visual": 3}, {"audio": 2, "text": 4, "visual": 3}, {"audio": 3}])
def test_attention_is_its_equation(tiny, windows, dims):
    model = tiny("joint_cross_attention", dims, length=5, d_attention=4, d_hidden=6)
    inputs = windows(dims, 2, 5)
    s = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    for b in range(2):
        x = {m: inputs.embeddings[m][b].numpy() for m in sorted(dims)}
        joint = np.concatenate(list(x.values()), axis=1)
        attended = []
        for m in x:
            w_j, w_c, w_m, w_h = (
                s[f"attention.{m}.{name}.weight"] for name in ("time", "correlation", "feature", "attended")
            )
            c = np.tanh(x[m].T @ w_j.T @ joint / math.sqrt(joint.shape[1]))
            h = np.maximum(w_c @ c.T + w_m @ x[m], 0)
            assert h.shape == (4, dims[m])
            attended.append(w_h @ h + x[m])
        hidden = np.concatenate(attended, axis=1) @ s["regress.0.weight"].T + s["regress.0.bias"]
        expected = np.maximum(hidden, 0) @ s["regress.3.weight"].T + s["regress.3.bias"]
        np.testing.assert_allclose(model(inputs).values[b].detach(), expected, atol=1e-10)


def test_only_windows_of_its_length(tiny, windows):
    model = tiny("joint_cross_attention", {"audio": 2})
    assert model.fixed_length == 16
    with pytest.raises(ShapeError, match="'joint_cross_attention' got windows of 300 frames, expected 16"):
        model(windows({"audio": 2}, 1, 300))
