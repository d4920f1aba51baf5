"""The IR-50 and torchvision's ResNet-50."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet50_Weights
from torchvision.models import resnet50 as torchvision_resnet50

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.errors import MediaError, SettingError, WeightsError
from extract.backbones.contract import Backbone, load_backbone
from extract.backbones.resnet50 import CARDS
from extract.inputs.contract import open_source


@pytest.fixture(scope="module")
def ir50() -> Backbone:
    return load_backbone("resnet50", "random")


def test_sizes_of_the_stages(ir50: Backbone) -> None:
    shapes = {}
    for index in (2, 6, 20, 23):  # last unit of each stage
        ir50.body.body[index].register_forward_hook(
            lambda _, __, out, i=index: shapes.update({i: tuple(out.shape[1:])})
        )
    embeddings = ir50.embed(torch.zeros(1, 40, 40, 3, dtype=torch.uint8))
    assert shapes == {2: (64, 40, 40), 6: (128, 20, 20), 20: (256, 10, 10), 23: (512, 5, 5)}
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(1))
    assert sum(p.numel() for p in ir50.parameters()) + 512 * 8 + 8 == 37_287_624  # with the head that nobody uses


def test_a_checkpoint_with_its_head_loads(ir50: Backbone, tmp_path: Path) -> None:
    tensors = {f"backbone.{name}": tensor for name, tensor in ir50.body.state_dict().items()}
    tensors |= {"logits.weight": torch.zeros(8, 512), "logits.bias": torch.zeros(8)}
    torch.save(tensors, tmp_path / "res50_ir.pth")
    again = load_backbone("resnet50", str(tmp_path / "res50_ir.pth"))
    pixels = torch.randint(0, 256, (1, 40, 40, 3), dtype=torch.uint8)
    assert torch.equal(again.embed(pixels), ir50.embed(pixels))
    with pytest.raises(SettingError, match="are of variant 'ir50', not 'imagenet'"):
        load_backbone("resnet50", str(tmp_path / "res50_ir.pth"), {"variant": "imagenet"})
    (tmp_path / "res50_ir.pth").unlink()


def test_imagenet_is_torchvisions_network_without_its_last_layer(tmp_path: Path) -> None:
    torch.manual_seed(5)
    reference = torchvision_resnet50(weights=None).eval()
    torch.save(reference.state_dict(), tmp_path / "resnet50.pth")
    backbone = load_backbone("resnet50", str(tmp_path / "resnet50.pth"))
    (tmp_path / "resnet50.pth").unlink()
    assert (backbone.dim, backbone.settings()["variant"]) == (2048, "imagenet")
    assert sum(p.numel() for p in backbone.parameters()) == 23_508_032
    picture = np.random.default_rng(2).integers(0, 256, (232, 232, 3), dtype=np.uint8)
    pixels = backbone.input.cut(picture[None])  # type: ignore[attr-defined]
    embedding = backbone.embed(torch.from_numpy(pixels))
    images = ResNet50_Weights.IMAGENET1K_V2.transforms()(Image.fromarray(picture))[None]
    with torch.inference_mode():
        torch.testing.assert_close(reference.fc(embedding), reference(images), rtol=1e-3, atol=1e-4)


def test_untrained_imagenet_embeddings_fit_float16() -> None:
    backbone = load_backbone("resnet50", "random", {"variant": "imagenet"})
    embeddings = backbone.embed(torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8))
    assert embeddings.half().isfinite().all()
    assert embeddings.std() > 1e-3
    assert backbone.recipe().dim == 2048
    assert backbone.recipe().fingerprint != load_backbone("resnet50", "random").recipe().fingerprint


def test_variants_and_weights_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="'variant' is 'ir51'.*ir50, imagenet"):
        load_backbone("resnet50", "random", {"variant": "ir51"})
    torch.save({"stem.weight": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"first tensor: .*Give weights"):
        load_backbone("resnet50", str(tmp_path / "w.pt"))
    torch.save({"input_layer.0.weight": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="missing .* of another shape"):
        load_backbone("resnet50", str(tmp_path / "w.pt"))


def test_the_card_promises_what_the_file_name_does() -> None:
    (card,) = CARDS.values()
    assert card.name == "IMAGENET1K_V2"
    assert len(card.sha256) == 64
    assert card.origin.endswith(f"-{card.sha256[:8]}.pth")


def test_crops_are_resized_to_48_and_their_centre_is_read(ir50: Backbone, tmp_path: Path) -> None:
    folder = tmp_path / "crops"
    folder.mkdir()
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[8:88, 8:88] = 200  # exactly the centre: 40 of 48
    Image.fromarray(picture).save(folder / "00001.png")
    trial = Trial("t", "s", "train", FrameClock(Fraction(25), 1), {"crops": "crops"}, None)
    source = open_source(ir50.input, Manifest(tmp_path, (trial,)), trial, None)
    images = source.read(source.load().used_items())
    assert images.shape == (1, 40, 40, 3)
    assert images.flags.c_contiguous
    assert (images[0, 3:-3, 3:-3] == 200).all()
    assert images[0, 0].mean() > 140  # the border is blurred, not black
    small = Image.fromarray(picture).resize(
        (48, 48), Image.Resampling.BICUBIC
    )  # as the authors' code, by Pillow's default
    np.testing.assert_array_equal(images[0], np.asarray(small)[4:44, 4:44])
    assert ir50.settings()["resize"] == "bicubic"


def test_black_pictures_for_frames_without_a_face(ir50: Backbone, tmp_path: Path) -> None:
    """As in the code of [Zhang2023]: they are embedded like a black crop, and count as seen."""
    black = load_backbone("resnet50", "random", {"missing": "black"})
    assert black.input.normalise(torch.zeros(1, 40, 40, 3, dtype=torch.uint8)).eq(-1).all()  # type: ignore[operator]
    assert black.recipe().fingerprint != ir50.recipe().fingerprint
    assert black.settings() == {**ir50.settings(), "missing": "black"}
    for name in ("gaps", "empty"):
        (tmp_path / name).mkdir()
    for frame, picture in ((1, 90), (3, 0)):
        Image.new("RGB", (96, 96), (picture, 2 * picture, picture)).save(tmp_path / "gaps" / f"{frame:05d}.png")
    trials = [
        Trial(name, "s", "train", FrameClock(Fraction(25), 4), {"crops": name}, None) for name in ("gaps", "empty")
    ]
    manifest = Manifest(tmp_path, tuple(trials))
    skipped, filled = (open_source(each.input, manifest, trials[0], None) for each in (ir50, black))
    assert skipped.load().valid.tolist() == [True, False, True, False]
    alignment = filled.load()
    assert alignment.valid.all()
    assert alignment.used_items().tolist() == [0, 1, 2, 3]
    rows = black.embed(torch.from_numpy(filled.read(np.array([3, 0, 2]))))
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(rows[1:], ir50.embed(torch.from_numpy(skipped.read(np.array([0, 0, 2]))))[1:])
    with pytest.raises(MediaError, match="holds no crops"):
        open_source(black.input, manifest, trials[1], None)
    with pytest.raises(SettingError, match="'missing' is 'blak', expected one of skip, black. Did you mean 'black'"):
        load_backbone("resnet50", "random", {"missing": "blak"})


@pytest.mark.parametrize("name", ["mobilefacenet", "facenet"])
def test_other_image_backbones_know_black_pictures(name: str) -> None:
    black = load_backbone(name, "random", {"missing": "black"})
    assert black.input.missing == "black"  # type: ignore[attr-defined]
    assert black.settings() == {**load_backbone(name, "random").settings(), "missing": "black"}
