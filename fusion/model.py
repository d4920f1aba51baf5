"""The contract of a fusion model: embeddings of windows in, an estimate per frame out.

A model is one file in `fusion/models/` with a frozen `Config` and a `FusionModel`, and one line in the table
`fusion.models.MODELS`. What every model promises (the contract tests run over the table):

* any set of named modalities of any dimension; where their order matters it is the alphabetical one;
* padding (frames behind `lengths`) never changes the output of a frame inside;
* a modality that is invalid everywhere is allowed, its embeddings are then zero;
* the inputs are not changed, and every parameter receives a gradient from `values` or `logits`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from torch import Tensor, nn


class Inputs(NamedTuple):
    """What a fusion model sees of B windows of L frames.

    Attributes:
        embeddings: {modality: (B, L, D)} float32, normalised; zero where not valid.
        valid: {modality: (B, L)} true where the backbone saw input.
        lengths: (B,) int64 on the CPU, frames of each window; what follows them up to L is padding.
    """

    embeddings: dict[str, Tensor]
    valid: dict[str, Tensor]
    lengths: Tensor


class Estimate(NamedTuple):
    """What a fusion model says about each frame.

    Attributes:
        values: (B, L, C), the targets in the order in which the model was built.
        logits: (B, L, 24), classes of the polar plane of valence and arousal [Karas2022, Section 3.4]; None
            where the model has no such head.
    """

    values: Tensor
    logits: Tensor | None = None


class FusionModel(nn.Module):
    """Base of all fusion models; a subclass is called with dims, targets and the `Config` of its file.

    Attributes:
        name: as in the table.
        dims: modality → D, alphabetical.
        targets: names of the C outputs.
        config: the settings that it was built with.
        fixed_length: the only window length that it accepts, in frames; None where any is accepted.
        solvable: whether `fit` solves for the weights, instead of gradient steps.
    """

    fixed_length: int | None = None
    solvable: bool = False

    def __init__(self, dims: Mapping[str, int], targets: tuple[str, ...], config: Any) -> None:
        super().__init__()
        self.name = ""
        self.dims = {modality: dims[modality] for modality in sorted(dims)}
        self.targets = tuple(targets)
        self.config = config

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting by name, defaults included: with name, dims and targets it rebuilds the model."""
        return asdict(self.config)

    def forward(self, inputs: Inputs) -> Estimate:
        """Estimate every frame of every window."""
        raise NotImplementedError

    def fit(self, batches: Iterable[tuple[Inputs, Tensor, Tensor]]) -> None:
        """Solve for the weights in closed form, where the model is `solvable`.

        Args:
            batches: inputs, targets (B, L, C) and mask (B, L, C), true where the frame is labelled; one pass.
        """
        raise NotImplementedError
