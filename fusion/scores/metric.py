"""The contract of a metric: sums over frames, in float64, and the score computed from them.

A metric is one file in `fusion/scores/` with a class, and one line in the table `fusion.scores.METRICS`; evaluation,
comparison and report need nothing else. It sums one trial at a time and combines the sums of several trials, each weighted
by how often a bootstrap draws it. The estimator is the same everywhere: population moments (divided by N), as in [Lin1989]
and the challenge.

Rules for nan: values outside the mask are ignored; each target may have its own mask. A nan in a counted frame makes that
target's score nan, and so does a mask without a counted frame.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor

from cache.errors import ShapeError
from cache.names import load_named
from fusion.scores import METRICS


class Metric(ABC):
    """Base of all metrics: `update` with frames, then `compute`.

    Attributes:
        title: its heading in tables.
        kind: the kind of target that it is for.
        higher_is_better: whether the run with the highest score is the best; else the lowest.
        digits: decimal places in tables.
        in_unit: whether it is in the unit of the target; then targets of different ranges are not averaged.
        by_target: whether the report shows it for each target; else only its mean over targets.
        brief: whether the tables of `evaluate` and `compare` also show it.
    """

    title: ClassVar[str]
    kind: ClassVar[str] = "continuous"
    higher_is_better: ClassVar[bool] = True
    digits: ClassVar[int] = 3
    in_unit: ClassVar[bool] = False
    by_target: ClassVar[bool] = True
    brief: ClassVar[bool] = True

    @abstractmethod
    def update(self, prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Self:
        """Add frames; for metrics of whole trials, all frames of one trial.

        Args:
            prediction: (..., C), any range.
            target: (..., C), same range.
            mask: (...), or (..., C) with one mask per target, true where the frame counts; by default every frame counts.

        Raises:
            ShapeError: if the three shapes do not match.
        """

    @abstractmethod
    def sums(self) -> Tensor:
        """(S, C) float64, the accumulated sums; zero before the first frame."""

    @staticmethod
    @abstractmethod
    def figure(sums: Tensor) -> Tensor:
        """Sums (..., S, C) → the metric (..., C)."""

    @classmethod
    def weigh(cls, weights: Tensor, sums: Tensor) -> Tensor:
        """Combined sums of several trials.

        Args:
            weights: (D, N), how often each trial counts in each of D draws.
            sums: (N, S, C), the sums of each trial.

        Returns:
            (D, S, C).
        """
        return torch.einsum("dn,nsc->dsc", weights, sums)

    def compute(self) -> Tensor:
        """(C,), the score over all frames so far."""
        return self.figure(self.sums())

    @classmethod
    def of(cls, prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """(C,), the score of these frames; arguments and errors as in `update`."""
        return cls().update(prediction, target, mask).compute()


def load_metrics() -> dict[str, type[Metric]]:
    """Every metric of the table, in order."""
    return {name: load_named("metric", METRICS, name) for name in METRICS}


class MeanMetric(Metric):
    """A function of the mean over frames of a value per frame; subclasses define `frame`."""

    def __init__(self) -> None:
        self.count = torch.zeros(1, dtype=torch.float64)  # (C,)
        self.total = torch.zeros(1, dtype=torch.float64)

    def frame(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(N, C) twice → (N, C)."""
        raise NotImplementedError

    def update(self, prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Self:
        """Add frames; see `Metric.update`."""
        p, t, counted = counted_frames(prediction, target, mask)
        self.count = self.count + counted.sum(dim=0)
        self.total = self.total + self.frame(p, t).masked_fill(~counted, 0).sum(dim=0)
        return self

    def sums(self) -> Tensor:
        """(2, C): number of frames, and the sum over them."""
        return torch.stack([self.count, self.total])

    @staticmethod
    def figure(sums: Tensor) -> Tensor:
        """The mean."""
        count, total = sums.unbind(dim=-2)
        return total / count


class MomentMetric(Metric):
    """A function of the moments of prediction and target; subclasses define `figure`.

    Moments of trials are merged pairwise, in the stable form of [Chan1983], with the same result as for all frames together.
    """

    def __init__(self) -> None:
        self.count = torch.zeros(1, dtype=torch.float64)  # (C,)
        self.mean = torch.zeros(2, 1, dtype=torch.float64)  # (prediction and target, C)
        self.square = torch.zeros(2, 1, dtype=torch.float64)
        self.product = torch.zeros(1, dtype=torch.float64)

    def update(self, prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Self:
        """Add frames; see `Metric.update`."""
        *pair, counted = counted_frames(prediction, target, mask)
        if not len(counted):
            return self
        both = torch.stack(pair)
        outside = ~counted
        count = counted.sum(dim=0).double()
        # deviations from a counted frame of the series, so that a constant series has a spread of exactly 0
        first = both.gather(1, counted.int().argmax(dim=0).expand(2, 1, -1))
        shifted = (both - first).masked_fill(outside, 0)
        centre = shifted.sum(dim=1, keepdim=True) / count.clamp_min(1)
        p, t = deviations = (shifted - centre).masked_fill(outside, 0)
        mean = (first + centre)[:, 0].masked_fill(count == 0, 0)
        self._merge(count, mean, deviations.square().sum(dim=1), (p * t).sum(dim=0))
        return self

    def _merge(self, count: Tensor, mean: Tensor, square: Tensor, product: Tensor) -> None:
        """Pairwise update of [Chan1983], separately for each target."""
        total = self.count + count
        delta = mean - self.mean
        weight = self.count * count / total.clamp_min(1)
        self.square = self.square + square + weight * delta.square()
        self.product = self.product + product + weight * delta[0] * delta[1]
        self.mean = torch.where(self.count > 0, self.mean + delta * (count / total.clamp_min(1)), mean)
        self.count = total

    def sums(self) -> Tensor:
        """(6, C): number of frames, means of prediction and target, their sums of squared deviations and of products."""
        return torch.stack([self.count, *self.mean, *self.square, self.product])

    @classmethod
    def weigh(cls, weights: Tensor, sums: Tensor) -> Tensor:
        """Merge trials; deviations are taken from one trial's mean, so that a constant keeps a spread of exactly 0."""
        count, means, squares, products = sums[:, :1], sums[:, 1:3], sums[:, 3:5], sums[:, 5]
        first = means.gather(0, (count > 0).int().argmax(dim=0, keepdim=True).expand(1, 2, -1))
        apart = (means - first).masked_fill(count == 0, 0)
        total = torch.einsum("dn,nkc->dkc", weights, count)
        centre = torch.einsum("dn,nkc->dkc", weights, count * apart) / total.clamp_min(1)
        square = torch.einsum("dn,nkc->dkc", weights, squares + count * apart.square()) - total * centre.square()
        product = torch.einsum("dn,nc->dc", weights, products + count[:, 0] * apart.prod(dim=1))
        product = product - total[:, 0] * centre.prod(dim=1)
        return torch.cat([total, first + centre, square.clamp_min(0), product[:, None]], dim=1)


def counted_frames(prediction: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Both as (N, C) float64 on the CPU, and which values count (N, C); frames in which none counts are left out.

    Raises:
        ShapeError: if the three shapes do not match.
    """
    fits = mask is None or mask.shape in (prediction.shape, prediction.shape[:-1])
    if prediction.shape != target.shape or prediction.ndim < 2 or not fits:
        shapes = f"{tuple(prediction.shape)}, {tuple(target.shape)}"
        raise ShapeError(
            f"Prediction and target have shapes {shapes}, the mask {None if mask is None else tuple(mask.shape)}; "
            "expected (..., C) twice and (...) or (..., C). Give one row per frame."
        )
    p, t = (x.detach().cpu().double().reshape(-1, x.shape[-1]) for x in (prediction, target))
    if mask is None:
        return p, t, torch.ones_like(p, dtype=torch.bool)
    each = mask if mask.ndim == prediction.ndim else mask[..., None]
    counted = each.cpu().expand(prediction.shape).reshape(p.shape)
    kept = counted.any(dim=1)
    return p[kept], t[kept], counted[kept]
