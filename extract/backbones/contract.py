"""The contract of a backbone: a frozen network that turns each item of its input into one or more rows of embeddings.

A backbone file holds, in this order: what it is and where it comes from, its `Config`, its input, its weights
cards, the layers, and the class. Preprocessing constants and weights are never in different files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from cache.errors import FingerprintError, MissingFileError, UnknownNameError, WeightsError
from cache.names import config_of, load_named
from cache.recipe import Provenance, Recipe, differences
from cache.settings import as_settings
from extract.backbones import BACKBONES
from extract.inputs.contract import Input
from extract.weights.cards import WeightsCard
from extract.weights.finetuned import Lineage, save_finetuned
from extract.weights.weights import Weights, build_fitting, load_weights


class Backbone(nn.Module, ABC):
    """A frozen network with everything that defines its embeddings.

    Attributes:
        name: in the table of backbones.
        modality: audio, text or visual.
        algorithm: version number; raise it when a code change alters the embeddings.
        cards: registered weights by name.
        dim: D.
        input: what one item looks like, and the medium that it is read from.
        config: its settings.
        body: the part whose tensors a file of weights holds.
    """

    name: ClassVar[str]
    modality: ClassVar[str]
    algorithm: ClassVar[int]
    cards: ClassVar[dict[str, WeightsCard]]
    dim: int
    input: Input
    config: Any = None
    body: nn.Module

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = weights

    @classmethod
    def load(cls, config: Any, wanted: str) -> Self:
        """Load the network that a weights argument names; overridden where weights are more than one file."""
        return build_fitting(load_weights(wanted, cls.cards), lambda weights: cls.build(config, weights))

    @classmethod
    @abstractmethod
    def build(cls, config: Any, weights: Weights) -> Self:
        """Build the network with these weights, in evaluation mode."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that affects the embeddings apart from the weights, as JSON values."""

    @abstractmethod
    def forward(self, batch: Tensor) -> Tensor:
        """Compute rows (R, D) float32 of a checked batch, in the order of its items."""

    def release_groups(self) -> list[list[nn.Parameter]]:
        """The weights that fine-tuning releases one group after another; a single group by default."""
        return [list(self.parameters())]

    def split(self, released: int) -> tuple[nn.Module, nn.Module] | None:
        """Cut the network where the weights begin that are released; None where that is not possible, as by default.

        Only for backbones whose frames have one row each.

        Args:
            released: groups released so far, at least one.

        Returns:
            The front, items (N, …) → (N, F), and the rest, (N, F) → rows (N, D), with the network's own weights.
        """
        return None

    def save(self, path: Path, lineage: Lineage) -> Path:
        """Write fine-tuned weights.

        Args:
            path: where, without a suffix.
            lineage: what they learned from.

        Returns:
            The path that `load` takes.
        """
        file = path.with_name(f"{path.name}.safetensors")
        save_finetuned(file, self.body.state_dict(), lineage)
        return file

    @torch.inference_mode()
    def embed(self, batch: Tensor) -> Tensor:
        """Compute rows (R, D) float32 of a batch of items: one per image or piece of sound, one per word of a sentence.

        Args:
            batch: (B, H, W, 3) uint8 RGB for images, (B, S) float32 in [-1, 1] for sound, (B, 2, tokens) int64 for
                sentences.

        Raises:
            ShapeError: if the batch is not what `input` declares.
        """
        self.input.check(batch)
        return self(batch)

    def recipe(self, dtype: str = "float16", precision: str = "fp32", upstream: dict[str, Any] | None = None) -> Recipe:
        """The recipe of this backbone's embeddings.

        Args:
            dtype: as stored, float16 or float32.
            precision: in which they are computed, see `extract.engine.runtimes.PRECISIONS`.
            upstream: see `Input.upstream`; nothing by default.
        """
        settings = self.settings() if precision == "fp32" else {**self.settings(), "precision": precision}
        read = {"kind": self.input.name, "version": self.input.version}
        return Recipe(
            self.name,
            self.modality,
            self.dim,
            settings,
            self.weights.sha256,
            self.algorithm,
            dtype,
            upstream or {},
            read,
            self._provenance(),
        )

    def _provenance(self) -> Provenance:
        card = self.weights.card
        config = {} if self.config is None else asdict(self.config)
        if self.weights.seed is not None:
            return Provenance(self.weights.sha256, config=config)
        if (known := self.weights.lineage) is not None:
            name = Path(self.weights.name).name
            return Provenance(
                name, known.origin, known.licence, known.parents, known.trials, config, selection=known.selection
            )
        if card is None:
            return Provenance(Path(self.weights.name).name, config=config)
        return Provenance(card.name, card.origin, card.licence, config=config)


