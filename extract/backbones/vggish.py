"""Audio, 128-d: VGGish on a log-mel patch of 0.975 s at each frame.

The network of [Hershey2017VGGish], trained on a preliminary YouTube-8M, comes from the library torchvggish (Apache-2.0);
72,141,184 parameters. Two parts of the library are replaced: the patches are cut from one spectrogram of the whole sound
(`extract.inputs.spectrogram`, a hundred times faster per frame), and the postprocessing takes its weights from a file (the library
downloads them in its constructor). The defaults follow [Zhang2023], whose code omits the ReLU after the last layer and
the postprocessing. With `final_relu` the embeddings equal torchvggish's without postprocessing; with `pca` too, those
with it.
Weights: release files of torchvggish, named with the first digits of their sha256.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from cache.settings import check_ranges
from extract.backbones.contract import Backbone
from extract.inputs.logmel import LogMelInput
from extract.inputs.spectrogram import HOP, NUM_BANDS, PATCH, RATE_HZ, WINDOW
from extract.weights.cards import WeightsCard
from extract.weights.weights import Weights, build_fitting, load_into, load_weights


@dataclass(frozen=True)
class Config:
    """Settings of the network and its patches.

    Attributes:
        start: "ahead" if the patch begins with the frame [Zhang2023], "centred" if it is centred on the frame.
        final_relu: whether the last layer ends with a ReLU, as in torchvggish.
        pca: weights of the postprocessing (PCA, clipping to ±2, quantisation to 0 … 255): "audioset", a path, or
            "random"; "" leaves it out.
    """

    start: str = "ahead"
    final_relu: bool = False
    pca: str = ""

    def __post_init__(self) -> None:
        check_ranges("backbone 'vggish'", self, {}, {"start": ("ahead", "centred")})


DIM = 128
CLIP = 2.0
LEVELS = 255

_RELEASE = "https://github.com/harritaylor/torchvggish/releases/download/v0.1"
CARDS = {
    "vggish": WeightsCard(
        name="vggish",
        variant="network",
        origin=f"{_RELEASE}/vggish-10086976.pth",
        sha256="10086976",
        licence="Apache-2.0",
        paper="Hershey2017VGGish",
    ),
}
PCA_CARDS = {
    "audioset": WeightsCard(
        name="audioset",
        variant="PCA",
        origin=f"{_RELEASE}/vggish_pca_params-970ea276.pth",
        sha256="970ea276",
        licence="Apache-2.0",
        paper="Hershey2017VGGish",
    ),
}


def _network(final_relu: bool) -> nn.Module:
    """torchvggish's network, (B, 1, 96, 64) → (B, 128), uninitialised."""
    from torchvggish import VGG, make_layers  # imported here because it imports numba, which takes seconds

    with torch.device("meta"):  # 72 million numbers that are about to be overwritten
        network = VGG(make_layers(), postprocess=False)
    if not final_relu:
        network.embeddings[-1] = nn.Identity()
    return network.to_empty(device="cpu")


class _Postprocessing(nn.Module):
    """PCA with whitening, clipping, quantisation to whole numbers in [0, 255]."""

    pca_eigen_vectors: Tensor
    pca_means: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pca_eigen_vectors", nn.init.orthogonal_(torch.empty(DIM, DIM)))
        self.register_buffer("pca_means", torch.zeros(DIM))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.pca_means) @ self.pca_eigen_vectors.T
        return torch.round((x.clamp(-CLIP, CLIP) + CLIP) * (LEVELS / (2 * CLIP)))


def _initialise(body: nn.Module) -> None:
    """Initialise an untrained network such that its signal stays above the biases through all layers."""
    for module in body.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)


class _Front(nn.Module):
    """Patches (N, 96, 64) → rows (N, F) after the convolutions and some of the linear layers."""

    def __init__(self, convolutions: nn.Module, linear: nn.Module) -> None:
        super().__init__()
        self.convolutions, self.linear = convolutions, linear

    def forward(self, batch: Tensor) -> Tensor:
        return self.linear(self.convolutions(batch.unsqueeze(1)).permute(0, 2, 3, 1).flatten(1))


class VGGish(Backbone):
    """Log-mel patches (B, 96, 64) → (B, 128)."""

    name = "vggish"
    modality = "audio"
    algorithm = 3
    cards = CARDS
    dim = DIM
    input: LogMelInput

    def __init__(self, config: Config, weights: Weights) -> None:
        super().__init__(weights)
        self.final_relu = config.final_relu
        self.input = LogMelInput(config.start)
        self.body = _network(config.final_relu)
        self.postprocessing: nn.Module = nn.Identity()
        self.pca_sha256 = ""

    @classmethod
    def build(cls, config: Config, weights: Weights) -> Self:
        """Build the network with these weights.

        Raises:
            MissingFileError: if the file of the postprocessing does not exist.
            UnknownNameError: if the weights of the postprocessing are unknown.
            WeightsError: if weights do not fit.
        """
        network = cls(config, weights)
        if weights.tensors is None:
            with weights.seeded():
                _initialise(network.body)
        load_into(network.body, weights, "the network 'vggish'", "backbone.", ("pproc.",))
        if config.pca:
            build_fitting(load_weights(config.pca, PCA_CARDS), network.set_postprocessing)
        return network

    def set_postprocessing(self, pca: Weights) -> None:
        """Add the postprocessing of the embeddings.

        Raises:
            WeightsError: if the weights are not for a postprocessing.
        """
        with pca.seeded():
            self.postprocessing = _Postprocessing()
        if pca.tensors is not None:
            flat = {name: tensor.flatten() if name == "pca_means" else tensor for name, tensor in pca.tensors.items()}
            load_into(self.postprocessing, replace(pca, tensors=flat), "the postprocessing of 'vggish'")
        self.pca_sha256 = pca.sha256

    def release_groups(self) -> list[list[nn.Parameter]]:
        """The three linear layers, the last one first; convolutions stay as they are [Zhang2023, its code]."""
        layers = [
            module for module in self.body.get_submodule("embeddings").children() if isinstance(module, nn.Linear)
        ]
        return [list(layer.parameters()) for layer in reversed(layers)]

    def split(self, released: int) -> tuple[nn.Module, nn.Module] | None:
        """Before the last linear layer, the last two, or all three."""
        layers = list(self.body.get_submodule("embeddings").children())  # each is followed by its activation
        place = len(layers) - 2 * released
        front = _Front(self.body.get_submodule("features"), nn.Sequential(*layers[:place]))
        return front, nn.Sequential(*layers[place:], self.postprocessing)

    def settings(self) -> dict[str, Any]:
        """Settings of front end, patch start and variant."""
        return {
            "rate_hz": RATE_HZ,
            "window": WINDOW,
            "hop": HOP,
            "bands": NUM_BANDS,
            "patch": PATCH,
            "start": self.input.start,
            "final_relu": self.final_relu,
            "pca": self.pca_sha256,
            "timing": {
                "ahead": "patch from the start of the frame, 1 s of its last sample after the sound, last patch repeated",
                "centred": "patch centred on the frame, silence outside",
            }[self.input.start],
        }

    def forward(self, batch: Tensor) -> Tensor:
        """(B, 96, 64) → (B, 128)."""
        return self.postprocessing(self.body(batch.unsqueeze(1)))
