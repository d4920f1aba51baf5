"""Groups of weights that gradual unfreezing releases, and the counts that the authors' code has in them."""

from __future__ import annotations

import pytest

from extract.backbones.contract import load_backbone

PUBLISHED = {"resnet50": [6_556_160, 13_115_392, 3_542_784], "vggish": [524_416, 16_781_312, 50_335_744]}


@pytest.mark.parametrize("name", PUBLISHED)
def test_groups_have_the_published_numbers_of_weights(name: str) -> None:
    groups = load_backbone(name, "random").release_groups()
    assert [sum(parameter.numel() for parameter in group) for group in groups] == PUBLISHED[name]


def test_other_backbones_are_one_group() -> None:
    backbone = load_backbone("mobilefacenet", "random")
    assert [[id(p) for p in group] for group in backbone.release_groups()] == [[id(p) for p in backbone.parameters()]]