def load_backbone(name: str, weights: str, settings: Any = None) -> Backbone:
    """Build a backbone by name.

    Args:
        name: from the table of backbones.
        weights: a registered name, a path, or "random".
        settings: the backbone's `Config`, or some of its fields by name.

    Raises:
        UnknownNameError: if the backbone or the weights are unknown.
        SettingError: if settings are unknown, of the wrong type or outside their range.
        WeightsError: if the weights do not fit.
    """
    kind = load_named("backbone", BACKBONES, name)
    config: Any = as_settings(config_of(BACKBONES[name]), settings or {}, f"backbone '{name}'")
    backbone = kind.load(config, weights).eval().requires_grad_(False)
    _check_lineage(backbone)
    backbone.config = config
    backbone.weights = replace(backbone.weights, tensors=None)  # copied into the network; up to 290 MB
    return backbone


def _check_lineage(backbone: Backbone) -> None:
    """Check that fine-tuned weights are used by the backbone, and with the settings, that they were trained with."""
    known = backbone.weights.lineage
    if known is None:
        return
    trained = {"backbone": known.backbone, **known.settings}
    asked = {"backbone": backbone.name, **backbone.settings()}
    differ = [
        f"{key}: {trained.get(key)!r}, not {asked.get(key)!r}"
        for key in trained | asked
        if trained.get(key) != asked.get(key)
    ]
    if differ:
        raise WeightsError(
            f"Weights '{backbone.weights.name}' were fine-tuned with {'; '.join(differ)}. Give the feature set that backbone and "
            "these settings."
        )


def rebuild(recipe: Recipe, weights: str = "", remedy: str = "Give their path.") -> Backbone:
    """Rebuild the backbone that computed some features from their recipe alone.

    Args:
        recipe: of the features.
        weights: path of the weights file, if they cannot be loaded by name.
        remedy: how to say where the right weights lie, for messages.

    Raises:
        WeightsError: if these are not the recipe's weights; says which ones are and where to get them.
        FingerprintError: if this version would compute different features with them.
    """
    about = recipe.provenance
    wanted = f"'{about.weights}' (sha256 {recipe.weights_sha256[:12]}…{', ' + about.origin if about.origin else ''})"
    try:
        backbone = load_backbone(recipe.name, weights or about.weights, about.config)
    except (MissingFileError, UnknownNameError) as error:
        raise WeightsError(
            f"Backbone '{recipe.name}' needs its weights {wanted}, which were not found. {remedy}"
        ) from error
    if backbone.weights.sha256 != recipe.weights_sha256:
        raise WeightsError(
            f"The weights of backbone '{recipe.name}' have sha256 '{backbone.weights.sha256[:12]}…', expected {wanted}. {remedy}"
        )
    found = backbone.recipe(recipe.dtype, recipe.settings.get("precision", "fp32"), recipe.upstream)
    if found != recipe:
        raise FingerprintError(
            f"Backbone '{recipe.name}' now computes different features ({differences(recipe, found)}). Use the version of avfusion "
            "that computed these features, or extract and train again."
        )
    return backbone
