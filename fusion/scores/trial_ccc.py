"""Mean of the concordance correlation coefficients of single trials."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from fusion.scores.ccc import CCC
from fusion.scores.metric import MeanMetric


class TrialCCC(MeanMetric):
    """Mean over trials of each trial's CCC; `update` takes one whole trial. Trials whose CCC is nan are left out."""

    title = "CCC per trial"
    by_target = False
    brief = False

    def update(self, prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Self:
        """Add a trial; see `Metric.update`."""
        own = CCC.of(prediction, target, mask)
        self.count = self.count + own.isfinite()
        self.total = self.total + own.nan_to_num()
        return self
