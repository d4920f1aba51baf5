"""How a backbone runs: with torch (folded, channels-last, without gradients) or with OpenVINO, on one device.

Of a batch of one size, every row's embedding is the same to the last bit whatever the other rows are; a test holds
this for every backbone of images or sound. So batches may cross the borders of trials, and a run that was killed and
taken up again gives the same bytes as one that was not.
"""

from __future__ import annotations

import copy
import ctypes
import importlib
import itertools
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from cache.errors import SettingError
from cache.names import require_known
from extract.backbone import Backbone
from extract.extras import import_extra

RUNTIMES = ("openvino", "torch")
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What convolutions and products are computed in; other than fp32 changes the embeddings, and so their fingerprint."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's <malloc.h>


def keep_big_buffers() -> None:
    """Stop glibc from handing activation buffers back to the system at every step (Linux only).

    Without it MobileFaceNet falls from 84 frames/s at batch 8 to 26 at batch 128; costs about 0.6 GB of peak memory.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def choose_device(wanted: str) -> torch.device:
    """Device of a name: auto, cpu, cuda or cuda:N.

    On CUDA fp32 is then fp32 for the whole process, as on the CPU, and not TF32, whose ten bits move landmarks by pixels;
    and cuDNN takes only algorithms that give the same bits each time.

    Raises:
        SettingError: if there is no such device here.
    """
    device = _find_device(wanted)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
    return device


def _find_device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", wanted):
        raise SettingError(f"Unknown device '{wanted}'; expected auto, cpu, cuda or cuda:N. Change it.")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingError(
            f"Device '{wanted}' does not exist; there are {torch.cuda.device_count()} CUDA devices. Use 'auto' or 'cpu'."
        )
    return device


def fold_batch_norms(module: nn.Module) -> None:
    """Fold each batch norm into the convolution or linear layer registered right before it, in place.

    Backbones register their layers in the order of their use; a contract test compares folded with unfolded outputs.
    """
    children = list(module.named_children())
    for (name, child), (next_name, follower) in itertools.pairwise(children):
        folded = _fold(child, follower)
        if folded is not None:
            setattr(module, name, folded)
            setattr(module, next_name, nn.Identity())
    for _, child in children:
        fold_batch_norms(child)


def _fold(layer: nn.Module, norm: nn.Module) -> nn.Module | None:
    """The layer with the batch norm in its weights, None where the two are no such pair."""
    if not isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return None
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)) and layer.out_channels == norm.num_features:
        return fuse_conv_bn_eval(layer, norm)
    if isinstance(layer, nn.Linear) and layer.out_features == norm.num_features:
        return fuse_linear_bn_eval(layer, norm)
    return None


class Executor(Protocol):
    """Computes embeddings of batches of one size."""

    def start(self, batch: NDArray[Any]) -> Callable[[], NDArray[np.float32]]:
        """Begin with a checked batch of frames' inputs; the result waits for embeddings (B, D)."""


