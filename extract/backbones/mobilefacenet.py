"""Visual, 512-d: MobileFaceNet on aligned 112x112 faces, up to its global depthwise convolution.

The network of [Chen2018MobileFaceNets]; the flattened batch norm output of the 7x7 global depthwise convolution is the
embedding, as in [Karas2022, Section 3.1] (no last linear layer, no L2 norm). Two published bodies, chosen by the weights:

* `prelu`: PReLU per channel, 937,344 parameters; checkpoints of xuexingyu24 and TreB1eN, and the 68-point landmark network
  of Karas et al. (their final linear layer is left out). Karas et al. feed it RGB with mean and standard deviation 0.5,
  as the others, although it was trained on BGR in [0, 1];
* `foamliu`: ReLU6, a depthwise-separable stem, 934,016 parameters; recognition weights of foamliu (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from cache.errors import SettingError, WeightsError
from cache.settings import check_ranges
from extract.backbones.contract import Backbone
from extract.inputs.images import ImageInput
from extract.weights.cards import WeightsCard
from extract.weights.weights import Weights, load_into


@dataclass(frozen=True)
class Config:
    """Settings of the network.

    Attributes:
        variant: "prelu" or "foamliu"; "" takes it from the weights ("prelu" for random ones).
        colour: "rgb" or "bgr", the channel order that the weights expect; "" takes it from registered weights, else "rgb".
        missing: "skip" frames without a face, or embed a "black" picture for them.
    """

    variant: str = ""
    colour: str = ""
    missing: str = "skip"

    def __post_init__(self) -> None:
        choices = {"variant": ("", "prelu", "foamliu"), "colour": ("", "rgb", "bgr"), "missing": ("skip", "black")}
        check_ranges("backbone 'mobilefacenet'", self, {}, choices)


SIZE = 112
INPUTS = {
    "prelu": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "foamliu": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}

CARDS = {
    "foamliu": WeightsCard(
        name="foamliu",
        variant="foamliu",
        origin="https://github.com/foamliu/MobileFaceNet/raw/a6cc9032/weights/mobilefacenet.pt",
        sha256="90a00ba1d8b0b688af3deb731ed53dca582e6106805d1bc3cfdef55f570493f4",
        licence="Apache-2.0",
        paper="Chen2018MobileFaceNets",
    ),
    "landmarks": WeightsCard(
        name="landmarks",
        variant="prelu",
        origin="https://huggingface.co/py-feat/mobilefacenet/resolve/78ffd5f682cc90e000c18854757071bff86575a9/mobilefacenet_model_best.pth.tar",
        sha256="b994af026bfddbafc507a6f1c8737a9896bab20ed2b0cfb6ae90b81736970313",
        licence="MIT",
        paper="Karas2022",
    ),
    "xuexingyu24": WeightsCard(
        name="xuexingyu24",
        variant="prelu",
        origin="https://github.com/xuexingyu24/MobileFaceNet_Tutorial_Pytorch/tree/master/Weights",
        sha256="",
        licence="none stated",
        paper="Chen2018MobileFaceNets",
        direct=False,
    ),
    "treb1en": WeightsCard(
        name="treb1en",
        variant="prelu",
        origin="https://github.com/TreB1eN/InsightFace_Pytorch",
        sha256="",
        licence="MIT",
        paper="Chen2018MobileFaceNets",
        direct=False,
    ),
}
BGR = ("treb1en", "xuexingyu24")  # channel order of OpenCV


class _ConvBlock(nn.Module):
    """Convolution without bias, batch norm, PReLU per channel (or nothing, `linear`)."""

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        pad: int = 0,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(fan_in, fan_out, kernel, stride, pad, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(fan_out)
        if not linear:
            self.prelu = nn.PReLU(fan_out)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.linear else self.prelu(x)


class _Bottleneck(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 (linear), with an optional residual."""

    def __init__(self, fan_in: int, fan_out: int, expansion: int, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        self.conv = _ConvBlock(fan_in, expansion, 1)
        self.conv_dw = _ConvBlock(expansion, expansion, 3, stride, groups=expansion, pad=1)
        self.project = _ConvBlock(expansion, fan_out, 1, linear=True)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.conv_dw(self.conv(x)))
        return x + y if self.residual else y


