"""Concordance correlation coefficient [Lin1989], which ranks systems and chooses epochs."""

from __future__ import annotations

from torch import Tensor

from fusion.scores.metric import MomentMetric


class CCC(MomentMetric):
    """CCC = 2 cov / (var_p + var_t + (mean_p - mean_t)^2), population moments, not the N-1 form.

    In [-1, 1]; 0 if only one of the two varies, nan if neither varies and their means are equal.
    """

    title = "CCC"

    @staticmethod
    def figure(sums: Tensor) -> Tensor:
        """Moments (..., 6, C) → (..., C)."""
        count, mean_p, mean_t, square_p, square_t, product = sums.unbind(dim=-2)
        return 2 * product / (square_p + square_t + count * (mean_p - mean_t).square())
