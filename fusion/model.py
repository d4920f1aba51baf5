"""The contract of a fusion model: embeddings of windows in, an estimate per frame out.

A model is one file in `fusion/models/` with a frozen `Config` and a `FusionModel`, and one line in the table
`fusion.models.MODELS`. Every model guarantees the following (the contract tests run over the table):

* it accepts any set of named modalities of any dimension; where their order matters, it is alphabetical;
* padding (frames beyond `lengths`) never changes the output of a frame inside the window;
* a modality may be invalid everywhere; its embeddings are then zero;
* the inputs are not modified, and every parameter receives a gradient from `values` or `logits`;
* without an `obstacle`, `step` estimates frames as they come as `forward` does all of them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Inputs(NamedTuple):
    """A fusion model's input: B windows of L frames.

    Attributes:
        embeddings: {modality: (B, L, D)} float32, normalised; zero where not valid.
        valid: {modality: (B, L)} true where the backbone saw input.
        lengths: (B,) int64 on the CPU, frames of each window; the rest, up to L, is padding.
    """

    embeddings: dict[str, Tensor]
    valid: dict[str, Tensor]
    lengths: Tensor


class Estimate(NamedTuple):
    """A fusion model's output for each frame.

    Attributes:
        values: (B, L, C), one column per target, in the model's order of targets.
        logits: (B, L, 24), classes of the polar plane of valence and arousal [Karas2022, Section 3.4]; None
            if the model has no such head.
    """

    values: Tensor
    logits: Tensor | None = None


class ByModality(nn.ModuleDict):
    """Modules by the names of modalities, which may be any words; torch's own container refuses "train", "items" and others.

    Modules are reached by name only, and attributes are never modules.
    """

    def __setitem__(self, name: str, module: nn.Module) -> None:
        self._modules[name] = module

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


class FusionModel(nn.Module):
    """Base of all fusion models; a subclass is constructed with dims, targets and the `Config` of its file.

    Attributes:
        name: as in the table.
        dims: modality → D, alphabetical.
        targets: names of the C outputs.
        config: the settings it was built with.
        fixed_length: the only window length it accepts, in frames; None if it accepts any.
        solvable: whether `fit` computes the weights in closed form, without gradient steps.
        history: how many earlier frames an estimate depends on; None if also on later ones, or on all earlier ones.
    """

    fixed_length: int | None = None
    solvable: bool = False
    history: int | None = None

    def __init__(self, dims: Mapping[str, int], targets: tuple[str, ...], config: Any) -> None:
        super().__init__()
        self.name = ""
        self.dims = {modality: dims[modality] for modality in sorted(dims)}
        self.targets = tuple(targets)
        self.config = config

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting by name, defaults included; with name, dims and targets they rebuild the model."""
        return asdict(self.config)

    def forward(self, inputs: Inputs) -> Estimate:
        """Estimate every frame of every window."""
        raise NotImplementedError

    @property
    def obstacle(self) -> str:
        """What makes an estimate depend on later frames, and what to train instead; "" where nothing does."""
        if self.history is not None:
            return ""
        return (
            f"model '{self.name}' reads all frames of a window together; train one that only looks back: rnn with 'bidirectional: "
            "false', tcn, concatenation, channel_attention or leader_follower"
        )

    def step(self, inputs: Inputs, state: Any = None) -> tuple[Estimate, Any]:
        """Estimate frames that follow those of earlier steps, as if all were one window; only without an `obstacle`.

        Args:
            inputs: one window without padding.
            state: returned by the step before; None at the start.

        Returns:
            The estimate of these frames, and the state after them.
        """
        assert self.history is not None
        whole = inputs if state is None else _join(state, inputs)
        new = int(inputs.lengths[0])
        estimate = self(whole)
        kept = _last(whole, min(self.history, int(whole.lengths[0])))
        logits = None if estimate.logits is None else estimate.logits[:, -new:]
        return Estimate(estimate.values[:, -new:], logits), kept

    def fit(self, batches: Iterable[tuple[Inputs, Tensor, Tensor]]) -> None:
        """Solve for the weights in closed form, if the model is `solvable`.

        Args:
            batches: one pass of inputs, targets (B, L, C) and mask (B, L, C), true where the frame is labelled.
        """
        raise NotImplementedError


def _join(before: Inputs, after: Inputs) -> Inputs:
    """Frames of one window, and those that follow them."""
    embeddings = {m: torch.cat((rows, after.embeddings[m]), dim=1) for m, rows in before.embeddings.items()}
    valid = {m: torch.cat((rows, after.valid[m]), dim=1) for m, rows in before.valid.items()}
    return Inputs(embeddings, valid, before.lengths + after.lengths)


def _last(inputs: Inputs, count: int) -> Inputs:
    """The last frames of a window."""
    start = int(inputs.lengths[0]) - count
    embeddings = {m: rows[:, start:] for m, rows in inputs.embeddings.items()}
    return Inputs(embeddings, {m: rows[:, start:] for m, rows in inputs.valid.items()}, inputs.lengths - start)
