"""Visual: the IR-50 of the ABAW systems on 40x40 faces, 512-d, or torchvision's ImageNet ResNet-50, 2048-d.

* `ir50`: the improved residual network of [Deng2019ArcFace] with 3, 4, 14 and 3 units, its first stage at full
  resolution, on the centre 40x40 of faces resized to 48x48 (bicubic, as their code does), as in the systems of [Zhang2023]
  and [Praveen2024]; L2-normalised, 37,283,520 parameters without the last layer of their checkpoint (512 → 8
  expressions), which is unused. Trained on MS-Celeb-1M and FER+; the file `res50_ir_0.887.pth` is available only on
  the authors' page: give its path.
* `imagenet`: ResNet-50 of [He2016ResNet] from torchvision (BSD-3-Clause), average-pooled, 23,508,032 parameters, on the centre
  224x224 of images of 232x232; weights IMAGENET1K_V2 of torchvision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import ResNet50_Weights
from torchvision.models import resnet50 as torchvision_resnet50

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
        variant: "ir50" or "imagenet"; "" takes it from the weights ("ir50" for random ones).
        missing: "skip" frames without a face, or embed a "black" picture for them, as [Zhang2023]'s code.
    """

    variant: str = ""
    missing: str = "skip"

    def __post_init__(self) -> None:
        check_ranges(
            "backbone 'resnet50'", self, {}, {"variant": ("", "ir50", "imagenet"), "missing": ("skip", "black")}
        )


INPUTS = {
    "ir50": ImageInput(40, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop_from=48, resize="bicubic"),
    "imagenet": ImageInput(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop_from=232),
}
DIMS = {"ir50": 512, "imagenet": 2048}
STAGES = ((64, 3, 1), (128, 4, 2), (256, 14, 2), (512, 3, 2))  # channels, units, stride of the first unit

_IMAGENET = ResNet50_Weights.IMAGENET1K_V2
CARDS = {
    _IMAGENET.name: WeightsCard(
        name=_IMAGENET.name,
        variant="imagenet",
        origin=_IMAGENET.url,
        sha256="11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca",  # the file name ends with its first 8 digits
        licence="BSD-3-Clause",
        paper="He2016ResNet",
    ),
}


