"""Losses: agreement (1 - CCC) per batch or per window, squared error, and cross-entropy over polar classes.

    L = L_ccc + lambda_mse L_mse + lambda_ce L_ce                                    [Karas2022, Equation 5]

All take `prediction` and `target` (B, L, C), and `mask` (B, L, C), true where a frame counts for a target; frames outside
it contribute neither value nor gradient, and their targets may be any finite number. If padding should count with targets
0, as in [Zhang2023]'s code, the batch is changed (`fusion.bank.counted_padding.count_padding`), not the loss.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from cache.errors import SettingError
from cache.names import load_named
from fusion.model import Estimate
from fusion.settings import CLASS_WEIGHTINGS, LOSSES

NUM_SECTORS, NUM_RINGS = 8, 3
NUM_POLAR_CLASSES = NUM_SECTORS * NUM_RINGS
RADIUS_EDGES = tuple(ring * math.sqrt(2) / NUM_RINGS for ring in range(1, NUM_RINGS))  # the rim is sqrt(2)
ANGLE_EDGES = tuple((sector - 4) * math.pi / 4 for sector in range(1, NUM_SECTORS))  # from -3/4 pi to 3/4 pi

LAMBDA_CE = 0.88  # the default, from the recurrent model in [Karas2022, Table 4]

# Class = sector + 8 ring; sectors 0-3 are negative arousal. From the authors' code of [Karas2022].
CLASS_WEIGHTS = (
    *(1.28, 1.06, 0.81, 0.89, 0.81, 0.81, 0.81, 0.81),
    *(1.28, 1.28, 1.26, 1.28, 0.81, 0.81, 0.81, 0.81),
    *(1.28, 1.28, 1.28, 1.28, 0.81, 0.83, 0.81, 0.83),
)

_EPSILON = 1e-8  # keeps the CCC of two equal constants finite; a label variance is about 0.1


def has_polar_plane(targets: tuple[str, ...]) -> bool:
    """Whether both axes of the polar plane, valence and arousal, are among the targets."""
    return {"valence", "arousal"} <= set(targets)


def ccc_loss(prediction: Tensor, target: Tensor, mask: Tensor, moments: str = "lin") -> Tensor:
    """Mean over targets of 1 - CCC, each CCC over all frames of the batch [Karas2022, Equation 3].

    CCC = 2 cov / (var_p + var_t + (mean_p - mean_t)^2), with population moments [Lin1989] or, with the moments "n-1",
    variances divided by N - 1 as in the authors' code; the difference is below 1e-3 for a batch of 1,024 frames.

    Returns:
        Scalar in [0, 2]; 1 if nothing varies or no frame counts.
    """
    return (1 - _ccc(prediction.flatten(0, 1), target.flatten(0, 1), mask.flatten(0, 1), 0, moments)).mean()


def windowed_ccc_loss(prediction: Tensor, target: Tensor, mask: Tensor, moments: str = "lin") -> Tensor:
    """Mean over windows and targets of 1 - CCC, each CCC along one window, as in the code of [Zhang2023].

    The paper only says "the CCC loss" (Section 3.4).

    Targets without a counted frame are left out of their window's mean, and windows without any are left out of the total.
    The published code divides the covariance by N and the variances by N - 1 (factor .9967 for 300 frames): moments "n-1".

    Returns:
        Scalar in [0, 2]; 0 if no frame counts.
    """
    counted = mask.any(dim=1)
    loss = ((1 - _ccc(prediction, target, mask, 1, moments)) * counted).sum(dim=-1) / counted.sum(dim=-1).clamp_min(1)
    return loss.sum() / counted.any(dim=-1).sum().clamp_min(1)


def _ccc(prediction: Tensor, target: Tensor, mask: Tensor, dim: int, moments: str) -> Tensor:
    """CCC along `dim` over the counted frames; two passes keep the precision of float32."""
    weight = mask.to(prediction.dtype)
    count = weight.sum(dim, keepdim=True)
    weight = weight / count.clamp_min(1)
    mean_p = (prediction * weight).sum(dim, keepdim=True)
    mean_t = (target * weight).sum(dim, keepdim=True)
    p, t = prediction - mean_p, target - mean_t
    variances = ((p * p + t * t) * weight).sum(dim)
    if moments == "n-1":
        variances = variances * (count / (count - 1).clamp_min(1)).squeeze(dim)
    spread = variances + (mean_p - mean_t).square().squeeze(dim)
    return 2 * (p * t * weight).sum(dim) / (spread + _EPSILON)


def mse_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over all counted values: a target with fewer labels has less weight.

    [Karas2022, Equation 4] writes a sum; the authors' code takes the mean, without which lambda has no fixed meaning.

    Returns:
        Scalar; 0 where no frame counts.
    """
    return ((prediction - target).square() * mask).sum() / mask.sum().clamp_min(1)


