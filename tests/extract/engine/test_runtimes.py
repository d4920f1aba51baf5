"""How backbones run: rows apart from their batch, OpenVINO, precisions, compilation, and what is refused."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.errors import SettingError, UnknownNameError, WeightsError
from cache.store.store import FeatureStore
from extract.backbones import BACKBONES
from extract.backbones.contract import Backbone, load_backbone
from extract.engine.batches import cut_batches, join_inputs
from extract.engine.devices import choose_device
from extract.engine.embedding import EngineOptions, extract_features
from extract.engine.openvino_runtime import OpenVinoExecutor
from extract.engine.runtimes import DEFAULT_RUNTIME, RUNTIMES, Executor, check_running, make_executor, running_versions
from extract.engine.torch_runtime import TorchExecutor
from extract.weights.weights import load_weights

SIZE = 8
APART = [name for name in BACKBONES if name != "bert"]
ROOT = Path(__file__).parents[3]


def skip_without_openvino() -> None:
    """Looked for, not imported: a plain import would report itself to its makers."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")


@pytest.fixture(scope="module", params=APART)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return load_backbone(request.param, "random")


def draw(backbone: Backbone, count: int) -> np.ndarray:
    return backbone.input.example(count, 3)


def executor_of(backbone: Backbone, runtime: str) -> Executor:
    if runtime == "openvino":
        skip_without_openvino()
    return make_executor(backbone, SIZE, choose_device("cpu"), runtime, "fp32", False)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_of_a_full_batch_a_row_is_the_same_to_the_last_bit_in_any_company(backbone: Backbone, runtime: str) -> None:
    """What lets batches cross the borders of trials: a killed run that is taken up again has other batches."""
    executor = executor_of(backbone, runtime)
    pool = draw(backbone, 2 * SIZE)
    expected = np.concatenate([executor(pool[:SIZE]), executor(pool[SIZE:])])
    rng = np.random.default_rng(0)
    for taken in (rng.permutation(len(pool))[:SIZE], np.repeat(5, SIZE), [3, 9, 1, *[1] * 5]):
        assert np.array_equal(executor(pool[taken]), expected[taken])


def test_openvino_equals_torch_to_tolerance(backbone: Backbone) -> None:
    for module in backbone.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            generator = torch.Generator().manual_seed(module.num_features)
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.9, 1.1, generator=generator)
    batch = draw(backbone, SIZE)
    expected = backbone.embed(torch.from_numpy(batch)).numpy()
    found = executor_of(backbone, "openvino")(batch)
    assert found.dtype == np.float32
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_openvino_keeps_silent_on_the_network(tmp_path: Path) -> None:
    """Its telemetry reports every import; here it neither calls anyone nor leaves an id in the home folder."""
    skip_without_openvino()
    program = (
        "import socket, sys\n"
        "def refuse(*_): raise SystemExit('called')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from extract.engine.openvino_runtime import OpenVinoExecutor\nfrom extract.backbones.contract import load_backbone\n"
        "b = load_backbone('conv1d', 'random'); OpenVinoExecutor(b, b.input.example(2))(b.input.example(2))\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
    )
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True, timeout=120)
    assert not (tmp_path / "intel").exists()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_is_near_and_another_recipe(precision: str) -> None:
    backbone = load_backbone("conv1d", "random")
    batch = draw(backbone, 4)
    expected = TorchExecutor(backbone, choose_device("cpu"))(batch)
    found = TorchExecutor(backbone, choose_device("cpu"), precision)(batch)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 0.03 * np.abs(expected).max()
    assert backbone.recipe("float16", "fp32") == backbone.recipe()
    assert backbone.recipe("float16", precision).settings["precision"] == precision
    assert backbone.recipe("float16", precision).fingerprint != backbone.recipe().fingerprint


