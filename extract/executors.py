"""How a backbone runs: folded, channels-last, without gradients, on one device."""

from __future__ import annotations

import copy
import ctypes
import itertools
import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from cache.errors import SettingError
from extract.backbone import Backbone

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

    Raises:
        SettingError: if there is no such device here.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise SettingError(f"Unknown device '{wanted}'; expected auto, cpu, cuda or cuda:N.") from error
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


class TorchExecutor:
    """Runs a backbone with torch: batch norms folded, weights channels-last, inputs sent as they are stored."""

    def __init__(self, backbone: Backbone, device: torch.device) -> None:
        self.device = device
        self._network = copy.deepcopy(backbone, {id(backbone.weights): backbone.weights})
        fold_batch_norms(self._network)
        if any(isinstance(module, nn.Conv2d) for module in self._network.modules()):
            self._network = self._network.to(memory_format=torch.channels_last)
        self._network = self._network.to(device)

    def __call__(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Embeddings (B, D) of a batch of frames' inputs."""
        tensor = torch.from_numpy(batch)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory().to(self.device, non_blocking=True)
        return self._network.embed(tensor).float().cpu().numpy()
