"""Visual, 512-d: InceptionResnetV1 on 160x160 faces, trained to tell people apart, L2-normalised.

Inception-ResNet-v1 as trained by David Sandberg for the task of [Schroff2015FaceNet] and ported to PyTorch in
facenet-pytorch (MIT), whose class is used here; "FaceNet" in [Karas2022, Section 3.1]. 23,482,624 parameters without
the classification layer. Its standardisation is (x - 127.5) / 128; Karas et al. divide by 127.5, a scale 0.4 % off,
which the setting `standardise` reproduces. Dropout has no effect in a frozen network. Smaller crops are enlarged
bilinearly, as facenet-pytorch does with Pillow images.
Weights: VGGFace2 or CASIA-Webface, release files of facenet-pytorch (MIT), which publishes no sha256; that of
CASIA-Webface is unknown here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from facenet_pytorch import InceptionResnetV1
from torch import Tensor, nn

from cache.settings import check_ranges
from extract.backbones.contract import Backbone
from extract.inputs.images import ImageInput
from extract.weights.cards import WeightsCard
from extract.weights.weights import Weights, load_into


@dataclass(frozen=True)
class Config:
    """Settings of the input.

    Attributes:
        standardise: "fixed" for (x - 127.5) / 128 as trained, "half" for (x - 127.5) / 127.5 as in [Karas2022].
        missing: "skip" frames without a face, or embed a "black" picture for them.
    """

    standardise: str = "fixed"
    missing: str = "skip"

    def __post_init__(self) -> None:
        check_ranges("backbone 'facenet'", self, {}, {"standardise": ("fixed", "half"), "missing": ("skip", "black")})


SIZE = 160
STDS = {"fixed": 128 / 255, "half": 0.5}

_RELEASE = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9"
CARDS = {
    "casia-webface": WeightsCard(
        name="casia-webface",
        variant="InceptionResnetV1",
        origin=f"{_RELEASE}/20180408-102900-casia-webface.pt",
        sha256="",
        licence="MIT",
        paper="Schroff2015FaceNet",
    ),
    "vggface2": WeightsCard(
        name="vggface2",
        variant="InceptionResnetV1",
        origin=f"{_RELEASE}/20180402-114759-vggface2.pt",
        sha256="281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
        licence="MIT",
        paper="Schroff2015FaceNet",
    ),
}


def _initialise(body: nn.Module) -> None:
    """Initialise an untrained network such that its signal stays above the biases through all layers."""
    for module in body.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


class FaceNet(Backbone):
    """Faces (B, 160, 160, 3) uint8 → (B, 512) of norm 1."""

    name = "facenet"
    modality = "visual"
    algorithm = 1
    cards = CARDS
    dim = 512
    input: ImageInput

    def __init__(self, config: Config, weights: Weights) -> None:
        super().__init__(weights)
        std = STDS[config.standardise]
        self.input = ImageInput(SIZE, (0.5, 0.5, 0.5), (std, std, std), missing=config.missing)
        self.body = InceptionResnetV1(pretrained=None, classify=False)
        for module in self.body.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = True  # safe: nothing else uses the inputs of these ReLUs

    @classmethod
    def build(cls, config: Config, weights: Weights) -> Self:
        """Build the network with these weights.

        Raises:
            WeightsError: if the weights do not fit.
        """
        with weights.seeded():
            network = cls(config, weights)
            if weights.tensors is None:
                _initialise(network.body)
        load_into(network.body, weights, "facenet-pytorch's InceptionResnetV1", unused=("logits.",))
        return network

    def settings(self) -> dict[str, Any]:
        """Size and standardisation."""
        return self.input.settings()

    def forward(self, batch: Tensor) -> Tensor:
        """(B, 160, 160, 3) uint8 → (B, 512)."""
        return self.body(self.input.normalise(batch))
