"""Contract of every backbone in the table."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.errors import MissingFileError, SettingError, ShapeError, UnknownNameError, WeightsError
from cache.names import load_named
from extract.backbones import BACKBONES
from extract.backbones.contract import Backbone, load_backbone
from extract.engine.devices import choose_device
from extract.engine.torch_runtime import TorchExecutor
from extract.weights.weights import load_weights

FOAMLIU = Path(__file__).parents[3] / "shared/weights/mobilefacenet_foamliu.pt"
PARAMETERS = {
    "bert": 54_144,
    "conv1d": 87_360,
    "facenet": 23_482_624,
    "mobilefacenet": 937_344,
    "resnet50": 37_283_520,
    "vggish": 72_141_184,
}
UNFOLDED = {"resnet50": 25}  # batch norms right before a padded convolution or a flattening


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return load_backbone(request.param, "random")


def inputs(backbone: Backbone, count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(backbone.input.example(count, seed))


def test_parameters_are_as_documented(backbone: Backbone) -> None:
    assert sum(parameter.numel() for parameter in backbone.parameters()) == PARAMETERS[backbone.name]


def test_embeddings_have_their_shape_and_differ(backbone: Backbone) -> None:
    embeddings = backbone.embed(inputs(backbone, 3))
    assert embeddings.shape == (3, backbone.dim)
    assert embeddings.dtype == torch.float32
    assert embeddings.isfinite().all()
    assert not torch.allclose(embeddings[0], embeddings[1])
    assert embeddings.half().isfinite().all()
    assert embeddings.abs().mean() > 1e-3


def test_the_same_input_gives_the_same_embedding(backbone: Backbone) -> None:
    batch = inputs(backbone, 2)
    expected = backbone.embed(batch)
    assert torch.equal(backbone.embed(batch), expected)
    again = load_backbone(backbone.name, "random")
    assert torch.equal(again.embed(batch), expected)
    other = load_backbone(backbone.name, "random:7")
    assert not torch.allclose(other.embed(batch), expected)
    assert backbone.recipe().fingerprint == again.recipe().fingerprint != other.recipe().fingerprint


def test_a_row_does_not_depend_on_its_batch(backbone: Backbone) -> None:
    batch = inputs(backbone, 3)
    torch.testing.assert_close(backbone.embed(batch)[2:3], backbone.embed(batch[2:3]), rtol=1e-4, atol=1e-4)


def test_nothing_is_trainable(backbone: Backbone) -> None:
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_inputs_outside_the_declared_range_are_refused(backbone: Backbone) -> None:
    batch = inputs(backbone, 2)
    for wrong in (batch[:, :-1], batch.double(), batch.float() * 300):
        with pytest.raises(ShapeError, match="expected"):
            backbone.embed(wrong)


def test_folding_changes_nothing_but_the_last_bits(backbone: Backbone) -> None:
    for module in backbone.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            generator = torch.Generator().manual_seed(module.num_features)
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    batch = inputs(backbone, 3)
    expected = backbone.embed(batch)
    executor = TorchExecutor(backbone, choose_device("cpu"))
    torch.testing.assert_close(
        torch.from_numpy(executor(batch.numpy())), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
    )
    left = [m for m in executor._network.modules() if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))]
    assert len(left) == UNFOLDED.get(backbone.name, 0)


def test_the_recipe_is_plain_data(backbone: Backbone) -> None:
    recipe = backbone.recipe()
    assert recipe.dim == backbone.dim
    assert recipe.weights_sha256.startswith("random:")
    assert type(backbone).__doc__


def test_unknown_settings_are_refused(backbone: Backbone) -> None:
    with pytest.raises(SettingError, match=f"backbone '{backbone.name}' is wrong: 'sise' is 3, an unknown setting"):
        load_backbone(backbone.name, "random", {"sise": 3})


def test_weights_that_do_not_fit_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    torch.save({"conv_6_sep.conv.weight": torch.zeros(3), "odd": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="missing .* unexpected|not of a known|expected a folder"):
        load_backbone(backbone.name, str(tmp_path / "w.pt"))


def test_weights_round_trip_by_path(backbone: Backbone, tmp_path: Path) -> None:
    if backbone.name == "bert":
        pytest.skip("its weights are a folder, see backbones/test_bert.py")
    part = backbone.body
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in part.state_dict().items()}}, tmp_path / "w.pt"
    )
    with pytest.warns(UserWarning, match=r"start with 'module\.', which was removed to make"):
        again = load_backbone(backbone.name, str(tmp_path / "w.pt"))
    (tmp_path / "w.pt").unlink()  # up to 290 MB
    batch = inputs(backbone, 2)
    assert torch.equal(again.embed(batch), backbone.embed(batch))
    assert len(again.recipe().weights_sha256) == 64


def test_every_backbone_says_where_its_weights_come_from() -> None:
    for name in BACKBONES:
        for key, card in load_named("backbone", BACKBONES, name).cards.items():
            assert (key, card.origin.startswith("https://")) == (card.name, True)
            assert card.licence
            assert card.paper
            assert re.fullmatch("[0-9a-f]{0,64}", card.sha256)


def test_the_untrained_foamliu_body() -> None:
    backbone = load_backbone("mobilefacenet", "random", {"variant": "foamliu"})
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 934_016
    batch = inputs(backbone, 3)
    folded = TorchExecutor(backbone, choose_device("cpu"))
    torch.testing.assert_close(torch.from_numpy(folded(batch.numpy())), backbone.embed(batch), rtol=1e-4, atol=1e-4)


def test_registered_weights_know_their_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVFUSION_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match="web page.*put it at"):
        load_backbone("mobilefacenet", "treb1en")
    body = load_backbone("mobilefacenet", "random").body
    content = {"state_dict": body.state_dict(), "best_acc": np.float64(0.9), "optimizer": {"step": torch.zeros(2)}}
    for name, colour in (("treb1en", "bgr"), ("xuexingyu24", "bgr")):
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.warns(UserWarning, match=f"There is no complete published digest of weights '{name}'"):
            assert load_backbone("mobilefacenet", name).settings()["colour"] == colour
        assert load_backbone("mobilefacenet", name, {"colour": "rgb"}).settings()["colour"] == "rgb"
    assert load_backbone("mobilefacenet", str(tmp_path / "treb1en.pt")).settings()["colour"] == "rgb"
    torch.save(content, tmp_path / "landmarks.tar")
    with pytest.raises(WeightsError, match="have sha256 .* expected 'b994af026bfd"):
        load_backbone("mobilefacenet", "landmarks")


def test_foamliu_weights_choose_their_variant() -> None:
    if not FOAMLIU.is_file():
        pytest.skip("no weights here")
    backbone = load_backbone("mobilefacenet", str(FOAMLIU))
    assert sum(p.numel() for p in backbone.parameters()) == 934_016
    assert backbone.settings()["variant"] == "foamliu"
    assert backbone.weights.card is not None
    assert backbone.weights.card.licence == "Apache-2.0"
    with pytest.raises(SettingError, match="are of variant 'foamliu', not 'prelu'"):
        load_backbone("mobilefacenet", str(FOAMLIU), {"variant": "prelu"})


def test_a_landmark_checkpoint_loads_without_its_head(tmp_path: Path) -> None:
    body = load_backbone("mobilefacenet", "random").body
    tensors = {(f"output_layer.{k}" if k.startswith("conv_6_dw") else k): v for k, v in body.state_dict().items()}
    tensors |= {"output_layer.linear.weight": torch.zeros(136, 512), "output_layer.bn.weight": torch.ones(136)}
    torch.save(tensors, tmp_path / "landmarks.pth.tar")
    assert load_backbone("mobilefacenet", str(tmp_path / "landmarks.pth.tar")).settings()["variant"] == "prelu"


def test_bgr_weights_see_the_channels_reversed() -> None:
    rgb, bgr = load_backbone("mobilefacenet", "random"), load_backbone("mobilefacenet", "random", {"colour": "bgr"})
    batch = inputs(rgb, 2)
    torch.testing.assert_close(bgr.embed(batch), rgb.embed(batch.flip(3)))
    assert bgr.recipe().fingerprint != rgb.recipe().fingerprint


@pytest.mark.parametrize(
    ("wanted", "error", "text"),
    [
        ("facenett", UnknownNameError, "'facenett'; expected one of foamliu, landmarks, random, treb1en"),
        ("none/here.pt", MissingFileError, "do not exist. Give a path"),
        ("random:x", WeightsError, "have no valid seed"),
    ],
)
def test_weights_arguments(wanted: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        load_backbone("mobilefacenet", wanted)


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 truncated"])
def test_files_that_are_no_weights(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(str(tmp_path / "w.pt"), {})


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_files_of_numpy_arrays_are_read(tmp_path: Path, module: bytes) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": np.eye(3), "b": np.ones(2, np.float32)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", module))
    tensors = load_weights(str(path), {}).tensors
    assert tensors is not None
    torch.testing.assert_close(tensors, {"a": torch.eye(3).double(), "b": torch.ones(2)})


def test_old_files_without_step_counts_fit(tmp_path: Path) -> None:
    body = load_backbone("mobilefacenet", "random").body.state_dict()
    torch.save({k: v for k, v in body.items() if not k.endswith("num_batches_tracked")}, tmp_path / "old.pt")
    assert load_backbone("mobilefacenet", str(tmp_path / "old.pt")).settings()["variant"] == "prelu"


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(SettingError, match="Unknown device 'gpu'"):
        choose_device("gpu")
    with pytest.raises(SettingError, match="does not exist"):
        choose_device("cuda:99")


def test_torn_weights_are_told(tmp_path: Path) -> None:
    tensors = load_backbone("conv1d", "random").body.state_dict()
    for new in (True, False):
        torch.save(tensors, tmp_path / "whole.pt", _use_new_zipfile_serialization=new)
        content = (tmp_path / "whole.pt").read_bytes()
        for size in (0, 1, 1000, 20_000, len(content) - 100):
            (tmp_path / "torn.pt").write_bytes(content[:size])
            with pytest.raises(WeightsError, match="cannot be read"):
                load_backbone("conv1d", str(tmp_path / "torn.pt"))
