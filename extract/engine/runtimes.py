"""The table of runtimes, libraries that run backbones, and their contract.

A new one is a file with a subclass of `Executor` and a line in the table. In batches of one size, the embedding of a row
must be the same to the last bit whatever the other rows are (tested for every backbone of images or sound). This is why
batches may span trials, and why a run that was killed and resumed gives the same bytes as an uninterrupted one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, Self

from cache.errors import SettingError
from cache.names import load_named, require_known

if TYPE_CHECKING:  # the table is read where torch would take too long to import
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from extract.backbones.contract import Backbone

RUNTIMES = {
    "openvino": "extract.engine.openvino_runtime:OpenVinoExecutor",
    "torch": "extract.engine.torch_runtime:TorchExecutor",
}
DEFAULT_RUNTIME = "torch"
"""Runs every backbone."""
PRECISIONS = ("fp32", "bf16", "fp16")
"""Precision of convolutions and matrix products; any but fp32 changes the embeddings and their fingerprint."""


class Executor(ABC):
    """Computes embeddings of batches of one size.

    Attributes:
        libraries: distributions whose versions go into the commit records.
    """

    libraries: ClassVar[tuple[str, ...]]

    @classmethod
    def choose(cls, wanted: str | torch.device) -> torch.device:
        """The device with this name; for "auto", the best one for this runtime.

        Raises:
            SettingError: if it does not exist.
        """
        from extract.engine.devices import choose_device

        return choose_device(wanted)

    @classmethod
    @abstractmethod
    def check(cls, backbone: Backbone, device: str | torch.device, precision: str, compiled: bool) -> torch.device:
        """Check that a backbone can run with these options; returns the device.

        Raises:
            SettingError: if it cannot, or the device does not exist.
        """

    @classmethod
    @abstractmethod
    def build(cls, backbone: Backbone, batch_size: int, device: torch.device, precision: str, compiled: bool) -> Self:
        """Build the executor for batches of one size, with options that `check` accepts.

        Raises:
            SettingError: if the library is not installed.
        """

    @abstractmethod
    def start(self, batch: NDArray[Any]) -> Callable[[], NDArray[np.float32]]:
        """Start to compute a checked batch; the result waits for its embeddings (B, D)."""

    def __call__(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Compute the embeddings (B, D) of a batch."""
        return self.start(batch)()


def require_fixed_shape(backbone: Backbone, what: str) -> None:
    """Check that the batches of a backbone have a fixed shape.

    Args:
        backbone: the network.
        what: the option that needs it, for the message.

    Raises:
        SettingError: if it reads sentences.
    """
    if not backbone.input.mixes:
        raise SettingError(
            f"Backbone '{backbone.name}' reads sentences of any length, which {what} cannot run well; expected a backbone "
            f"of images or sound. Run it alone, with '--runtime {DEFAULT_RUNTIME}' and without '--compile'."
        )


def check_running(
    backbone: Backbone, device: str | torch.device, runtime: str, precision: str, compiled: bool
) -> torch.device:
    """Check that a backbone can run with these options; returns the device.

    Raises:
        SettingError: if it cannot, or the device does not exist.
        UnknownNameError: if the runtime or the precision is unknown.
    """
    require_known("precision", precision, PRECISIONS)
    return _executor_class(runtime).check(backbone, device, precision, compiled)


def choose_for(runtime: str, wanted: str | torch.device) -> torch.device:
    """The device with this name, see `Executor.choose`."""
    return _executor_class(runtime).choose(wanted)


def make_executor(
    backbone: Backbone, batch_size: int, device: torch.device, runtime: str, precision: str, compiled: bool
) -> Executor:
    """Build the executor for batches of one size, with options that `check_running` accepts.

    Raises:
        SettingError: if the runtime is not installed.
    """
    return _executor_class(runtime).build(backbone, batch_size, device, precision, compiled)


def running_versions(runtime: str, compiled: bool) -> dict[str, str]:
    """Versions of the software, for the commit records."""
    versions = {library: version(library) for library in _executor_class(runtime).libraries}
    return versions | {"runtime": f"{runtime}.compile" if compiled else runtime}


def _executor_class(runtime: str) -> type[Executor]:
    found: type[Executor] = load_named("runtime", RUNTIMES, runtime)
    return found
