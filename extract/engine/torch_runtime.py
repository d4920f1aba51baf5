"""Runs a backbone with torch: folded, channels-last, without gradients."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from cache.errors import SettingError
from extract.backbones.contract import Backbone
from extract.engine.runtimes import Executor, require_fixed_shape

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchExecutor(Executor):
    """Runs a backbone with torch, with batch norms folded and weights channels-last.

    On CUDA, inputs are copied from pinned memory in their stored type (uint8 for images) and normalised there, and
    embeddings are copied back while the next batch is computed.

    Args:
        backbone: the network.
        device: to run on.
        precision: "fp32", or "bf16" or "fp16" for autocast.
        compiled: whether to use `torch.compile`, which needs a C++ compiler and up to half a minute.
    """

    libraries = ("torch",)

    def __init__(
        self, backbone: Backbone, device: torch.device, precision: str = "fp32", compiled: bool = False
    ) -> None:
        self.device = device
        self._dtype = _DTYPES[precision]
        self._network = copy.deepcopy(backbone, {id(backbone.weights): backbone.weights})
        fold_batch_norms(self._network)
        if any(isinstance(module, nn.Conv2d) for module in self._network.modules()):
            self._network = self._network.to(memory_format=torch.channels_last)
        self._network = self._network.to(device)
        self._forward: Callable[[Tensor], Tensor] = self._network
        if compiled:
            self._forward = _compile(self._network)

    @classmethod
    def check(cls, backbone: Backbone, device: str | torch.device, precision: str, compiled: bool) -> torch.device:
        """Allow any device; compilation only for batches of one shape."""
        if compiled:
            require_fixed_shape(backbone, "--compile")
        return cls.choose(device)

    @classmethod
    def build(
        cls, backbone: Backbone, batch_size: int, device: torch.device, precision: str, compiled: bool
    ) -> TorchExecutor:
        """Build the executor for batches of any size; if compiled, for the size of the first one."""
        return cls(backbone, device, precision, compiled)

    def start(self, batch: NDArray[Any]) -> Callable[[], NDArray[np.float32]]:
        """Start to compute a batch; the result waits for its embeddings (B, D)."""
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
    """Compile the network for one batch size, with the weights frozen into the code, which inference mode forbids."""
    compiled = torch.compile(network, dynamic=False, options={"freezing": True})

    def forward(batch: Tensor) -> Tensor:
        try:
            return compiled(batch)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise SettingError(
                f"Backbone '{network.name}' cannot be compiled here ({reason}). Install a C++ compiler, or omit '--compile'."
            ) from error

    return forward


def fold_batch_norms(module: nn.Module) -> None:
    """Fold batch norms into the layers before them, in place; see `find_batch_norms`."""
    for parent, name, next_name in list(find_batch_norms(module)):
        layer, norm = getattr(parent, name), getattr(parent, next_name)
        fuse = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
        setattr(parent, name, fuse(layer, norm))
        setattr(parent, next_name, nn.Identity())


def find_batch_norms(module: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Find each batch norm of the output of the convolution or linear layer that is registered right before it.

    Backbones register their layers in the order of use; a contract test compares folded and unfolded outputs.

    Yields:
        The module that has both, and the names of the layer and of the batch norm.
    """
    for parent in module.modules():
        for (name, layer), (next_name, norm) in itertools.pairwise(parent.named_children()):
            if not isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
                continue
            is_convolution = isinstance(layer, (nn.Conv1d, nn.Conv2d))
            if (is_convolution and layer.out_channels == norm.num_features) or (
                isinstance(layer, nn.Linear) and layer.out_features == norm.num_features
            ):
                yield parent, name, next_name
