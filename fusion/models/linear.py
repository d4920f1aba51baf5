"""Ridge regression on windowed features, a baseline: what can be had without any network.

Features of a frame t are means of the embeddings x_m over windows of several widths s around it, over the valid frames
inside the window that the model was given (zero, the mean of all, where there is none):

    z_t = [mean{x_m[u] : |u - t| <= (s - 1) / 2, valid} for all m, s],    values_t = W z_t + b

`fit` solves for the least squares with penalty in closed form, b not penalised, over the N labelled frames:

    W, b = argmin  1/N sum_t |W z_t + b - y_t|^2 + alpha |W|^2

which is scikit-learn's `Ridge(alpha=N * alpha)`. Sums over frames are taken batch by batch in float64, so that the
features of a whole corpus need never be in memory at once. Trained by gradient instead, it is a linear layer as others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from cache.errors import CorpusError, SettingError
from fusion.model import Estimate, FusionModel, Inputs
from fusion.padding import find_inside
from fusion.settings import check_ranges


@dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        spans: widths of the windows that embeddings are averaged over, in frames, odd.
        alpha: weight of the penalty, relative to the mean squared error.
    """

    spans: tuple[int, ...] = (1, 31, 121)
    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_ranges("model 'linear'", self, {"alpha": (1e-9, 1e9)}, {})
        if not self.spans or any(span < 1 or span % 2 == 0 for span in self.spans):
            raise SettingError(
                f"Settings of model 'linear': 'spans' is {list(self.spans)}, expected odd numbers of frames. Change the value."
            )


class LinearRegression(FusionModel):
    """Ridge regression on means of embeddings."""

    config: Config

    def __init__(self, dims: Mapping[str, int], targets: tuple[str, ...], config: Config) -> None:
        super().__init__(dims, targets, config)
        self.regress = nn.Linear(sum(self.dims.values()) * len(config.spans), len(self.targets))

    def features(self, inputs: Inputs) -> Tensor:
        """(B, L, D) per modality → (B, L, F), modality after modality, each span after span."""
        inside = find_inside(inputs)
        columns = []
        for modality in self.dims:
            valid = inputs.valid[modality] if inside is None else inputs.valid[modality] & inside
            rows = inputs.embeddings[modality].masked_fill(~valid[:, :, None], 0.0).transpose(1, 2)
            columns += [_average(rows, valid.to(rows.dtype)[:, None], span) for span in self.config.spans]
        return torch.cat(columns, dim=1).transpose(1, 2)

    def forward(self, inputs: Inputs) -> Estimate:
        """(B, L, D) per modality → values (B, L, C)."""
        return Estimate(self.regress(self.features(inputs)))

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Inputs, Tensor, Tensor]]) -> None:
        """Solve for the weights, in the place of gradient steps; one pass.

        Args:
            batches: inputs, targets (B, L, C) and mask (B, L), true where the frame is labelled. Frames that are in
                several windows count several times.

        Raises:
            CorpusError: if no frame is labelled.
        """
        total, gram, count = self._sum(batches)
        if not count:
            raise CorpusError("Model 'linear' was given no labelled frame; expected at least one. Check the labels.")
        mean = total / count
        spread = gram / count - torch.outer(mean, mean)
        size = self.regress.in_features
        penalty = self.config.alpha * torch.eye(size, dtype=spread.dtype, device=spread.device)
        weights = torch.linalg.solve(spread[:size, :size] + penalty, spread[:size, size:])
        self.regress.weight.copy_(weights.T)
        self.regress.bias.copy_(mean[size:] - mean[:size] @ weights)

    def _sum(self, batches: Iterable[tuple[Inputs, Tensor, Tensor]]) -> tuple[Tensor, Tensor, int]:
        """Sum (F + C,), sum of products (F + C, F + C), both float64, and number of labelled frames."""
        width = self.regress.in_features + self.regress.out_features
        total = torch.zeros(width, dtype=torch.float64, device=self.regress.weight.device)
        gram, count = torch.zeros(width, width, dtype=torch.float64, device=total.device), 0
        for inputs, targets, mask in batches:
            rows = torch.cat((self.features(inputs)[mask], targets[mask]), dim=1).double()
            total += rows.sum(dim=0)
            gram.addmm_(rows.T, rows)
            count += len(rows)
        return total, gram, count


def _average(rows: Tensor, valid: Tensor, span: int) -> Tensor:
    """Means of rows (B, D, L), zero where not valid, over the valid (B, 1, L) frames of centred windows of `span`."""
    if span == 1:
        return rows
    sums, counts = (functional.avg_pool1d(x, span, stride=1, padding=span // 2) * span for x in (rows, valid))
    return sums / counts.clamp_min(1)
