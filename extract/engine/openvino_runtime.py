"""Runs a backbone with OpenVINO on the CPU: about twice as fast as torch (see `benchmarks/README.md`)."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import SettingError
from extract.backbones.contract import Backbone
from extract.engine.devices import choose_device
from extract.engine.runtimes import Executor, require_fixed_shape
from extract.extras import import_extra


class OpenVinoExecutor(Executor):
    """Runs a backbone with OpenVINO in float32 on the CPU, with as many threads as torch; results agree to 1e-6.

    Args:
        backbone: the network; not a language model, because sentences differ in length.
        example: a batch of the size that all batches have.

    Raises:
        SettingError: if OpenVINO is not installed.
    """

    libraries = ("openvino", "torch")

    def __init__(self, backbone: Backbone, example: NDArray[Any]) -> None:
        openvino = _import_openvino(f"Backbone '{backbone.name}' with --runtime openvino")
        frontend = importlib.import_module("openvino.frontend")
        decoders = importlib.import_module("openvino.frontend.pytorch.ts_decoder")
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", FutureWarning)  # tracing is deprecated, but OpenVINO reads it best
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            traced = torch.jit.trace(backbone, torch.from_numpy(example), check_trace=False)
        decoder = decoders.TorchScriptPythonDecoder(traced)  # must live until the model is converted
        reader = frontend.FrontEndManager().load_by_framework("pytorch")
        model = reader.convert(reader.load(decoder))
        model.reshape({model.inputs[0]: list(example.shape)})
        # Two processes that pin their threads would share the first core.
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        self._request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    @classmethod
    def choose(cls, wanted: str | torch.device) -> torch.device:
        """The CPU, unless another device is named."""
        return choose_device("cpu" if wanted == "auto" else wanted)

    @classmethod
    def check(cls, backbone: Backbone, device: str | torch.device, precision: str, compiled: bool) -> torch.device:
        """Allow the CPU in fp32, for batches of one shape."""
        chosen = cls.choose(device)
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
        require_fixed_shape(backbone, "OpenVINO")
        return chosen

    @classmethod
    def build(
        cls, backbone: Backbone, batch_size: int, device: torch.device, precision: str, compiled: bool
    ) -> OpenVinoExecutor:
        """Build the executor for batches of this size."""
        return cls(backbone, backbone.input.example(batch_size))

    def start(self, batch: NDArray[Any]) -> Callable[[], NDArray[np.float32]]:
        """Compute a batch; the result returns its embeddings (B, D)."""
        found = self._request.infer([batch], share_inputs=True)[0].copy()
        return lambda: found


def _import_openvino(purpose: str) -> ModuleType:
    """Import OpenVINO without its telemetry, which would report every import over the network."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # makes its import fail, which is allowed
    return import_extra("openvino", "openvino", purpose)
