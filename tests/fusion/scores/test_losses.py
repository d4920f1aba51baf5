"""Losses re-derived from their equations in float64, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from cache.errors import SettingError, UnknownNameError
from fusion.model import Estimate
from fusion.scores.ccc import CCC
from fusion.scores.losses import (
    CLASS_WEIGHTS,
    Objective,
    balanced_class_weights,
    ccc_loss,
    cross_entropy_loss,
    mse_loss,
    polar_class,
    windowed_ccc_loss,
)

TARGETS = ("valence", "arousal")


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prediction, target and mask (3, 10, 2): one window is cut short, and of some frames only valence is labelled."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(3, 10, 2, generator=generator, dtype=torch.float64) * 2 - 1
    prediction = target * 0.5 + torch.randn(3, 10, 2, generator=generator, dtype=torch.float64) / 4
    mask = torch.ones(3, 10, 2, dtype=torch.bool)
    mask[1, 6:] = False
    mask[0, 2:5, 1] = False
    return prediction, target, mask


def lin(p: np.ndarray, t: np.ndarray) -> float:
    covariance = np.mean((p - p.mean()) * (t - t.mean()))
    return 2 * covariance / (p.var() + t.var() + (p.mean() - t.mean()) ** 2)


def test_ccc_loss_is_one_minus_lin_over_the_batch(batch):
    prediction, target, mask = batch
    pairs = [(prediction[..., c][mask[..., c]].numpy(), target[..., c][mask[..., c]].numpy()) for c in range(2)]
    expected = np.mean([1 - lin(p, t) for p, t in pairs])
    assert float(ccc_loss(*batch)) == pytest.approx(expected, abs=1e-6)
    assert float(ccc_loss(*batch)) == pytest.approx(float(1 - CCC.of(*batch).mean()), abs=1e-6)


def test_moments_of_the_published_code(batch):
    """Covariance by N, variances by N - 1, as both papers' code has them."""

    def published(p: np.ndarray, t: np.ndarray) -> float:
        covariance = np.mean((p - p.mean()) * (t - t.mean()))
        return 2 * covariance / (p.var(ddof=1) + t.var(ddof=1) + (p.mean() - t.mean()) ** 2)

    rows = torch.tensor([[[0.0], [1.0], [2.0]]])
    by_hand = 2 * (4 / 3) / (1 + 4 + 1)  # of (0, 1, 2) and (0, 2, 4)
    assert float(ccc_loss(rows, 2 * rows, rows == rows, moments="n-1")) == pytest.approx(1 - by_hand)
    prediction, target, mask = batch
    pairs = [(prediction[..., c][mask[..., c]].numpy(), target[..., c][mask[..., c]].numpy()) for c in range(2)]
    expected = np.mean([1 - published(p, t) for p, t in pairs])
    assert float(ccc_loss(*batch, moments="n-1")) == pytest.approx(expected, abs=1e-6)
    assert float(ccc_loss(*batch)) != pytest.approx(expected, abs=1e-4)
    windows = [
        1 - published(prediction[b, :, c][mask[b, :, c]].numpy(), target[b, :, c][mask[b, :, c]].numpy())
        for b in range(3)
        for c in range(2)
    ]
    assert float(windowed_ccc_loss(*batch, moments="n-1")) == pytest.approx(np.mean(windows), abs=1e-6)
    objective = Objective(TARGETS, "window", 0.0, 0.0, moments="n-1")
    assert float(objective(Estimate(prediction), target, mask)) == pytest.approx(np.mean(windows), abs=1e-6)


def test_windowed_ccc_loss_is_the_mean_over_windows(batch):
    prediction, target, mask = batch
    each = [
        1 - lin(prediction[b, :, c][mask[b, :, c]].numpy(), target[b, :, c][mask[b, :, c]].numpy())
        for b in range(3)
        for c in range(2)
    ]
    assert float(windowed_ccc_loss(*batch)) == pytest.approx(np.mean(each), abs=1e-6)


