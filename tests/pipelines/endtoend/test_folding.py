"""Batch norms that act through the weights give the same embeddings and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from extract.backbones.contract import load_backbone
from pipelines.endtoend.folding import folded_norms


def run(network: nn.Module, pictures: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Output, and the gradients of all weights."""
    network.zero_grad()
    found = network(pictures)
    (found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum().backward()
    return found.detach(), {name: weight.grad.clone() for name, weight in network.named_parameters()}


@pytest.mark.parametrize(
    ("name", "settings"), [("mobilefacenet", {}), ("mobilefacenet", {"variant": "foamliu"}), ("resnet50", {})]
)
def test_folded_norms_change_neither_outputs_nor_gradients(name: str, settings: dict[str, str]) -> None:
    torch.manual_seed(0)
    backbone = load_backbone(name, "random", settings)
    network = backbone.body.double().eval().requires_grad_(True)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.8, 1.2)
        nn.init.normal_(norm.bias, std=0.1)
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.8, 1.2)
    pictures = backbone.input.normalise(torch.from_numpy(backbone.input.example(2))).double()
    names = list(network.state_dict())
    known, gradients = run(network, pictures)
    with folded_norms([network]):
        assert list(network.state_dict()) == names
        assert sum("forward" in vars(norm) for norm in norms) > len(norms) / 3
        found, folded = run(network, pictures)
    torch.testing.assert_close(found, known, rtol=1e-9, atol=1e-12)
    for key, gradient in gradients.items():
        torch.testing.assert_close(folded[key], gradient, rtol=1e-7, atol=1e-9 * float(gradient.abs().max()), msg=key)
    assert not any("forward" in vars(module) for module in network.modules())


def test_the_networks_are_as_before_after_an_error() -> None:
    backbone = load_backbone("mobilefacenet", "random")
    with pytest.raises(KeyError), folded_norms([backbone]):
        raise KeyError
    assert not any("forward" in vars(module) for module in backbone.modules())