@pytest.mark.parametrize("works", [True, False])
def test_compiling_is_asked_for_once_or_refused(monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    """The compiler itself takes twenty seconds; here it is a stand-in."""
    asked = []

    def compile_network(network: Backbone, **how: Any) -> Any:
        def forward(batch: torch.Tensor) -> torch.Tensor:
            if not works:
                raise torch._dynamo.exc.TorchDynamoException("no g++\nmore")
            return network(batch)

        asked.append(how)
        return forward

    monkeypatch.setattr(torch, "compile", compile_network)
    backbone = load_backbone("conv1d", "random")
    batch = draw(backbone, 4)
    executor = TorchExecutor(backbone, choose_device("cpu"), compiled=True)
    if works:
        assert np.array_equal(executor(batch), TorchExecutor(backbone, choose_device("cpu"))(batch))
        assert asked == [{"dynamic": False, "options": {"freezing": True}}]
        assert running_versions("torch", True)["runtime"] == "torch.compile"
    else:
        with pytest.raises(SettingError, match=r"cannot be compiled here \(no g\+\+\). Install a C\+\+ compiler"):
            executor(batch)


@pytest.mark.parametrize(
    ("name", "device", "runtime", "precision", "compiled", "text"),
    [
        ("bert", "cpu", "openvino", "fp32", False, "bert.* OpenVINO .*Run it alone, with '--runtime torch'"),
        ("bert", "cpu", "torch", "fp32", True, "which --compile cannot run well.* Run it alone"),
        (
            "conv1d",
            "cpu",
            "openvino",
            "bf16",
            False,
            "got '--precision bf16'. Leave that out, or use '--runtime torch'",
        ),
        ("conv1d", "auto", "openvino", "fp32", True, "got '--compile'. Leave that out"),
    ],
)
def test_what_cannot_run_is_refused_with_a_remedy(
    name: str, device: str, runtime: str, precision: str, compiled: bool, text: str
) -> None:
    with pytest.raises(SettingError, match=text):
        check_running(load_backbone(name, "random"), device, runtime, precision, compiled)
    with pytest.raises(UnknownNameError, match="Did you mean 'torch'"):
        check_running(load_backbone("conv1d", "random"), device, "torhc", "fp32", False)


def test_openvino_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    backbone = load_backbone("conv1d", "random")
    with pytest.raises(SettingError, match=r"pip install 'avfusion\[openvino\]'"):
        OpenVinoExecutor(backbone, backbone.input.example(2))


def test_examples_are_inputs() -> None:
    for name in BACKBONES:
        backbone = load_backbone(name, "random")
        assert backbone.input.mixes == (name != "bert")
        assert backbone.embed(torch.from_numpy(backbone.input.example(2))).shape == (2, backbone.dim)


def make_sounds(folder: Path, lengths: tuple[int, ...]) -> Manifest:
    rng = np.random.default_rng(0)
    trials = []
    for index, length in enumerate(lengths):
        soundfile.write(folder / f"{index}.wav", rng.uniform(-0.5, 0.5, length * 640).astype(np.float32), 16_000)
        clock = FrameClock(Fraction(25), length)
        trials.append(Trial(str(index), "s", "", clock, {"audio": f"{index}.wav"}))
    return Manifest(folder, tuple(trials))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_batches_cross_trials_and_every_subset_gives_the_same_bytes(tmp_path: Path, runtime: str) -> None:
    """Lengths that fill no batch: whatever was finished before, the digests are those of one run over everything."""
    if runtime == "openvino":
        skip_without_openvino()
    manifest = make_sounds(tmp_path, (5, 17, 3, 30, 8))
    backbone = load_backbone("conv1d", "random")
    options = EngineOptions(batch_size=SIZE, device="cpu", runtime=runtime)
    digests = []
    for name, runs in (("whole", [(0, 1, 2, 3, 4)]), ("parts", [(3,), (4, 0), (0, 1, 2, 3, 4)])):
        store = FeatureStore.create(tmp_path / f"{name}.zarr", backbone.recipe())
        for chosen in runs:
            trials = [manifest.trials[i] for i in chosen]
            assert not extract_features(backbone, store, manifest, trials, None, options).failures
        digests.append([store.record(trial.id).embeddings for trial in manifest.trials])
        assert store.record("0").versions["runtime"] == runtime
        assert ("openvino" in store.record("0").versions) == (runtime == "openvino")
    assert digests[0] == digests[1]


class ToyExecutor(Executor):
    """A runtime that is nothing but a file and a table line: embeddings that name their items."""

    libraries = ("numpy",)

    def __init__(self, dim: int) -> None:
        self.dim = dim

    @classmethod
    def check(cls, backbone: Backbone, device: str, precision: str, compiled: bool) -> torch.device:
        return torch.device("cpu")

    @classmethod
    def build(
        cls, backbone: Backbone, batch_size: int, device: torch.device, precision: str, compiled: bool
    ) -> ToyExecutor:
        return cls(backbone.dim)

    def start(self, batch: np.ndarray) -> Callable[[], np.ndarray]:
        return lambda: np.repeat(batch.mean(axis=1, dtype=np.float32)[:, None], self.dim, axis=1)


def test_a_toy_runtime_runs_through_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "toy_runtime", SimpleNamespace(ToyExecutor=ToyExecutor))
    monkeypatch.setitem(RUNTIMES, "toy", "toy_runtime:ToyExecutor")
    manifest = make_sounds(tmp_path, (5, 17))
    backbone = load_backbone("conv1d", "random")
    store = FeatureStore.create(tmp_path / "conv1d.zarr", backbone.recipe())
    options = EngineOptions(batch_size=SIZE, device="cpu", runtime="toy")
    assert not extract_features(backbone, store, manifest, manifest.trials, None, options).failures
    embeddings, valid = store.read("1")
    assert valid.all()
    assert (embeddings == embeddings[:, :1]).all()
    assert len(np.unique(embeddings[:, 0])) > 5
    versions = store.record("1").versions
    assert (versions["runtime"], set(versions) & {"numpy", "torch"}) == ("toy", {"numpy"})


