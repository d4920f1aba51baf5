"""Pearson's correlation coefficient."""

from __future__ import annotations

from torch import Tensor

from fusion.scores.metric import MomentMetric


class PCC(MomentMetric):
    """PCC = cov / (std_p std_t), in [-1, 1]; nan if either of the two never varies."""

    title = "PCC"
    brief = False

    @staticmethod
    def figure(sums: Tensor) -> Tensor:
        """Moments (..., 6, C) → (..., C)."""
        _, _, _, square_p, square_t, product = sums.unbind(dim=-2)
        return (product / (square_p.sqrt() * square_t.sqrt())).clamp(-1, 1)