class TorchExecutor:
    """Runs a backbone with torch: batch norms folded, weights channels-last, inputs sent as they are stored.

    On CUDA the bytes go over the bus as they are (uint8 for images) from pinned memory, are normalised there, and the
    embeddings come back while the next batch is already computed.

    Args:
        backbone: what computes.
        device: where.
        precision: "fp32", or "bf16" or "fp16" for autocast.
        compiled: whether `torch.compile` makes it faster; takes up to half a minute, and a C++ compiler.
    """

    def __init__(
        self, backbone: Backbone, device: torch.device, precision: str = "fp32", compiled: bool = False
    ) -> None:
        self.device, self._dtype = device, PRECISIONS[precision]
        self._network = copy.deepcopy(backbone, {id(backbone.weights): backbone.weights})
        fold_batch_norms(self._network)
        if any(isinstance(module, nn.Conv2d) for module in self._network.modules()):
            self._network = self._network.to(memory_format=torch.channels_last)
        self._network = self._network.to(device)
        self._forward: Callable[[Tensor], Tensor] = self._network
        if compiled:
            self._forward = _compile(self._network)

    def __call__(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Embeddings (B, D) of a batch of frames' inputs."""
        return self.start(batch)()

    def start(self, batch: NDArray[Any]) -> Callable[[], NDArray[np.float32]]:
        """Begin with a batch; the result waits for its embeddings (B, D)."""
        tensor = torch.from_numpy(batch)
        if self.device.type != "cuda":
            rows = self._embed(tensor).numpy()
            return lambda: rows
        found = self._embed(tensor.pin_memory().to(self.device, non_blocking=True))
        host = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
        host.copy_(found, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(self.device))

        def wait() -> NDArray[np.float32]:
            done.synchronize()
            return host.numpy()

        return wait

    @torch.no_grad()
    def _embed(self, batch: Tensor) -> Tensor:
        with torch.inference_mode(self._forward is self._network), self._autocast():
            return self._forward(batch).float()

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._dtype is None else torch.autocast(self.device.type, self._dtype)


def _compile(network: Backbone) -> Callable[[Tensor], Tensor]:
    """The network compiled for the one batch size that it will see.

    The weights are frozen into the code, which inference mode does not allow.
    """
    compiled = torch.compile(network, dynamic=False, options={"freezing": True})

    def forward(batch: Tensor) -> Tensor:
        try:
            return compiled(batch)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise SettingError(
                f"Backbone '{network.name}' cannot be compiled here ({reason}). Install a C++ compiler, or leave '--compile' out."
            ) from error

    return forward


class OpenVinoExecutor:
    """Runs a backbone with OpenVINO in float32 on the CPU, with as many threads as torch has; equal to a millionth.

    Args:
        backbone: what computes; not a language model, whose sentences differ in length.
        example: a batch of the one size that it will see.

    Raises:
        SettingError: if OpenVINO is not installed.
    """

    def __init__(self, backbone: Backbone, example: NDArray[Any]) -> None:
        openvino = _import_openvino(f"Backbone '{backbone.name}' with --runtime openvino")
        frontend = importlib.import_module("openvino.frontend")
        decoders = importlib.import_module("openvino.frontend.pytorch.ts_decoder")
        with warnings.catch_warnings(), torch.no_grad():
            for category in (FutureWarning, torch.jit.TracerWarning):  # tracing is old, and what OpenVINO reads best
                warnings.simplefilter("ignore", category)
            traced = torch.jit.trace(backbone, torch.from_numpy(example), check_trace=False)
        decoder = decoders.TorchScriptPythonDecoder(traced)  # kept until the model is converted
        reader = frontend.FrontEndManager().load_by_framework("pytorch")
        model = reader.convert(reader.load(decoder))
        model.reshape({model.inputs[0]: list(example.shape)})
        # Two processes that pin their threads would both sit on the first core.
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        self._request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def __call__(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Embeddings (B, D) of a batch of frames' inputs."""
        return self.start(batch)()

    def start(self, batch: NDArray[Any]) -> Callable[[], NDArray[np.float32]]:
        """Compute a batch; the result hands out its embeddings (B, D)."""
        found = self._request.infer([batch], share_inputs=True)[0].copy()
        return lambda: found


def _import_openvino(purpose: str) -> ModuleType:
    """OpenVINO without its telemetry, which would report every import to its makers over the network."""
    telemetry = "openvino_telemetry"
    known = sys.modules.get(telemetry, False)
    sys.modules[telemetry] = None  # type: ignore[assignment]  # an import of it fails, and OpenVINO goes without
    try:
        return import_extra("openvino", "openvino", purpose)
    finally:
        if known is False:
            del sys.modules[telemetry]
        else:
            sys.modules[telemetry] = known  # type: ignore[assignment]


def check_running(backbone: Backbone, device: str, runtime: str, precision: str, compiled: bool) -> torch.device:
    """The device to run on, where a backbone can run as asked.

    Raises:
        SettingError: if it cannot, or the device does not exist.
    """
    require_known("runtime", runtime, RUNTIMES)
    require_known("precision", precision, PRECISIONS)
    chosen = choose_device(device)
    if runtime == "openvino":
        if device == "auto":
            chosen = torch.device("cpu")
        offenders = {
            f"'--device {device}'": chosen.type != "cpu",
            f"'--precision {precision}'": precision != "fp32",
            "'--compile'": compiled,
        }
        if any(offenders.values()):
            got = " and ".join(name for name, wrong in offenders.items() if wrong)
            raise SettingError(
                f"Runtime 'openvino' computes in fp32 on the CPU; got {got}. Leave that out, or use '--runtime torch'."
            )
    if not backbone.input.mixes and (runtime == "openvino" or compiled):
        raise SettingError(
            f"Backbone '{backbone.name}' reads sentences of any length, which {'--compile' if compiled else 'OpenVINO'} cannot "
            "run well; expected a backbone of images or sound. Run it alone, with '--runtime torch' and without '--compile'."
        )
    return chosen


def make_executor(
    backbone: Backbone, batch_size: int, device: torch.device, runtime: str, precision: str, compiled: bool
) -> Executor:
    """The executor for batches of one size, where `check_running` allows it.

    Raises:
        SettingError: if OpenVINO is asked for and not installed.
    """
    if runtime == "openvino":
        return OpenVinoExecutor(backbone, backbone.input.example(batch_size))
    return TorchExecutor(backbone, device, precision, compiled)


def running_versions(runtime: str, compiled: bool) -> dict[str, str]:
    """What computes, for the commit records."""
    libraries = ("openvino", "torch") if runtime == "openvino" else ("torch",)
    how = {"runtime": "torch.compile" if compiled else runtime}
    return {library: version(library) for library in libraries} | how
