"""Metrics: CCC, PCC, RMSE and sign agreement of each target, in float64, over everything that was ever passed in.

One estimator throughout, population moments (divided by N), as in [Lin1989] and the challenge. The functions take
one set of frames; the classes accumulate over trials (`update`, then `compute`), merging moments in the stable form
of [Chan1983], and give what the function gives on the concatenation.

Rules for nan: what is outside the mask is never looked at; each target may have a mask of its own. A nan in a counted frame makes that target nan. No
counted frame is nan.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from cache.errors import ShapeError


def ccc(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Concordance correlation coefficient of each target.

    CCC = 2 cov / (var_p + var_t + (mean_p - mean_t)^2), population moments [Lin1989], not the N-1 form.

    Args:
        prediction: (..., C), any range.
        target: (..., C), same range.
        mask: (...), or (..., C) for each target by itself, true where the frame counts; all of them by default.

    Returns:
        (C,) float64 in [-1, 1]; 0 where only one of the two varies; nan where neither varies and both means agree.

    Raises:
        ShapeError: if the three do not fit each other.
    """
    return CCC().update(prediction, target, mask).compute()


def pcc(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Pearson's correlation coefficient of each target, cov / (std_p std_t).

    Args:
        prediction: (..., C), any range.
        target: (..., C), any range.
        mask: (...), or (..., C) for each target by itself, true where the frame counts; all of them by default.

    Returns:
        (C,) float64 in [-1, 1]; nan where one of the two never varies.

    Raises:
        ShapeError: if the three do not fit each other.
    """
    return PCC().update(prediction, target, mask).compute()


def rmse(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Root of the mean squared error of each target.

    Args:
        prediction: (..., C), any range.
        target: (..., C), same range.
        mask: (...), or (..., C) for each target by itself, true where the frame counts; all of them by default.

    Returns:
        (C,) float64, in the unit of the target.

    Raises:
        ShapeError: if the three do not fit each other.
    """
    return RMSE().update(prediction, target, mask).compute()


def sagr(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sign agreement of each target: the share of frames where sign(prediction) = sign(target) [Nicolaou2011].

    The sign of 0 is 0: a label of exactly 0 is met by a prediction of exactly 0 only.

    Args:
        prediction: (..., C), any range.
        target: (..., C), same range.
        mask: (...), or (..., C) for each target by itself, true where the frame counts; all of them by default.

    Returns:
        (C,) float64 in [0, 1].

    Raises:
        ShapeError: if the three do not fit each other.
    """
    return SAGR().update(prediction, target, mask).compute()


class _Moments:
    """Count, means, sums of squared deviations and of their product, of two series per target."""

    def __init__(self) -> None:
        self.count = torch.zeros(1, dtype=torch.float64)  # (C,)
        self.mean = torch.zeros(2, 1, dtype=torch.float64)  # (prediction and target, C)
        self.square = torch.zeros(2, 1, dtype=torch.float64)
        self.product = torch.zeros(1, dtype=torch.float64)

    def update(self, prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Self:
        """Add frames: prediction and target (..., C), mask (...) or (..., C)."""
        *pair, counted = _counted_frames(prediction, target, mask)
        if not len(counted):
            return self
        both, outside, count = torch.stack(pair), ~counted, counted.sum(dim=0).double()
        # deviations from a counted frame of the series: a constant one has a spread of exactly 0
        first = both.gather(1, counted.int().argmax(dim=0).expand(2, 1, -1))
        shifted = (both - first).masked_fill(outside, 0)
        centre = shifted.sum(dim=1, keepdim=True) / count.clamp_min(1)
        p, t = deviations = (shifted - centre).masked_fill(outside, 0)
        mean = (first + centre)[:, 0].masked_fill(count == 0, 0)
        self._merge(count, mean, deviations.square().sum(dim=1), (p * t).sum(dim=0))
        return self

    def _merge(self, count: Tensor, mean: Tensor, square: Tensor, product: Tensor) -> None:
        """Pairwise update of [Chan1983], each target by itself."""
        total = self.count + count
        delta = mean - self.mean
        weight = self.count * count / total.clamp_min(1)
        self.square = self.square + square + weight * delta.square()
        self.product = self.product + product + weight * delta[0] * delta[1]
        self.mean = torch.where(self.count > 0, self.mean + delta * (count / total.clamp_min(1)), mean)
        self.count = total


class CCC(_Moments):
    """Accumulating form of `ccc`."""

    def compute(self) -> Tensor:
        """(C,) over all frames so far."""
        apart = self.count * (self.mean[0] - self.mean[1]).square()
        return 2 * self.product / (self.square.sum(dim=0) + apart)


class PCC(_Moments):
    """Accumulating form of `pcc`."""

    def compute(self) -> Tensor:
        """(C,) over all frames so far."""
        spread = self.square[0].sqrt() * self.square[1].sqrt()
        return (self.product / spread).clamp(-1, 1)


class _Mean:
    """Mean over frames of something that each frame has of its own."""

    def __init__(self) -> None:
        self.count = torch.zeros(1, dtype=torch.float64)  # (C,)
        self.total = torch.zeros(1, dtype=torch.float64)

    def frame(self, p: Tensor, t: Tensor) -> Tensor:
        """(N, C) twice → (N, C)."""
        raise NotImplementedError

    def update(self, prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Self:
        """Add frames: prediction and target (..., C), mask (...) or (..., C)."""
        p, t, counted = _counted_frames(prediction, target, mask)
        self.count = self.count + counted.sum(dim=0)
        self.total = self.total + self.frame(p, t).masked_fill(~counted, 0).sum(dim=0)
        return self

    def compute(self) -> Tensor:
        """(C,) over all frames so far."""
        return self.total / self.count


class RMSE(_Mean):
    """Accumulating form of `rmse`; keeps the squared errors themselves, which moments would blur near zero."""

    def frame(self, p: Tensor, t: Tensor) -> Tensor:
        """Squared errors."""
        return (p - t).square()

    def compute(self) -> Tensor:
        """(C,) over all frames so far."""
        return super().compute().sqrt()


class SAGR(_Mean):
    """Accumulating form of `sagr`."""

    def frame(self, p: Tensor, t: Tensor) -> Tensor:
        """1 where the signs agree, 0 where not, nan where one is nan."""
        return (p.sign() == t.sign()).double().masked_fill(p.isnan() | t.isnan(), torch.nan)


class TrialCCC:
    """Mean of the CCCs of single trials; `update` takes one whole trial. Trials whose CCC is nan are left out."""

    def __init__(self) -> None:
        self.trials: list[Tensor] = []

    def update(self, prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Self:
        """Add a trial: prediction and target (..., C), mask (...) or (..., C)."""
        self.trials.append(ccc(prediction, target, mask))
        return self

    def compute(self) -> Tensor:
        """(C,) over all trials so far; nan where there is none."""
        return torch.stack(self.trials).nanmean(dim=0) if self.trials else torch.full((1,), torch.nan).double()


METRICS: dict[str, type[CCC] | type[PCC] | type[RMSE] | type[SAGR] | type[TrialCCC]] = {
    "ccc": CCC,
    "trial_ccc": TrialCCC,
    "pcc": PCC,
    "rmse": RMSE,
    "sagr": SAGR,
}


def _counted_frames(prediction: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Both as (N, C) float64 on the CPU, and which numbers count (N, C); frames without any that does are left out."""
    fits = mask is None or mask.shape in (prediction.shape, prediction.shape[:-1])
    if prediction.shape != target.shape or prediction.ndim < 2 or not fits:
        shapes = ", ".join(str(tuple(x.shape)) for x in (prediction, target) if x is not None)
        raise ShapeError(
            f"Prediction and target have shapes {shapes}, the mask {None if mask is None else tuple(mask.shape)}; "
            "expected (..., C) twice and (...) or (..., C). Give one row per frame."
        )
    p, t = (x.detach().cpu().double().reshape(-1, x.shape[-1]) for x in (prediction, target))
    if mask is None:
        return p, t, torch.ones_like(p, dtype=torch.bool)
    counted = (
        (mask if mask.ndim == prediction.ndim else mask[..., None]).cpu().expand(prediction.shape).reshape(p.shape)
    )
    kept = counted.any(dim=1)
    return p[kept], t[kept], counted[kept]
