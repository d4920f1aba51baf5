"""Sign agreement: how often prediction and label lie on the same side of the middle of the range."""

from __future__ import annotations

import torch
from torch import Tensor

from fusion.scores.metric import MeanMetric


class SAGR(MeanMetric):
    """Share of frames where sign(prediction) = sign(target) [Nicolaou2011], in [0, 1].

    Both are relative to the middle of the target's range. The sign of 0 is 0: only a prediction of exactly 0 agrees with a
    label of exactly 0.
    """

    title = "SAGR"
    brief = False

    def frame(self, prediction: Tensor, target: Tensor) -> Tensor:
        """1 where the signs agree, 0 where not, nan where one is nan."""
        alike = (prediction.sign() == target.sign()).double()
        return alike.masked_fill(prediction.isnan() | target.isnan(), torch.nan)
