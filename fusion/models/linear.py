"""Ridge regression on windowed features, a baseline that shows what is possible without a network.

The features of a frame t are means of the embeddings x_m over windows of several widths s around it. Only valid frames
inside the model's input window count; without any, the feature is zero, the overall mean:

    z_t = [mean{x_m[u] : |u - t| <= (s - 1) / 2, valid} for all m, s],    values_t = W z_t + b

`fit` solves the penalised least squares in closed form, b not penalised, over the N labelled frames of each target:

    W, b = argmin  1/N sum_t |W z_t + b - y_t|^2 + alpha |W|^2

which is scikit-learn's `Ridge(alpha=N * alpha)`. Sums over frames are accumulated batch by batch in float64, so the
features of a whole corpus never need to fit in memory. It can also be trained by gradient steps, like any linear layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from cache.errors import CorpusError, SettingError
from cache.settings import check_ranges
from fusion.layers.padding import find_inside
from fusion.model import Estimate, FusionModel, Inputs

Pattern = tuple[bool, ...]
"""For each target, whether it is labelled."""
Sums = tuple[Tensor, Tensor, int]
"""Sum (F + C,), sum of products (F + C, F + C), both float64, and number of frames."""


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
    solvable = True

    def __init__(self, dims: Mapping[str, int], targets: tuple[str, ...], config: Config) -> None:
        super().__init__(dims, targets, config)
        self.regress = nn.Linear(sum(self.dims.values()) * len(config.spans), len(self.targets))
        self.history = 0 if max(config.spans) == 1 else None

    @property
    def obstacle(self) -> str:
        """Wider spans look ahead."""
        if self.history is not None:
            return ""
        return f"model 'linear' with 'spans: {list(self.config.spans)}' averages later frames too; train it with 'spans: [1]', or a tcn"

    def features(self, inputs: Inputs) -> Tensor:
        """(B, L, D) per modality → (B, L, F), ordered by modality, then by span."""
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
        """Solve for the weights in one pass, instead of gradient steps.

        Args:
            batches: inputs, targets (B, L, C) and mask (B, L, C), true where the frame is labelled. Frames in several
                windows count several times.

        Raises:
            CorpusError: if a target has no labelled frame.
        """
        sums = self._sum(batches)
        size = self.regress.in_features
        groups = _group(sums, len(self.targets))
        if () in groups:
            names = ", ".join(self.targets[column] for column in groups[()])
            raise CorpusError(
                f"Model 'linear' got 0 labelled frames of {names}; expected at least one. Check the labels."
            )
        for patterns, columns in groups.items():
            total, gram, count = (
                sum(parts[1:], parts[0]) for parts in zip(*(sums[key] for key in patterns), strict=True)
            )
            mean = total / count
            spread = gram / count - torch.outer(mean, mean)
            penalty = self.config.alpha * torch.eye(size, dtype=spread.dtype, device=spread.device)
            chosen = [size + column for column in columns]
            weights = torch.linalg.solve(spread[:size, :size] + penalty, spread[:size, chosen])
            self.regress.weight[columns] = weights.T.to(self.regress.weight)
            self.regress.bias[columns] = (mean[chosen] - mean[:size] @ weights).to(self.regress.bias)

    def _sum(self, batches: Iterable[tuple[Inputs, Tensor, Tensor]]) -> dict[Pattern, Sums]:
        """Sums over frames, grouped by the set of targets that are labelled in them."""
        width = self.regress.in_features + self.regress.out_features
        found: dict[Pattern, Sums] = {}
        for inputs, targets, mask in batches:
            features = self.features(inputs)
            for pattern in mask.flatten(0, 1).unique(dim=0):
                key: Pattern = tuple(pattern.tolist())
                if not any(key):
                    continue
                chosen = (mask == pattern).all(dim=-1)
                rows = torch.cat((features[chosen], targets[chosen]), dim=1).double()
                total, gram, count = found.get(key) or (rows.new_zeros(width), rows.new_zeros(width, width), 0)
                found[key] = total + rows.sum(dim=0), gram.addmm_(rows.T, rows), count + len(rows)
        return found


def _group(patterns: Iterable[Pattern], num_targets: int) -> dict[tuple[Pattern, ...], list[int]]:
    """Group targets that are labelled in the same frames, to be solved together: patterns with labels → columns."""
    groups: dict[tuple[Pattern, ...], list[int]] = {}
    known = sorted(patterns)
    for column in range(num_targets):
        groups.setdefault(tuple(pattern for pattern in known if pattern[column]), []).append(column)
    return groups


def _average(rows: Tensor, valid: Tensor, span: int) -> Tensor:
    """Means of rows (B, D, L), zero where not valid, over the valid (B, 1, L) frames of centred windows of `span`."""
    if span == 1:
        return rows
    sums, counts = (functional.avg_pool1d(x, span, stride=1, padding=span // 2) * span for x in (rows, valid))
    return sums / counts.clamp_min(1)
