"""What the tests of single fusion models share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fusion.model import FusionModel, Inputs
from fusion.training.building import build_model


@pytest.fixture
def tiny() -> Callable[..., FusionModel]:
    """Build a model in float64 and evaluation mode, always with the same weights, none of them at its initial zero."""

    def build(
        name: str, dims: dict[str, int], targets: tuple[str, ...] = ("valence",), **settings: object
    ) -> FusionModel:
        torch.manual_seed(0)
        model = build_model(name, dims, targets, settings).double().eval()
        with torch.no_grad():
            for tensor in model.parameters():
                tensor += torch.randn_like(tensor) / 10
            for name_, tensor in model.named_buffers():
                if name_.endswith(("running_mean", "running_var")):
                    tensor.add_(torch.rand_like(tensor))
        return model

    return build


@pytest.fixture
def windows() -> Callable[..., Inputs]:
    """Random float64 windows, everything valid inside."""

    def draw(dims: dict[str, int], num_windows: int, num_frames: int, lengths: list[int] | None = None) -> Inputs:
        generator = torch.Generator().manual_seed(3)
        used = torch.tensor(lengths or [num_frames] * num_windows)
        inside = torch.arange(num_frames) < used[:, None]
        embeddings = {
            m: torch.randn(num_windows, num_frames, dim, generator=generator, dtype=torch.float64) * inside[..., None]
            for m, dim in dims.items()
        }
        return Inputs(embeddings, {m: inside.clone() for m in dims}, used)

    return draw


@pytest.fixture
def count() -> Callable[..., int]:
    """Parameters of a model, or of one built on the way; no memory is touched."""

    def number(
        name: str | torch.nn.Module,
        dims: dict[str, int] | None = None,
        targets: tuple[str, ...] = ("valence",),
        **settings: object,
    ) -> int:
        if isinstance(name, str):
            assert dims is not None
            with torch.device("meta"):
                name = build_model(name, dims, targets, settings)
        return sum(parameter.numel() for parameter in name.parameters())

    return number