def test_table_and_files_agree() -> None:
    files = {path.stem.removesuffix("_runtime") for path in (ROOT / "extract/engine").glob("*_runtime.py")}
    assert files == set(RUNTIMES)
    assert DEFAULT_RUNTIME in RUNTIMES


def test_a_bad_trial_fails_alone_within_a_batch(tmp_path: Path) -> None:
    manifest = make_sounds(tmp_path, (5, 6, 7))
    (tmp_path / "1.wav").write_bytes(b"no sound")
    backbone = load_backbone("conv1d", "random")
    store = FeatureStore.create(tmp_path / "conv1d.zarr", backbone.recipe())
    options = EngineOptions(batch_size=64, device="cpu")
    outcome = extract_features(backbone, store, manifest, manifest.trials, None, options)
    assert (outcome.computed, list(outcome.failures), outcome.frames) == (["0", "2"], ["1"], 12)


def test_a_batch_is_filled_with_copies_of_its_last_row() -> None:
    parts = [np.array([[1], [2]]), np.array([[3]])]
    assert join_inputs(parts, 5).ravel().tolist() == [1, 2, 3, 3, 3]
    assert join_inputs(parts, 0).ravel().tolist() == [1, 2, 3]
    assert [batch.flush for batch in cut_batches([None], 4, True)] == [True, True]


def test_a_damaged_safetensors_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b'\x08\0\0\0\0\0\0\0{"a":1}}')
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(str(tmp_path / "w.safetensors"), {})


def test_weights_are_let_go_once_the_network_is_built(tmp_path: Path) -> None:
    torch.save(load_backbone("conv1d", "random").body.state_dict(), tmp_path / "w.pt")
    again = load_backbone("conv1d", str(tmp_path / "w.pt"))
    assert again.weights.tensors is None
    assert again.weights.seed is None
    assert load_backbone("conv1d", "random:5").weights.seed == 5
