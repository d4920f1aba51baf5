"""Ridge regression: windowed means against a loop, the closed form against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from cache.errors import CorpusError, SettingError
from fusion.training.building import build_model

DIMS = {"visual": 2, "audio": 3}


def test_features_are_means_over_the_valid_frames_around(tiny, windows):
    model = tiny("linear", DIMS, spans=(1, 3, 7))
    inputs = windows(DIMS, 2, 6, [6, 4])
    inputs.valid["audio"][0, 1:3] = False
    inputs.valid["visual"][1] = False
    for m in DIMS:
        inputs.embeddings[m].masked_fill_(~inputs.valid[m][:, :, None], 7.0)  # not looked at
    got = model.features(inputs)
    for b, length in enumerate([6, 4]):
        for t in range(length):
            expected = []
            for m in sorted(DIMS):
                for span in (1, 3, 7):
                    near = [u for u in range(length) if abs(u - t) <= span // 2 and inputs.valid[m][b, u]]
                    x = inputs.embeddings[m][b, near].numpy()
                    expected += list(x.mean(axis=0)) if near else [0.0] * DIMS[m]
            np.testing.assert_allclose(got[b, t], expected, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.01, 2.0])
@pytest.mark.parametrize("apart", [1.0, 0.7], ids=["labelled together", "each target by itself"])
def test_fit_is_scikit_learns_ridge(tiny, windows, alpha, apart):
    model = tiny("linear", DIMS, ("valence", "arousal"), spans=(1, 5), alpha=alpha)
    generator = torch.Generator().manual_seed(5)
    batches = []
    for lengths in ([9, 9, 4], [6, 2]):
        inputs = windows(DIMS, len(lengths), 9, lengths)
        targets = torch.randn(len(lengths), 9, 2, generator=generator, dtype=torch.float64) + 3
        mask = inputs.valid["audio"] & (torch.rand(len(lengths), 9, generator=generator) < 0.8)
        mask = mask[..., None] & (torch.rand(len(lengths), 9, 2, generator=generator) < apart)
        batches.append((inputs, targets.masked_fill(~mask, 1e9), mask))
    model.fit(iter(batches))
    for column in range(2):
        x = np.concatenate([model.features(inputs)[mask[..., column]].numpy() for inputs, _, mask in batches])
        y = np.concatenate([targets[..., column][mask[..., column]].numpy() for _, targets, mask in batches])
        ridge = Ridge(alpha=alpha * len(x)).fit(x, y)
        np.testing.assert_allclose(model.regress.weight[column].detach(), ridge.coef_, atol=1e-10)
        np.testing.assert_allclose(model.regress.bias[column].detach(), ridge.intercept_, atol=1e-10)
        inputs = batches[0][0]
        expected = ridge.predict(model.features(inputs)[0].numpy())
        np.testing.assert_allclose(model(inputs).values[0, :, column].detach(), expected)


def test_fit_recovers_what_is_linear_in_single_precision(windows):
    model = build_model("linear", DIMS, ("valence",), {"spans": (1,), "alpha": 1e-9})
    inputs = windows(DIMS, 8, 20)
    inputs = inputs._replace(embeddings={m: x.float() for m, x in inputs.embeddings.items()})
    targets = inputs.embeddings["audio"][..., :1] * 0.3 - inputs.embeddings["visual"][..., 1:] + 0.2
    model.fit([(inputs, targets, inputs.valid["audio"][..., None])])
    torch.testing.assert_close(model(inputs).values.detach(), targets, atol=1e-5, rtol=0)
    assert model.regress.weight.requires_grad


def test_fit_needs_a_labelled_frame(tiny, windows):
    model, inputs = tiny("linear", DIMS), windows(DIMS, 1, 4)
    with pytest.raises(CorpusError, match="0 labelled frames of valence.*Check the labels"):
        model.fit([(inputs, torch.zeros(1, 4, 1, dtype=torch.float64), torch.zeros(1, 4, 1, dtype=torch.bool))])


@pytest.mark.parametrize("spans", [(), (2,), (3, -1)])
def test_spans_are_odd(spans):
    with pytest.raises(SettingError, match="expected odd numbers of frames"):
        build_model("linear", DIMS, ("valence",), {"spans": spans})