def test_windows_without_labels_are_left_out(batch):
    prediction, target, mask = batch
    mask[2] = False
    expected = windowed_ccc_loss(prediction[:2], target[:2], mask[:2])
    torch.testing.assert_close(windowed_ccc_loss(prediction, target, mask), expected)
    mask[0, :, 1] = False  # of the first window only valence counts, of the second both
    alone = windowed_ccc_loss(prediction[:1, :, :1], target[:1, :, :1], mask[:1, :, :1])
    both = windowed_ccc_loss(prediction[1:2], target[1:2], mask[1:2])
    torch.testing.assert_close(windowed_ccc_loss(prediction, target, mask), (alone + both) / 2)


def test_mse_is_the_mean_over_counted_frames(batch):
    prediction, target, mask = batch
    expected = np.mean((prediction[mask].numpy() - target[mask].numpy()) ** 2)
    assert float(mse_loss(*batch)) == pytest.approx(expected, abs=1e-12)


def test_cross_entropy_is_weighted_and_masked(batch):
    _, target, mask = batch
    mask = mask.all(dim=-1)
    logits = torch.randn(3, 10, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    classes, weight = polar_class(target[..., 0], target[..., 1]), torch.tensor(CLASS_WEIGHTS, dtype=torch.float64)
    z, k, w = logits[mask].numpy(), classes[mask].numpy(), weight.numpy()
    surprise = np.log(np.exp(z).sum(1)) - z[np.arange(len(k)), k]
    result = float(cross_entropy_loss(logits, classes, mask, weight))
    assert result == pytest.approx((w[k] * surprise).sum() / w[k].sum(), abs=1e-6)
    assert result == pytest.approx(float(functional.cross_entropy(logits[mask], classes[mask], weight)), abs=1e-6)


@pytest.mark.parametrize("loss", [ccc_loss, windowed_ccc_loss, mse_loss])
def test_gradients_and_masked_frames(loss, batch):
    prediction, target, mask = batch
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: loss(p, target, mask), prediction)
    (gradient,) = torch.autograd.grad(loss(prediction, target, mask), prediction)
    assert (gradient[~mask] == 0).all()
    assert (gradient[mask] != 0).all()
    elsewhere = torch.where(mask, prediction, 99.0)
    torch.testing.assert_close(loss(elsewhere, target, mask), loss(prediction, target, mask), rtol=0, atol=1e-12)


