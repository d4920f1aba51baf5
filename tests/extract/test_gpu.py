"""On a CUDA device: the embeddings are those of the CPU, and batches that overlap keep their rows."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.store.store import FeatureStore
from extract.backbones.contract import Backbone, load_backbone
from extract.engine.devices import choose_device
from extract.engine.embedding import EngineOptions, extract_features
from extract.engine.outcome import Outcome
from extract.engine.torch_runtime import TorchExecutor
from extract.inputs.images import ImageInput

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]
DEVICE = "cuda"
SIZE = 6
TOLERANCE = 1e-4
"""Of the largest value."""


@pytest.fixture(scope="module", params=["bert", "conv1d", "facenet", "mobilefacenet", "resnet50", "vggish"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return load_random(request.param)


def load_random(name: str) -> Backbone:
    """With random weights, and batch norms that do something."""
    if name == "bert":
        pytest.importorskip("transformers")
    backbone = load_backbone(name, "random")
    for module in backbone.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            generator = torch.Generator().manual_seed(module.num_features)
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.9, 1.1, generator=generator)
    return backbone


def draw(backbone: Backbone, seed: int) -> NDArray[Any]:
    return backbone.input.example(SIZE, seed)


def assert_near(found: NDArray[Any], expected: NDArray[Any]) -> None:
    """The same rows: to tolerance, and further from each other than that."""
    margin = TOLERANCE * np.abs(expected).max()
    assert found.dtype == expected.dtype == np.float32
    apart = np.abs(expected[:, None] - expected[None]).max(axis=-1)
    assert apart[~np.eye(len(expected), dtype=bool)].min() > 3 * margin
    np.testing.assert_allclose(found, expected, rtol=0, atol=margin)


def test_embeddings_are_those_of_the_cpu(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where something else in the process let convolutions use TF32, as torch does by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    batch = draw(backbone, 0)
    executor = TorchExecutor(backbone, choose_device(DEVICE))
    assert executor.device.type == DEVICE
    assert_near(executor(batch), TorchExecutor(backbone, choose_device("cpu"))(batch))
    assert {parameter.device.type for parameter in backbone.parameters()} == {"cpu"}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first", "second"])
def test_two_batches_begun_before_one_is_awaited_keep_their_rows(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, order: tuple[int, int]
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    batches = [draw(backbone, seed) for seed in (0, 1)]
    waits = list(map(TorchExecutor(backbone, choose_device(DEVICE)).start, batches))
    found = {number: waits[number]() for number in order}
    cpu = TorchExecutor(backbone, choose_device("cpu"))
    expected = np.concatenate([cpu(batch) for batch in batches])
    assert_near(np.concatenate([found[0], found[1]]), expected)


def make_crops(folder: Path, lengths: tuple[int, ...], without: int) -> Manifest:
    """Trials with a folder of crops each; the frame `without` has none."""
    trials = []
    for index, length in enumerate(lengths):
        (folder / f"{index}").mkdir(parents=True)
        for frame, picture in enumerate(ImageInput(112, (0.5,) * 3, (0.5,) * 3).example(length, index)):
            if frame != without:
                Image.fromarray(picture).save(folder / f"{index}" / f"{frame + 1:05d}.png")
        trials.append(Trial(f"{index}", "s", "", FrameClock(Fraction(25), length), {"crops": f"{index}"}))
    return Manifest(folder, tuple(trials))


def test_extraction_gives_the_embeddings_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that cross trials, a last one that is not full, a frame without a crop, and a trial that fails."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    manifest = make_crops(tmp_path / "crops", (5, 9, 4, 2, 7), without=1)
    (tmp_path / "crops" / "2" / "00003.png").write_bytes(b"no picture")
    backbone = load_random("mobilefacenet")

    def extract(device: str) -> tuple[FeatureStore, Outcome]:
        store = FeatureStore.create(tmp_path / f"{device}.zarr", backbone.recipe("float32"))
        options = EngineOptions(batch_size=4, device=device)
        return store, extract_features(backbone, store, manifest, manifest.trials, None, options)

    (plain, expected), (store, outcome) = extract("cpu"), extract(DEVICE)
    assert outcome.computed == expected.computed == ["0", "1", "3", "4"]
    assert list(outcome.failures) == list(expected.failures) == ["2"]
    pairs = [(store.read(name, check=True), plain.read(name)) for name in outcome.computed]
    for found, wanted in pairs:
        assert np.flatnonzero(~found.valid).tolist() == np.flatnonzero(~wanted.valid).tolist() == [1]
    both = (
        np.concatenate([features.embeddings[features.valid] for features in side]) for side in zip(*pairs, strict=True)
    )
    assert_near(*both)
