"""Groups of weights that gradual unfreezing releases, and the counts that the authors' code has in them."""

from __future__ import annotations

import pytest
import torch

from extract.backbones.contract import load_backbone

PUBLISHED = {"resnet50": [6_556_160, 13_115_392, 3_542_784], "vggish": [524_416, 16_781_312, 50_335_744]}


@pytest.mark.parametrize("name", PUBLISHED)
def test_groups_have_the_published_numbers_of_weights(name: str) -> None:
    groups = load_backbone(name, "random").release_groups()
    assert [sum(parameter.numel() for parameter in group) for group in groups] == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_front_and_rest_are_the_network(name: str) -> None:
    """With the released groups in the rest, and none of their weights in the front."""
    backbone = load_backbone(name, "random")
    batch = torch.from_numpy(backbone.input.example(2))
    expected = backbone(batch)
    widths = {"resnet50": [12_800, 25_600, 25_600], "vggish": [4_096, 4_096, 12_288]}[name]
    for released, width in enumerate(widths, 1):
        parts = backbone.split(released)
        assert parts is not None
        front, rest = parts
        rows = front(batch)
        assert tuple(rows.shape) == (2, width)
        assert torch.allclose(rest(rows.contiguous()), expected, rtol=1e-5, atol=1e-6)
        groups = {id(weights) for group in backbone.release_groups()[:released] for weights in group}
        assert {id(weights) for weights in rest.parameters()} == groups
        assert groups.isdisjoint(id(weights) for weights in front.parameters())


def test_other_backbones_are_one_group() -> None:
    backbone = load_backbone("mobilefacenet", "random")
    assert [[id(p) for p in group] for group in backbone.release_groups()] == [[id(p) for p in backbone.parameters()]]
