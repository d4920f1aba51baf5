"""The contract of a backbone: a frozen network that turns each item of its input into one or more rows of embeddings.

A backbone file holds, in this order: what it is and where it comes from, its `Config`, its input, its weights
cards, the layers, and the class. Preprocessing constants and weights are never in different files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from cache.names import config_of, load_named
from cache.settings import as_settings
from cache.spec import FeatureSpec
from extract.backbones import BACKBONES
from extract.inputs.contract import Input
from extract.weights import Weights, WeightsCard, build_fitting, load_weights


class Backbone(nn.Module, ABC):
    """A frozen network with everything that tells what its embeddings mean.

    Attributes:
        name: in the table of backbones.
        modality: audio, text or visual.
        algorithm: raise it when a change of code changes what is computed.
        cards: registered weights by name.
        dim: D.
        input: what one item looks like, and the medium that it is read from.
    """

    name: ClassVar[str]
    modality: ClassVar[str]
    algorithm: ClassVar[int]
    cards: ClassVar[dict[str, WeightsCard]]
    dim: int
    input: Input

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = weights

    @classmethod
    def load(cls, config: Any, wanted: str) -> Self:
        """The network that a weights argument names; overridden where weights are more than one file."""
        return build_fitting(load_weights(wanted, cls.cards), lambda weights: cls.build(config, weights))

    @classmethod
    @abstractmethod
    def build(cls, config: Any, weights: Weights) -> Self:
        """The network with these weights, in evaluation mode."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything but the weights that changes what is computed, as JSON values."""

    @abstractmethod
    def forward(self, batch: Tensor) -> Tensor:
        """Rows (R, D) float32 of a checked batch, those of each item after those of the one before."""

    @torch.inference_mode()
    def embed(self, batch: Tensor) -> Tensor:
        """Rows (R, D) float32 of a batch of items: of an image or a piece of sound one each, of a sentence one per word.

        Args:
            batch: (B, H, W, 3) uint8 RGB for images, (B, S) float32 in [-1, 1] for sound, (B, 2, tokens) int64 for
                sentences.

        Raises:
            ShapeError: if the batch is not what `input` declares.
        """
        self.input.check(batch)
        return self(batch)

    def spec(self, dtype: str = "float16") -> FeatureSpec:
        """The recipe of this backbone's embeddings."""
        settings = {**self.settings(), "input_version": self.input.version}
        return FeatureSpec(self.name, self.modality, self.dim, settings, self.weights.sha256, self.algorithm, dtype)


def load_backbone(name: str, weights: str, settings: Any = None) -> Backbone:
    """Build a backbone by name.

    Args:
        name: from the table of backbones.
        weights: a registered name, a path, or "random".
        settings: the backbone's `Config`, or some of its fields by name.

    Raises:
        UnknownNameError: if the backbone or the weights are not known.
        SettingError: if settings are unknown, of the wrong type or outside their range.
        WeightsError: if the weights do not fit.
    """
    kind = load_named("backbone", BACKBONES, name)
    config: Any = as_settings(config_of(BACKBONES[name]), settings or {}, f"backbone '{name}'")
    backbone = kind.load(config, weights).eval().requires_grad_(False)
    backbone.weights = replace(backbone.weights, tensors=None)  # copied into the network; up to 290 MB
    return backbone