def test_cross_entropy_gradient(batch):
    _, target, mask = batch
    mask = mask.all(dim=-1)
    logits = torch.randn(3, 10, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    classes = polar_class(target[..., 0], target[..., 1])
    weight = torch.tensor(CLASS_WEIGHTS, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: cross_entropy_loss(z, classes, mask, weight), logits)


@pytest.mark.parametrize("loss", [ccc_loss, windowed_ccc_loss, mse_loss])
def test_losses_stay_finite_where_nothing_varies_or_counts(loss):
    still = torch.zeros(2, 4, 2, requires_grad=True)
    for mask in (torch.ones(2, 4, 2, dtype=torch.bool), torch.zeros(2, 4, 2, dtype=torch.bool)):
        (gradient,) = torch.autograd.grad(loss(still, torch.zeros(2, 4, 2), mask), still)
        assert gradient.isfinite().all()


def test_polar_classes_follow_sector_and_ring():
    for ring, radius in enumerate((0.2, 0.7, 1.2)):
        for sector in range(8):
            angle = (sector - 4) * math.pi / 4 + math.pi / 8
            point = torch.tensor([radius * math.cos(angle), radius * math.sin(angle)])
            assert int(polar_class(point[0], point[1])) == sector + 8 * ring


@pytest.mark.parametrize(
    ("valence", "arousal", "expected"),
    [
        (0.0, 0.0, 4),  # the origin
        (-0.0, 0.0, 4),
        (-0.0, -0.0, 4),
        (0.3, 0.3, 5),  # edges of sectors belong to the next sector
        (0.0, 0.3, 6),
        (-0.3, 0.3, 7),
        (-0.3, 0.0, 7),  # +180 degrees is clamped
        (-0.3, -0.3, 1),
        (1.0, 1.0, 21),  # the rim is clamped
        (-1.0, -1.0, 17),
        (math.sqrt(2) / 3, 0.0, 12),  # edges of rings belong to the next ring
    ],
)
def test_polar_edges(valence, arousal, expected):
    point = torch.tensor([valence, arousal], dtype=torch.float64)
    assert int(polar_class(point[0], point[1])) == expected


def test_objective_is_the_weighted_sum(batch):
    prediction, target, mask = batch
    logits = torch.randn(3, 10, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    objective = Objective(TARGETS, "batch", 0.3, 0.7).double()
    classes = polar_class(target[..., 0], target[..., 1])
    expected = ccc_loss(*batch) + 0.3 * mse_loss(*batch)
    both = mask.all(dim=-1)  # frames that only have valence are in no class
    expected += 0.7 * cross_entropy_loss(logits, classes, both, torch.tensor(CLASS_WEIGHTS).double())
    torch.testing.assert_close(objective(Estimate(prediction, logits), target, mask), expected)
    swapped = Objective(TARGETS[::-1], "batch", 0.3, 0.7).double()
    torch.testing.assert_close(swapped(Estimate(prediction.flip(-1), logits), target.flip(-1), mask.flip(-1)), expected)
    torch.testing.assert_close(
        Objective(TARGETS, "window", 0.0, 0.0)(Estimate(prediction), target, mask), windowed_ccc_loss(*batch)
    )


def test_objective_refuses_what_it_cannot_do(batch):
    prediction, target, mask = batch
    with pytest.raises(SettingError, match="polar classes need valence and arousal"):
        Objective(("valence",), "batch", 0.0, 0.5)
    with pytest.raises(SettingError, match="the model has no polar classes"):
        Objective(TARGETS, "batch", 0.0, 0.5)(Estimate(prediction), target, mask)
    with pytest.raises(UnknownNameError, match="Unknown loss 'windw'"):
        Objective(TARGETS, "windw", 0.0, 0.0)


def test_an_open_weight_of_the_cross_entropy_asks_the_model(batch):
    prediction, target, mask = batch
    logits = torch.randn(3, 10, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    automatic, explicit = (Objective(TARGETS, "batch", 0.3, weight).double() for weight in (None, 0.88))
    torch.testing.assert_close(
        automatic(Estimate(prediction, logits), target, mask), explicit(Estimate(prediction, logits), target, mask)
    )
    without = Objective(TARGETS, "batch", 0.3, 0.0)
    torch.testing.assert_close(
        automatic(Estimate(prediction), target, mask), without(Estimate(prediction), target, mask)
    )
    alone = Objective(("valence",), "batch", 0.0, None)
    torch.testing.assert_close(
        alone(Estimate(prediction[..., :1]), target[..., :1], mask[..., :1]),
        ccc_loss(prediction[..., :1], target[..., :1], mask[..., :1]),
    )


def test_class_weights_from_labels_are_those_of_scikit_learn():
    labels = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.6  # the outer ring is empty
    labels[:200] = 0
    classes = polar_class(labels[:, 0], labels[:, 1]).numpy()
    occurring = np.unique(classes)
    expected = np.ones(24)
    expected[occurring] = compute_class_weight("balanced", classes=occurring, y=classes)
    np.testing.assert_allclose(balanced_class_weights(labels), expected, rtol=1e-6)
    assert len(occurring) < 24
    half = torch.tensor([[0.9, torch.nan], [torch.nan, -0.9]])  # in no class
    swapped = Objective(TARGETS[::-1], "batch", 0.0, None, "training", torch.cat([labels, half]).flip(-1))
    np.testing.assert_allclose(swapped.class_weights, expected, rtol=1e-6)
    assert torch.equal(Objective(TARGETS, "batch", 0.0, None).class_weights, torch.tensor(CLASS_WEIGHTS))