def polar_class(valence: Tensor, arousal: Tensor) -> Tensor:
    """Class 0 … 23 of points of the affect plane: sector + 8 ring [Karas2022, Section 3.4].

    Eight sectors of 45 degrees starting at -180, three rings of equal width up to the radius sqrt(2). Intervals are
    closed on the left; points beyond the rim or at +180 degrees belong to the last one. The origin, frequent in labels,
    has class 4 (ring 0, sector from 0 degrees); a clamp in the authors' training code puts it in class 0.

    Args:
        valence: any shape, in [-1, 1].
        arousal: the same shape and range.

    Returns:
        The same shape, int64.
    """
    v, a = valence.double() + 0.0, arousal.double() + 0.0  # + 0.0 turns -0.0, whose angle is 180 degrees, into 0.0
    angle_edges = torch.tensor(ANGLE_EDGES, dtype=torch.float64, device=v.device)
    radius_edges = torch.tensor(RADIUS_EDGES, dtype=torch.float64, device=v.device)
    sector = torch.bucketize(torch.atan2(a, v), angle_edges, right=True)
    return sector + NUM_SECTORS * torch.bucketize(torch.hypot(v, a), radius_edges, right=True)


def cross_entropy_loss(logits: Tensor, classes: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Weighted cross-entropy over counted frames: the sum of w_c (-log softmax(logits)_c), divided by the sum of w_c.

    Args:
        logits: (B, L, 24).
        classes: (B, L) int64.
        mask: (B, L), true where the frame counts.
        weight: (24,) weight of each class.

    Returns:
        Scalar; 0 where no frame counts.
    """
    kept = classes.masked_fill(~mask, -1).flatten()
    total = functional.cross_entropy(logits.flatten(0, 1), kept, weight, ignore_index=-1, reduction="sum")
    return total / (weight[classes] * mask).sum().clamp_min(1e-6)


def published_class_weights(labels: Tensor) -> Tensor:
    """Weights (24,) from the authors' code of [Karas2022], regardless of the labels."""
    return torch.tensor(CLASS_WEIGHTS)


def balanced_class_weights(labels: Tensor) -> Tensor:
    """Weights (24,) that give every class that occurs the same total weight: w_c = N / (K n_c).

    N frames, n_c of them in class c, K classes that occur; 1 where n_c is 0. As `class_weight="balanced"` in scikit-learn.

    Args:
        labels: (F, 2), valence and arousal of the training frames where both are labelled.
    """
    counts = torch.bincount(polar_class(labels[:, 0], labels[:, 1]), minlength=NUM_POLAR_CLASSES).float()
    occurs = counts > 0
    return torch.where(occurs, counts.sum() / (occurs.sum() * counts.clamp_min(1)), torch.ones_like(counts))


class Objective(nn.Module):
    """The weighted sum of the losses [Karas2022, Equation 5]."""

    class_weights: Tensor

    def __init__(
        self,
        targets: tuple[str, ...],
        loss: str,
        lambda_mse: float,
        lambda_ce: float | None,
        class_weights: str = "paper",
        labels: Tensor | None = None,
        moments: str = "lin",
    ) -> None:
        """Choose the losses.

        Args:
            targets: names of the C outputs.
            loss: a name of `fusion.settings.LOSSES`.
            lambda_mse: weight of the squared error.
            lambda_ce: weight of the cross-entropy; None for 0.88 if the model has polar classes, else 0.
            class_weights: a name of `fusion.settings.CLASS_WEIGHTINGS`.
            moments: of the CCC, one of `fusion.settings.CCC_MOMENTS`.
            labels: (F, C) of the training frames, nan where not labelled; needed by "training" class weights only.

        Raises:
            UnknownNameError: if there is no such loss or rule of weights.
            SettingError: if a cross-entropy is requested without both valence and arousal.
        """
        super().__init__()
        if lambda_ce and not has_polar_plane(targets):
            raise SettingError(
                f"'lambda_ce' is {lambda_ce} with targets {', '.join(targets)}; polar classes need valence and arousal. Set it to 0."
            )
        self.ccc_loss = partial(load_named("loss", LOSSES, loss), moments=moments)
        self.lambda_mse, self.lambda_ce = lambda_mse, lambda_ce
        self.axes = [targets.index("valence"), targets.index("arousal")] if has_polar_plane(targets) else None
        weigh = load_named("rule of class weights", CLASS_WEIGHTINGS, class_weights)
        points = labels[:, self.axes] if self.axes and labels is not None else torch.zeros(0, 2)
        self.register_buffer("class_weights", weigh(points[points.isfinite().all(dim=1)]))

    def forward(self, estimate: Estimate, target: Tensor, mask: Tensor) -> Tensor:
        """Scalar loss of an estimate against target (B, L, C) and mask (B, L, C).

        Raises:
            SettingError: if a cross-entropy is requested and the model has no class head.
        """
        loss = self.ccc_loss(estimate.values, target, mask)
        if self.lambda_mse:
            loss = loss + self.lambda_mse * mse_loss(estimate.values, target, mask)
        weight = self._weight_classes(estimate)
        if weight and self.axes and estimate.logits is not None:
            classes = polar_class(target[..., self.axes[0]], target[..., self.axes[1]])
            loss = loss + weight * cross_entropy_loss(
                estimate.logits, classes, mask[..., self.axes].all(dim=-1), self.class_weights
            )
        return loss

    def _weight_classes(self, estimate: Estimate) -> float:
        """Weight of the cross-entropy for a model with such estimates."""
        if self.lambda_ce is None:
            return 0.0 if estimate.logits is None else LAMBDA_CE
        if self.lambda_ce and estimate.logits is None:
            raise SettingError(
                f"'lambda_ce' is {self.lambda_ce} but the model has no polar classes. Leave it out, or set it to 0."
            )
        return self.lambda_ce
