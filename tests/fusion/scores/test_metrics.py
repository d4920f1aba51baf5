"""Metrics re-derived from their equations, and against torchmetrics, audmetric and scipy."""

from __future__ import annotations

import audmetric
import numpy as np
import pytest
import scipy.stats
import torch
import torchmetrics.functional
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import ShapeError
from fusion.scores import METRICS
from fusion.scores.ccc import CCC
from fusion.scores.metric import load_metrics
from fusion.scores.pcc import PCC
from fusion.scores.rmse import RMSE
from fusion.scores.sagr import SAGR
from fusion.scores.trial_ccc import TrialCCC

ccc, pcc, rmse, sagr = CCC.of, PCC.of, RMSE.of, SAGR.of
FORMS = [(ccc, CCC), (pcc, PCC), (rmse, RMSE), (sagr, SAGR)]


def series(frames: int = 200, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(frames, 2, generator=generator).cumsum(0) / 10
    return target * 0.7 + torch.randn(frames, 2, generator=generator) / 5 + 0.1, target


def test_ccc_is_lins_equation():
    prediction, target = series()
    for column in range(2):
        p, t = prediction[:, column].double().numpy(), target[:, column].double().numpy()
        covariance = np.mean((p - p.mean()) * (t - t.mean()))
        expected = 2 * covariance / (p.var() + t.var() + (p.mean() - t.mean()) ** 2)
        assert float(ccc(prediction, target)[column]) == pytest.approx(expected, abs=1e-12)
        assert float(ccc(prediction, target)[column]) == pytest.approx(audmetric.concordance_cc(t, p), abs=1e-12)


def test_ccc_is_not_torchmetrics_mixture_but_close():
    """torchmetrics takes variances over N - 1, so the gap to Lin's definition must shrink like 1/N."""
    gaps = []
    for frames in (10, 1000):
        prediction, target = (x[:, 0].double() for x in series(frames))
        theirs = torchmetrics.functional.concordance_corrcoef(prediction, target)
        gaps.append(abs(float(theirs) - float(ccc(prediction[:, None], target[:, None]))))
    assert 1e-6 < gaps[0] < 0.1
    assert gaps[1] < gaps[0] / 10


def test_pcc_and_rmse_against_independent_references():
    prediction, target = series()
    for column in range(2):
        p, t = prediction[:, column].double(), target[:, column].double()
        assert float(pcc(prediction, target)[column]) == pytest.approx(
            scipy.stats.pearsonr(p.numpy(), t.numpy())[0], abs=1e-12
        )
        assert float(pcc(prediction, target)[column]) == pytest.approx(
            float(torchmetrics.functional.pearson_corrcoef(p, t)), abs=1e-9
        )
        assert float(rmse(prediction, target)[column]) == pytest.approx(
            audmetric.mean_squared_error(t.numpy(), p.numpy()) ** 0.5, abs=1e-12
        )


@pytest.mark.parametrize(("function", "kind"), FORMS)
@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6))
def test_accumulating_equals_concatenating(function, kind, sizes):
    prediction, target = series(sum(sizes) + 5)
    metric, start = kind(), 0
    for size in [*sizes, 5]:
        metric.update(prediction[start : start + size], target[start : start + size])
        start += size
    torch.testing.assert_close(metric.compute(), function(prediction, target), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("function", "kind"), FORMS)
def test_masked_frames_are_never_looked_at(function, kind):
    prediction, target = series(60)
    mask = torch.arange(60) % 3 > 0
    expected = function(prediction[mask], target[mask])
    spoiled = torch.where(mask[:, None], prediction, torch.nan).view(4, 15, 2)
    torch.testing.assert_close(function(spoiled, target.view(4, 15, 2), mask.view(4, 15)), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("function", "kind"), FORMS)
def test_rules_for_nan(function, kind):
    prediction, target = series(20)
    prediction[3, 1] = torch.nan
    result = function(prediction, target)
    assert result[0].isfinite()
    assert result[1].isnan()
    assert function(prediction, target, torch.zeros(20, dtype=torch.bool)).isnan().all()
    assert kind().compute().isnan().all()


