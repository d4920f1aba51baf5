"""VGGish against the whole of torchvggish, and when that library is imported."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.errors import MissingFileError, SettingError, ShapeError, WeightsError
from extract.backbones import BACKBONES
from extract.backbones.contract import load_backbone
from extract.backbones.vggish import CARDS, PCA_CARDS, VGGish
from extract.inputs.contract import open_source
from extract.inputs.spectrogram import log_mel
from extract.media.audio import load_audio


@pytest.fixture(scope="module")
def library() -> ModuleType:
    """The file of the library's network."""
    return importlib.import_module("torchvggish.torchvggish")


@pytest.fixture(scope="module")
def reference(library: ModuleType) -> torch.nn.Module:
    torch.manual_seed(1)
    return library.VGG(library.make_layers(), postprocess=False).eval()


def test_only_this_backbone_imports_the_library() -> None:
    others = [name for name in BACKBONES if name not in ("bert", "vggish")]
    program = (
        "import importlib, sys\nfrom extract.backbones.contract import load_backbone\nfrom extract.backbones import BACKBONES\n"
        "files = [importlib.import_module(target.split(':')[0]) for target in BACKBONES.values()]\n"
        f"for name in {[*others, 'vggish']!r}:\n"
        "    load_backbone(name, 'random')\n    print(name, *{'torchvggish', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100)
    *before, last = done.stdout.splitlines()
    assert before == others
    assert set(last.split()) == {"vggish", "torchvggish", "numba"}


@pytest.fixture(scope="module")
def load(reference: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., VGGish]]:
    path = tmp_path_factory.mktemp("weights") / "vggish.pth"
    torch.save(reference.state_dict(), path)

    def load(**settings: object) -> VGGish:
        backbone = load_backbone("vggish", str(path), settings)
        assert isinstance(backbone, VGGish)
        return backbone

    yield load
    path.unlink()  # 290 MB


@pytest.fixture(scope="module")
def patches() -> torch.Tensor:
    sound = np.random.default_rng(0).normal(0, 0.2, 16_000 * 2).clip(-1, 1).astype(np.float32)
    spectrogram = log_mel(sound)[:]
    return torch.from_numpy(np.stack([spectrogram[:96], spectrogram[60:156]]))


def test_with_the_final_relu_it_is_torchvggish(
    load: Callable[..., VGGish], reference: torch.nn.Module, patches: torch.Tensor
) -> None:
    with torch.inference_mode():
        expected = reference(patches[:, None])
    assert expected.min() == 0 < expected.max()
    torch.testing.assert_close(load(final_relu=True).embed(patches), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(load().embed(patches).relu(), expected, rtol=1e-6, atol=1e-7)
    assert load().embed(patches).min() < 0


def test_with_the_postprocessing_as_well_it_is_torchvggish(
    load: Callable[..., VGGish],
    library: ModuleType,
    reference: torch.nn.Module,
    patches: torch.Tensor,
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(4)
    params = {"pca_eigen_vectors": rng.normal(0, 9, (128, 128)), "pca_means": rng.normal(0, 0.02, 128)}
    torch.save(params, tmp_path / "pca.pth")
    processor = object.__new__(library.Postprocessor)  # its constructor downloads
    processor._pca_matrix = torch.as_tensor(params["pca_eigen_vectors"]).float()
    processor._pca_means = torch.as_tensor(params["pca_means"].reshape(-1, 1)).float()
    with torch.inference_mode():
        expected = processor.postprocess(reference(patches[:, None]))
    assert len(expected.unique()) > 20
    found = load(final_relu=True, pca=str(tmp_path / "pca.pth")).embed(patches)
    assert (found - expected).abs().max() <= 1  # a last bit may round a level away
    assert (found != expected).float().mean() < 0.01


def test_every_setting_is_in_the_fingerprint(load: Callable[..., VGGish], tmp_path: Path) -> None:
    torch.save({"pca_eigen_vectors": torch.eye(128), "pca_means": torch.zeros(128, 1)}, tmp_path / "pca.pth")
    variants = [{}, {"start": "centred"}, {"final_relu": True}, {"pca": "random"}, {"pca": str(tmp_path / "pca.pth")}]
    assert len({load(**settings).recipe().fingerprint for settings in variants}) == 5


def test_settings_and_weights_that_do_not_fit(load: Callable[..., VGGish], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="'start' is 'behind', expected one of ahead, centred"):
        load(start="behind")
    with pytest.raises(MissingFileError, match="do not exist. Give a path, 'random', or one of audioset"):
        load(pca="none/pca.pth")
    torch.save({"pca_eigen_vectors": torch.eye(3), "pca_means": torch.zeros(128)}, tmp_path / "pca.pth")
    with pytest.raises(WeightsError, match="do not fit the postprocessing .* of another shape"):
        load(pca=str(tmp_path / "pca.pth"))


def test_patches_out_of_range_are_refused(load: Callable[..., VGGish], patches: torch.Tensor) -> None:
    backbone = load()
    for wrong in (patches - 4, patches + 8, patches * torch.nan):
        with pytest.raises(ShapeError, match="expected \\[-4.61, 8\\]"):
            backbone.embed(wrong)


def test_cards_promise_what_the_file_names_do(library: ModuleType) -> None:
    (network,), (pca,) = CARDS.values(), PCA_CARDS.values()
    assert (network.origin, pca.origin) == (library.VGGISH_WEIGHTS, library.PCA_PARAMS)
    for card in (network, pca):
        assert card.origin.endswith(f"-{card.sha256}.pth")


@pytest.mark.parametrize("start", ["ahead", "centred"])
def test_a_trial_is_read_as_patches(
    load: Callable[..., VGGish], media: SimpleNamespace, tmp_path: Path, start: str
) -> None:
    sound: NDArray[np.float32] = np.random.default_rng(1).uniform(-0.5, 0.5, 16_000 * 2).astype(np.float32)
    soundfile.write(tmp_path / "t.wav", sound, 16_000, subtype="PCM_16")
    trial = Trial("t", "s", "train", FrameClock(Fraction(30000, 1001), 65), {"audio": "t.wav"}, None)
    source = open_source(load(start=start).input, Manifest(tmp_path, (trial,)), trial, None)
    valid = source.load().valid
    late = {"ahead": 62, "centred": 60}[start]
    assert valid.tolist() == [True] * late + [False] * (65 - late)
    found = source.read(np.array([20, 40]))
    assert found.shape == (2, 96, 64)
    assert found.dtype == np.float32
    first = {"ahead": 67, "centred": 20}[start]  # 66.7; 100 · 20.5 / 29.97 - 48.75 = 19.65
    samples = load_audio(tmp_path / "t.wav")
    np.testing.assert_allclose(found[0], log_mel(samples)[first : first + 96], atol=1e-6)
