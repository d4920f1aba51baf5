"""The device that a network runs on, and the process's memory for its activations.

torch, which takes seconds to import, is only imported where it is needed.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cache.errors import SettingError

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's <malloc.h>


def keep_big_buffers() -> None:
    """Stop glibc from returning activation buffers to the system at every step (Linux only).

    Without it, MobileFaceNet drops from 84 frames/s at batch 8 to 26 at batch 128; costs about 0.6 GB of peak memory.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use this number of threads, at least one, for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def has_driver() -> bool:
    """Whether there is a driver through which torch could find a GPU; asked first, as it needs no torch."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()
    return True


def device_kind(wanted: str | torch.device) -> str:
    """The kind of a device, cpu or cuda, without torch where no GPU can be meant; arguments and errors as of `choose_device`."""
    if str(wanted) == "cpu" or (wanted == "auto" and not has_driver()):
        return "cpu"
    return str(choose_device(wanted).type)


def choose_device(wanted: str | torch.device) -> torch.device:
    """Choose a device by name: auto, cpu, cuda or cuda:N; a device is returned unchanged.

    On CUDA this turns TF32 off for the whole process, because its ten bits move landmarks by pixels, and restricts cuDNN
    to deterministic algorithms.

    Raises:
        SettingError: if there is no such device.
    """
    import torch

    if isinstance(wanted, torch.device):
        return wanted
    device = _find_device(wanted)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
    return device


def _find_device(wanted: str) -> torch.device:
    import torch

    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", wanted):
        raise SettingError(f"Unknown device '{wanted}'; expected auto, cpu, cuda or cuda:N. Choose one of these.")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingError(
            f"Device '{wanted}' does not exist; there are {torch.cuda.device_count()} CUDA devices. Use 'auto' or 'cpu'."
        )
    return device
