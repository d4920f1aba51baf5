"""A video of the project with a trained system."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from cache.corpus.manifest import Manifest
from extract.backbones.mobilefacenet import MobileFaceNet
from extract.engine import cropping
from pipelines.prediction import live
from tests.detectors import by_search
from tests.pipelines.prediction.recordings import find_square


@pytest.fixture
def video(trained: Path) -> Path:
    """The video of the second trial, which has a label for each picture."""
    manifest = Manifest.load(Path("work/corpus"))
    return manifest.path(manifest.trials[1], "video")


@pytest.fixture
def squares(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Squares are faces, and their embeddings are coarse pictures of them."""

    def shrink(network: MobileFaceNet, batch: torch.Tensor) -> torch.Tensor:
        coarse = functional.adaptive_avg_pool2d(network.input.normalise(batch), 13).flatten(1)
        return functional.pad(coarse, (0, network.dim - coarse.shape[1]))

    for module in (cropping, live):
        monkeypatch.setattr(module, "make_detector", lambda config, device: by_search(find_square))
    monkeypatch.setattr(MobileFaceNet, "forward", shrink)
    monkeypatch.chdir(tmp_path)
