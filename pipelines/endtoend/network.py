"""An end-to-end model: backbones in front of a fusion model, as one network whose parameters are trained together."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from cache.errors import SettingError
from extract.backbones.contract import Backbone
from fusion.bank.normalisation import Moments
from fusion.model import ByModality, Estimate, FusionModel, Inputs
from pipelines.endtoend.items import Items


class MixedInputs(NamedTuple):
    """What an end-to-end model reads.

    Attributes:
        cached: embeddings of the modalities that are not trained, from their stores.
        items: modality → what its backbone reads.
    """

    cached: Inputs
    items: dict[str, Items]


class Cut(NamedTuple):
    """Where the weights of a backbone begin that are trained.

    Attributes:
        released: groups of weights that are trained.
        front: the frozen part, items → rows (N, F); without trained weights it is the whole backbone.
        rest: rows (N, F) → rows (N, D).
    """

    released: int
    front: nn.Module
    rest: nn.Module


def cut(backbone: nn.Module) -> Cut | None:
    """Cut a backbone before its trained weights; None where it cannot be cut there."""
    trained = {parameter for parameter in backbone.parameters() if parameter.requires_grad}
    if not trained:
        return Cut(0, backbone, nn.Identity())
    if not isinstance(backbone, Backbone):
        return None
    groups = backbone.release_groups()
    for released in range(1, len(groups) + 1):
        if trained == set(chain(*groups[:released])):
            parts = backbone.split(released)
            return None if parts is None else Cut(released, *parts)
    return None


class EndToEnd(nn.Module):
    """Backbones in front of a fusion model.

    In training mode batch norms of the backbones use their running statistics and leave them as they are, and the frozen front of a
    backbone drops nothing, unless `norms_learn`: then all are in training mode and batch norms use and update the statistics of
    the batch, as in the papers' code, also where weights are frozen.

    Attributes:
        rests: modality → the part of its backbone that runs now, where its items are rows of the front.

    Args:
        backbones: modality → its backbone; the other modalities of the fusion model come as embeddings.
        fusion: the fusion model.
        moments: modality → moments that normalise its embeddings.
        norms_learn: see above.
        piece: items that a backbone computes at a time while it is trained, 0 for all of a batch. Activations of one piece
            only are in memory; each is computed a second time for its gradient, which is that of the whole batch.
        precision: fp32, or bf16 to run backbones under autocast.

    Raises:
        SettingError: if batch norms learn from a batch that is computed piece by piece.
    """

    def __init__(
        self,
        backbones: Mapping[str, Backbone],
        fusion: FusionModel,
        moments: Mapping[str, Moments],
        norms_learn: bool = False,
        piece: int = 0,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        if norms_learn and piece:
            raise SettingError(
                f"Batch norms cannot learn the statistics of a batch that is computed in pieces of {piece} items. Set 'piece' to 0, "
                "or 'batch_norm' to frozen."
            )
        self.backbones = ByModality(dict(backbones))
        self.fusion = fusion
        self.norms_learn, self.piece, self.precision = norms_learn, piece, precision
        self.rests: dict[str, nn.Module] = {}
        for modality, known in moments.items():
            self.register_buffer(f"mean_{modality}", known.mean, persistent=False)
            self.register_buffer(f"scale_{modality}", known.scale, persistent=False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, that of batch norms as described above."""
        super().train(mode)
        if not self.norms_learn:
            for module in self.backbones.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
            for found in map(cut, self.backbones.values()):
                if found is not None:
                    found.front.eval()
        return self

    def forward(self, inputs: MixedInputs) -> Estimate:
        """Estimate every frame of every window."""
        embeddings, valid = dict(inputs.cached.embeddings), dict(inputs.cached.valid)
        for modality, items in inputs.items.items():
            embeddings[modality] = self._embed_frames(modality, items)
            valid[modality] = items.valid
        return self.fusion(Inputs(embeddings, valid, inputs.cached.lengths))

    def embed(self, modality: str, inputs: Tensor) -> Tensor:
        """Rows (R, D) of at least one item (N, …), not normalised."""
        whole = self.backbones[modality]
        backbone = self.rests.get(modality, whole)
        learns = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in whole.parameters())
        rows = []
        with torch.set_grad_enabled(learns), self._autocast(inputs.device):
            for part in inputs.split(self.piece or len(inputs)):
                again = learns and self.training and self.piece
                rows.append(checkpoint(backbone, part, use_reentrant=False) if again else backbone(part))
        joined = torch.cat(rows)
        return joined if self.precision == "fp32" else joined.float()

    def normalise(self, modality: str, rows: Tensor) -> Tensor:
        """Rows (R, D) as the fusion model reads them."""
        return (rows - getattr(self, f"mean_{modality}")) / getattr(self, f"scale_{modality}")

    def embed_normalised(self, modality: str, inputs: Tensor) -> Tensor:
        """Rows (R, D) of at least one item (N, …), as the fusion model reads them."""
        return self.normalise(modality, self.embed(modality, inputs))

    def _embed_frames(self, modality: str, items: Items) -> Tensor:
        """(B, L, D) normalised embeddings, zero where a frame has none."""
        if not len(items.inputs):
            return torch.zeros(*items.first.shape, self.fusion.dims[modality], device=items.first.device)
        return items.spread(self.embed_normalised(modality, items.inputs))

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")