class _Stage(nn.Module):
    """Residual bottlenecks of one resolution."""

    def __init__(self, width: int, expansion: int, count: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(_Bottleneck(width, width, expansion, residual=True) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def _prelu_body() -> nn.Sequential:
    """The PReLU body, with the parameter names of the public checkpoints."""
    body = nn.Sequential()
    body.add_module("conv1", _ConvBlock(3, 64, 3, stride=2, pad=1))
    body.add_module("conv2_dw", _ConvBlock(64, 64, 3, groups=64, pad=1))
    body.add_module("conv_23", _Bottleneck(64, 64, 128, stride=2))
    body.add_module("conv_3", _Stage(64, 128, 4))
    body.add_module("conv_34", _Bottleneck(64, 128, 256, stride=2))
    body.add_module("conv_4", _Stage(128, 256, 6))
    body.add_module("conv_45", _Bottleneck(128, 128, 512, stride=2))
    body.add_module("conv_5", _Stage(128, 256, 2))
    body.add_module("conv_6_sep", _ConvBlock(128, 512, 1))
    body.add_module("conv_6_dw", _ConvBlock(512, 512, 7, groups=512, linear=True))
    return body


def _relu6_block(fan_in: int, fan_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(fan_out), nn.ReLU6(inplace=True))


class _InvertedResidual(nn.Module):
    def __init__(self, fan_in: int, fan_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = fan_in * expansion
        self.residual = stride == 1 and fan_in == fan_out
        self.conv = nn.Sequential(
            _relu6_block(fan_in, width, 1),
            _relu6_block(width, width, 3, stride, groups=width),
            nn.Conv2d(width, fan_out, 1, bias=False),
            nn.BatchNorm2d(fan_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class _SeparableStem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pointwise = nn.Conv2d(64, 64, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.depthwise(x)))
        return torch.relu(self.bn2(self.pointwise(x)))


class _GlobalDepthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(512, 512, 7, groups=512, bias=False)
        self.bn = nn.BatchNorm2d(512)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.depthwise(x))


def _foamliu_body() -> nn.Sequential:
    """The ReLU6 body: (expansion, width, count, first stride) per stage, parameter names as in its checkpoint."""
    blocks, fan_in = [], 64
    for expansion, width, count, stride in (
        (2, 64, 5, 2),
        (4, 128, 1, 2),
        (2, 128, 6, 1),
        (4, 128, 1, 2),
        (2, 128, 2, 1),
    ):
        for i in range(count):
            blocks.append(_InvertedResidual(fan_in, width, stride if i == 0 else 1, expansion))
            fan_in = width
    body = nn.Sequential()
    body.add_module("conv1", _relu6_block(3, 64, 3, stride=2))
    body.add_module("dw_conv", _SeparableStem())
    body.add_module("features", nn.Sequential(*blocks))
    body.add_module("conv2", _relu6_block(128, 512, 1))
    body.add_module("gdconv", _GlobalDepthwise())
    return body


BODIES = {"prelu": _prelu_body, "foamliu": _foamliu_body}
HEADS = {"prelu": ("linear.", "bn.", "prob."), "foamliu": ("conv3.", "bn.")}


def _variant_of(weights: Weights) -> str:
    """The body that a checkpoint's names belong to."""
    names = set(weights.tensors or ())
    for variant, mark in (("foamliu", "gdconv.depthwise.weight"), ("prelu", "conv_6_sep.conv.weight")):
        if mark in names:
            return variant
    raise WeightsError(
        f"Weights '{weights.name}' are not of a known MobileFaceNet (first tensor: '{min(names, default='')}'); expected the "
        f"names of a PReLU or a foamliu checkpoint. Give weights of one of these, or 'random'."
    )


def _initialise(body: nn.Module) -> None:
    """Initialise an untrained network such that its signal stays within the range of float16 through all layers."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="linear")


class MobileFaceNet(Backbone):
    """Aligned faces (B, 112, 112, 3) uint8 → (B, 512)."""

    name = "mobilefacenet"
    modality = "visual"
    algorithm = 1
    cards = CARDS
    dim = 512
    input: ImageInput

    def __init__(self, variant: str, colour: str, missing: str, weights: Weights) -> None:
        super().__init__(weights)
        self.variant = variant
        self.input = ImageInput(SIZE, *INPUTS[variant], colour, missing=missing)
        self.body = BODIES[variant]()

    @classmethod
    def build(cls, config: Config, weights: Weights) -> Self:
        """Build the body that fits the weights.

        Raises:
            SettingError: if the variant differs from that of the weights.
            WeightsError: if the weights belong to no known body or do not fit it.
        """
        found = config.variant or "prelu" if weights.tensors is None else _variant_of(weights)
        if config.variant not in ("", found):
            raise SettingError(
                f"Weights '{weights.name}' are of variant '{found}', not '{config.variant}'. Leave the variant out."
            )
        colour = "bgr" if weights.card is not None and weights.card.name in BGR else "rgb"
        if weights.lineage is not None:
            colour = weights.lineage.settings.get("colour", colour)
        with weights.seeded():
            network = cls(found, config.colour or colour, config.missing, weights)
            _initialise(network.body)
        load_into(network.body, weights, f"MobileFaceNet's {found} body", "output_layer.", HEADS[found])
        return network

    def settings(self) -> dict[str, Any]:
        """Variant and normalisation."""
        return {"variant": self.variant} | self.input.settings()

    def forward(self, batch: Tensor) -> Tensor:
        """(B, 112, 112, 3) uint8 → (B, 512)."""
        return self.body(self.input.normalise(batch)).flatten(1)
