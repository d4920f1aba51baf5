"""FaceNet against its own package."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from facenet_pytorch import InceptionResnetV1, fixed_image_standardization
from facenet_pytorch.models import inception_resnet_v1

from cache.errors import SettingError
from extract.backbones.contract import load_backbone
from extract.backbones.facenet import CARDS, FaceNet


@pytest.fixture(scope="module")
def reference() -> InceptionResnetV1:
    torch.manual_seed(3)
    return InceptionResnetV1(pretrained=None, classify=True, num_classes=7).eval()


@pytest.fixture(scope="module")
def backbone(reference: InceptionResnetV1, tmp_path_factory: pytest.TempPathFactory) -> FaceNet:
    path = tmp_path_factory.mktemp("weights") / "whole.pt"
    torch.save(reference.state_dict(), path)
    backbone = load_backbone("facenet", str(path))
    path.unlink()
    assert isinstance(backbone, FaceNet)
    return backbone


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 160, 160, 3), dtype=np.uint8))


def test_equal_to_its_package_for_the_same_pixels(
    backbone: FaceNet, reference: InceptionResnetV1, pixels: torch.Tensor
) -> None:
    images = fixed_image_standardization(pixels.permute(0, 3, 1, 2).float())
    assert torch.equal(backbone.input.normalise(pixels), images)
    reference.classify = False
    with torch.inference_mode():
        expected = reference(images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(backbone.embed(pixels), expected)


def test_norm_is_one_and_dropout_is_inert(backbone: FaceNet, pixels: torch.Tensor) -> None:
    embeddings = backbone.embed(pixels)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))
    assert not backbone.body.dropout.training


def test_untrained_embeddings_of_two_images_are_apart(pixels: torch.Tensor) -> None:
    ramp = torch.linspace(0, 255, 160).to(torch.uint8).expand(160, 160)
    other = torch.stack([torch.stack([ramp, ramp.T, 255 - ramp], dim=2), pixels[0]])
    embeddings = load_backbone("facenet", "random").embed(other)
    assert float(embeddings[0] @ embeddings[1]) < 0.99


def test_karas_divides_by_half_the_range() -> None:
    half = load_backbone("facenet", "random", {"standardise": "half"})
    white = torch.full((1, 160, 160, 3), 255, dtype=torch.uint8)
    assert float(half.input.normalise(white).max()) == pytest.approx(1)  # type: ignore[attr-defined]
    assert half.recipe().fingerprint != load_backbone("facenet", "random").recipe().fingerprint
    with pytest.raises(SettingError, match="'standardise' is 'whole', expected one of fixed, half"):
        load_backbone("facenet", "random", {"standardise": "whole"})


def test_cards_name_the_files_that_the_package_downloads() -> None:
    source = Path(inspect.getsourcefile(inception_resnet_v1) or "").read_text(encoding="utf-8")
    for card in CARDS.values():
        assert card.origin in source