class _Unit(nn.Module):
    """Batch norm, 3x3, PReLU, strided 3x3, batch norm; added to the (projected) input without an activation.

    Parameter names are those of the public checkpoints.
    """

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.Identity()  # a stride always comes with more channels
        if fan_in != fan_out:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(fan_in, fan_out, 1, stride, bias=False), nn.BatchNorm2d(fan_out)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(fan_in),
            nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False),
            nn.PReLU(fan_out),
            nn.Conv2d(fan_out, fan_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(fan_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class _IR50(nn.Module):
    """(B, 3, 40, 40) → (B, 512) of norm 1."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        units, fan_in = [], 64
        for width, count, stride in STAGES:
            for i in range(count):
                units.append(_Unit(fan_in, width, stride if i == 0 else 1))
                fan_in = width
        self.body = nn.Sequential(*units)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512), nn.Dropout(0.4), nn.Flatten(), nn.Linear(512 * 5 * 5, 512), nn.BatchNorm1d(512)
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(self.output_layer(self.body(self.input_layer(x))))


class _Front(nn.Module):
    """Bytes (N, 40, 40, 3) → the map after some units as rows (N, F), channels last."""

    def __init__(self, image: ImageInput, layers: nn.Module) -> None:
        super().__init__()
        self.image, self.layers = image, layers

    def forward(self, batch: Tensor) -> Tensor:
        return self.layers(self.image.normalise(batch)).permute(0, 2, 3, 1).flatten(1)


class _Rest(nn.Module):
    """Such rows of a map (C, S, S) → (N, 512) of norm 1."""

    def __init__(self, channels: int, layers: nn.Module) -> None:
        super().__init__()
        self.channels, self.layers = channels, layers

    def forward(self, rows: Tensor) -> Tensor:
        side = round((rows.shape[1] / self.channels) ** 0.5)
        maps = rows.view(-1, side, side, self.channels).permute(0, 3, 1, 2)
        return functional.normalize(self.layers(maps))


def _imagenet_body() -> nn.Module:
    """Torchvision's network up to its average pooling, (B, 3, 224, 224) → (B, 2048)."""
    body = torchvision_resnet50(weights=None)
    body.fc = nn.Identity()
    return body


BODIES = {"ir50": _IR50, "imagenet": _imagenet_body}
HEADS = {"ir50": ("logits.",), "imagenet": ("fc.",)}
PREFIX = "backbone."  # of the names in checkpoints of emotion recognition
MARKS = {"ir50": "input_layer.0.weight", "imagenet": "layer1.0.conv1.weight"}


def _variant_of(weights: Weights) -> str:
    """The variant that a checkpoint's names belong to."""
    names = {name.removeprefix(PREFIX) for name in weights.tensors or ()}
    for variant, mark in MARKS.items():
        if mark in names:
            return variant
    raise WeightsError(
        f"Weights '{weights.name}' are not of a known ResNet-50 (first tensor: '{min(names, default='')}'); expected the "
        f"names of an IR-50 or of torchvision. Give weights of one of these, or 'random'."
    )


def _initialise(body: nn.Module) -> None:
    """Initialise an untrained network such that its signal stays in range; the last linear layer as published."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


class ResNet50(Backbone):
    """Faces (B, 40, 40, 3) uint8 → (B, 512) of norm 1; images (B, 224, 224, 3) → (B, 2048)."""

    name = "resnet50"
    modality = "visual"
    algorithm = 1
    cards = CARDS
    input: ImageInput

    def __init__(self, variant: str, missing: str, weights: Weights) -> None:
        super().__init__(weights)
        self.variant = variant
        self.input = replace(INPUTS[variant], missing=missing)
        self.dim = DIMS[variant]
        self.body = BODIES[variant]()

    @classmethod
    def build(cls, config: Config, weights: Weights) -> Self:
        """Build the variant that fits the weights.

        Raises:
            SettingError: if the variant differs from that of the weights.
            WeightsError: if the weights belong to no known variant or do not fit it.
        """
        found = config.variant or "ir50" if weights.tensors is None else _variant_of(weights)
        if config.variant not in ("", found):
            raise SettingError(
                f"Weights '{weights.name}' are of variant '{found}', not '{config.variant}'. Leave the variant out."
            )
        with weights.seeded():
            network = cls(found, config.missing, weights)
            if weights.tensors is None:
                _initialise(network.body)
        load_into(network.body, weights, f"ResNet-50's variant {found}", PREFIX, HEADS[found])
        return network

    def release_groups(self) -> list[list[nn.Parameter]]:
        """Of the IR-50: output layer, fourth stage, last three units of the third one [Zhang2023, its code].

        The code's comment speaks of half the third stage; what it releases are these three.
        """
        if self.variant != "ir50":
            return super().release_groups()
        units = list(self.body.get_submodule("body").children())
        parts = [[self.body.get_submodule("output_layer")], units[-3:], units[-6:-3]]
        return [[parameter for module in part for parameter in module.parameters()] for part in parts]

    def split(self, released: int) -> tuple[nn.Module, nn.Module] | None:
        """The IR-50 before its output layer, its fourth stage, or the last three units of the third one."""
        if self.variant != "ir50":
            return None
        units = list(self.body.get_submodule("body").children())
        place = len(units) - 3 * (released - 1)
        front = nn.Sequential(self.body.get_submodule("input_layer"), *units[:place])
        rest = nn.Sequential(*units[place:], self.body.get_submodule("output_layer"))
        return _Front(self.input, front), _Rest(512 if released == 1 else 256, rest)

    def settings(self) -> dict[str, Any]:
        """Variant and preprocessing."""
        own = {
            "variant": self.variant,
            "size": self.input.size,
            "crop_from": self.input.crop_from,
            "resize": self.input.resize,
        }
        return own | self.input.settings()

    def forward(self, batch: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 → (B, D)."""
        return self.body(self.input.normalise(batch))
