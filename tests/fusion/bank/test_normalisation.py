"""One pair of moments for a modality, or none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion.bank.normalisation import measure_moments


def test_coarser_normalisations() -> None:
    rng = np.random.default_rng(0)
    trials = [torch.from_numpy(rng.normal(3, 2, (20 + 5 * i, 4)) * [1, 2, 3, 4]).float() for i in range(3)]
    moments = measure_moments("x", [(rows, torch.ones(len(rows), dtype=torch.bool)) for rows in trials])
    together = torch.cat(trials).numpy()
    assert moments.simplified("dimension") is moments
    one = moments.simplified("scalar")
    assert one.mean.numpy() == pytest.approx(np.full(4, together.mean()), rel=1e-5)
    assert one.std.numpy() == pytest.approx(np.full(4, together.std()), rel=1e-5)
    rows = trials[0].clone()
    none = moments.simplified("none")
    assert torch.equal(none.normalise_(rows.clone(), torch.ones(len(rows), dtype=torch.bool), torch.float32), rows)
