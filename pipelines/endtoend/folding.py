"""Batch norms that keep their statistics, folded into the weights before them while these are trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from extract.engine.torch_runtime import find_batch_norms


@contextmanager
def folded_norms(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Let the batch norms of convolutions act through the weights for a while.

    Function and gradients stay the same up to rounding, also those of the batch norm's own weights, and the activations are
    read and written two times less. MobileFaceNet's step takes a sixth less time on a CPU.

    Args:
        networks: whose batch norms use their running statistics.
    """
    folded = []
    try:
        for network in networks:
            for parent, name, next_name in find_batch_norms(network):
                layer, norm = getattr(parent, name), getattr(parent, next_name)
                if isinstance(layer, (nn.Conv1d, nn.Conv2d)) and layer.padding_mode == "zeros" and norm.affine:
                    vars(layer)["forward"] = partial(_convolve, layer, norm)
                    vars(norm)["forward"] = _pass
                    folded += [layer, norm]
        yield
    finally:
        for module in folded:
            del vars(module)["forward"]


def _convolve(layer: Any, norm: Any, x: Tensor) -> Tensor:
    """The convolution and the batch norm after it."""
    assert not norm.training
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    if layer.bias is not None:
        shift = shift + layer.bias * scale
    weight = layer.weight * scale.view(-1, *[1] * (layer.weight.dim() - 1))
    convolve = functional.conv2d if layer.weight.dim() == 4 else functional.conv1d
    return convolve(x, weight, shift, layer.stride, layer.padding, layer.dilation, layer.groups)


def _pass(x: Tensor) -> Tensor:
    return x