def test_constants():
    moving = torch.linspace(-1, 1, 30)[:, None]
    still = torch.full((30, 1), 0.1)
    assert float(ccc(still, moving)) == 0
    assert float(ccc(moving, still)) == 0
    assert float(ccc(still, still + 0.5)) == 0
    assert ccc(still, still).isnan()
    assert pcc(still, moving).isnan()
    assert float(rmse(still, still)) == 0
    assert float(ccc(moving, moving)) == 1


def test_large_means_do_not_eat_the_spread():
    prediction, target = series()
    shifted = ccc(prediction.double() + 1e6, target.double() + 1e6)
    torch.testing.assert_close(shifted, ccc(prediction, target), rtol=1e-7, atol=0)


def test_a_perfect_prediction_far_from_zero_has_no_error():
    assert float(rmse(torch.full((9, 1), 1e8), torch.full((9, 1), 1e8))) == 0


@pytest.mark.parametrize(("function", "kind"), FORMS)
def test_shapes_must_fit(function, kind):
    with pytest.raises(ShapeError, match="expected \\(\\.\\.\\., C\\) twice"):
        function(torch.zeros(4, 2), torch.zeros(4, 1))
    with pytest.raises(ShapeError, match="the mask \\(3,\\)"):
        function(torch.zeros(4, 2), torch.zeros(4, 2), torch.ones(3, dtype=torch.bool))


def test_sign_agreement_is_the_share_of_equal_signs():
    prediction, target = series()
    target[:5] = 0
    for column in range(2):
        p, t = prediction[:, column].numpy(), target[:, column].numpy()
        assert float(sagr(prediction, target)[column]) == pytest.approx(np.mean(np.sign(p) == np.sign(t)))
        alike = audmetric.accuracy(np.sign(t), np.sign(p))
        assert float(sagr(prediction, target)[column]) == pytest.approx(alike)
    assert sagr(torch.zeros(3, 1), torch.tensor([[0.0], [0.1], [-0.0]])).tolist() == pytest.approx([2 / 3])


def test_per_trial_is_the_mean_of_the_trials():
    trials = [series(frames, seed) for seed, frames in enumerate((30, 200, 7))]
    metric = TrialCCC()
    for prediction, target in trials:
        metric.update(prediction, target)
    expected = [
        np.mean([audmetric.concordance_cc(t[:, c].double().numpy(), p[:, c].double().numpy()) for p, t in trials])
        for c in range(2)
    ]
    assert metric.compute().tolist() == pytest.approx(expected, abs=1e-12)
    still = torch.full((4, 2), 0.1)
    metric.update(still, still)  # neither varies: it has no CCC
    assert metric.compute().tolist() == pytest.approx(expected, abs=1e-12)
    assert TrialCCC().compute().isnan().all()


@pytest.mark.parametrize("name", METRICS)
def test_trials_put_together_are_all_frames_together(name):
    """Sums of trials, each taken as often as its weight says, give what updating with them gives; targets have their own masks."""
    kind, generator = load_metrics()[name], torch.Generator().manual_seed(3)
    trials = [
        (*series(frames, seed), torch.rand(frames, 2, generator=generator) < 0.8)
        for seed, frames in enumerate((30, 5, 80))
    ]
    trials[1][2][:, 0] = False  # not labelled at all
    weights = torch.tensor([[1, 1, 1], [2, 0, 1], [0, 3, 1]])
    sums = torch.stack([kind().update(*trial).sums() for trial in trials])
    together = kind.figure(kind.weigh(weights.double(), sums))
    for row, figure in zip(weights.tolist(), together, strict=True):
        whole = kind()
        for trial, count in zip(trials, row, strict=True):
            for _ in range(count):
                whole.update(*trial)
        torch.testing.assert_close(figure, whole.compute(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_each_target_has_its_own_mask(name):
    kind, (prediction, target) = load_metrics()[name], series(60)
    mask = torch.rand(60, 2, generator=torch.Generator().manual_seed(1)) < 0.6
    spoiled = target.masked_fill(~mask, torch.nan)
    for column in range(2):
        own = mask[:, column]
        alone = kind.of(prediction[own, column, None], target[own, column, None])
        torch.testing.assert_close(kind.of(prediction, spoiled, mask)[column, None], alone, rtol=1e-10, atol=1e-12)


def test_table_and_files_agree():
    assert all(target.startswith(f"fusion.scores.{name}:") for name, target in METRICS.items())
    for kind in load_metrics().values():
        assert kind.title
        assert kind().compute().isnan().all(), "no frames"
