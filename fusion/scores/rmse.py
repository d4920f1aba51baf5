"""Root of the mean squared error, in the unit of the target."""

from __future__ import annotations

from torch import Tensor

from fusion.scores.metric import MeanMetric


class RMSE(MeanMetric):
    """RMSE = sqrt(mean (p - t)^2); sums the squared errors directly, as moments would lose precision near zero."""

    title = "RMSE"
    higher_is_better = False
    in_unit = True

    def frame(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Squared errors."""
        return (prediction - target).square()

    @staticmethod
    def figure(sums: Tensor) -> Tensor:
        """Sums (..., 2, C) → (..., C)."""
        return MeanMetric.figure(sums).sqrt()
