"""Backbones in front of a fusion model: gradients piece by piece, batch norms that stay, frames without input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cache.errors import SettingError
from fusion.bank.normalisation import Moments
from fusion.model import Inputs
from fusion.scores.losses import ccc_loss
from fusion.training.building import build_model
from pipelines.endtoend.items import Items
from pipelines.endtoend.network import EndToEnd, MixedInputs

B, L, D = 3, 5, 4


def backbone(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, D))
    layers[1].running_mean.fill_(0.3)
    return layers.double()


def inputs() -> MixedInputs:
    """One item per frame, the last frame of the second window without one."""
    torch.manual_seed(2)
    count = torch.ones(B, L, dtype=torch.int64)
    count[1, -1] = 0
    first = (count.flatten().cumsum(0) - 1).view(B, L).clamp(min=0)
    items = Items(torch.randn(B * L - 1, 6).double(), torch.zeros(0), first, count, count > 0)
    return MixedInputs(Inputs({}, {}, torch.full((B,), L)), {"face": items})


def network(face: nn.Module, **settings: object) -> EndToEnd:
    torch.manual_seed(3)
    fusion = build_model("rnn", {"face": D}, ("valence", "arousal"), {}).double()
    unchanged = Moments(torch.zeros(D).double(), torch.ones(D).double())
    return EndToEnd({"face": face}, fusion, {"face": unchanged}, **settings).train()


def gradients(model: nn.Module) -> list[Tensor]:
    torch.manual_seed(4)
    target = torch.randn(B, L, 2).double()
    loss = ccc_loss(model(inputs()).values, target, torch.ones(B, L, 2, dtype=torch.bool))
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def test_gradients_of_pieces_are_those_of_the_whole_batch() -> None:
    """The CCC is that of all frames of the batch, whatever fits into memory at a time."""
    whole = gradients(network(backbone()))
    assert any(grad.abs().max() > 1e-3 for grad in whole)
    for piece in (1, 4, 100):
        for ours, expected in zip(gradients(network(backbone(), piece=piece)), whole, strict=True):
            assert torch.allclose(ours, expected, rtol=0, atol=1e-12)


def test_pieces_are_computed_again_with_the_same_dropout() -> None:
    """The second pass of a piece, for its gradient, must drop what the first one dropped."""

    class Kept(EndToEnd):
        """The same pieces, with all activations kept."""

        def embed(self, modality: str, inputs: Tensor) -> Tensor:
            return torch.cat([self.backbones[modality](part) for part in inputs.split(4)])

    again = gradients(network(backbone(0.5), piece=4))
    torch.manual_seed(3)
    fusion = build_model("rnn", {"face": D}, ("valence", "arousal"), {}).double()
    kept = gradients(
        Kept(
            {"face": backbone(0.5)}, fusion, {"face": Moments(torch.zeros(D).double(), torch.ones(D).double())}
        ).train()
    )
    for ours, expected in zip(again, kept, strict=True):
        assert torch.allclose(ours, expected, rtol=0, atol=1e-12)


def test_statistics_of_batch_norms_stay_unless_they_learn() -> None:
    for learns in (False, True):
        face = backbone()
        before = face[1].running_mean.clone()
        gradients(network(face, norms_learn=learns))
        assert torch.equal(face[1].running_mean, before) != learns


def test_learning_batch_norms_refuse_pieces() -> None:
    with pytest.raises(SettingError, match="pieces of 4"):
        network(backbone(), norms_learn=True, piece=4)


def test_a_frozen_backbone_gets_no_gradient() -> None:
    model = network(backbone())
    model.backbones.requires_grad_(False)
    gradients(model)
    assert all(parameter.grad is None for parameter in model.backbones.parameters())
    assert all(parameter.grad is not None for parameter in model.fusion.lstm.parameters())


def test_frames_without_input_are_zero_and_not_valid() -> None:
    model = network(backbone())
    seen = []
    model.fusion.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(inputs())
    assert seen[0].embeddings["face"][1, -1].abs().sum() == 0
    assert seen[0].embeddings["face"].abs().sum(-1).gt(0).sum() == B * L - 1
    assert seen[0].valid["face"].sum() == B * L - 1
