"""What runs in a worker of a Dask cluster: it says what it is, and works on one group of items after another.

A worker opens what it needs, such as networks, for its first group and keeps it for the following ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import pickle
import platform
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipelines.console.console import Told
from pipelines.project.code_digest import digest_folder
from pipelines.project.jobs import available_cores

Runner = Callable[[list[Any], Told], Any]
"""Works on the items of a group; may tell what it finishes."""

LIBRARIES = ("torch", "torchvision", "openvino", "numpy", "av", "facenet-pytorch", "soxr", "transformers", "tokenizers")
"""Distributions that decide the last bits of what is computed."""
_ROOT = Path(__file__).parents[2]
_EVERY_S = 0.5  # between two messages of progress
log = logging.getLogger("distributed.worker.avfusion")  # below Dask's own logger, so that its lines go where those go
_opened: dict[str, Runner] = {}  # the one of the last job

CODE = {
    package: digest_folder(_ROOT / package) for package in ("cache", "extract", "pipelines")
}  # as imported: a worker that runs on after a change is of another version
"""Folder of code → its digest."""


@dataclass(frozen=True)
class Node:
    """A worker, or the process that asks.

    Attributes:
        host: its machine.
        pid: number of its process.
        python: version of Python.
        code: see `CODE`.
        libraries: version of each of `LIBRARIES`, "" for none.
        sees: whether it sees the project's folder.
        cores: cores that it may use.
        devices: number of CUDA devices that it sees.
        visible: which ones, as set by the environment.
    """

    host: str
    pid: int
    python: str
    code: dict[str, str]
    libraries: dict[str, str]
    sees: bool
    cores: int
    devices: int
    visible: str


def describe(mark: str) -> Node:
    """Describe this process.

    Args:
        mark: path of a file that exists in the project's folder.
    """
    import torch

    return Node(
        socket.gethostname(),
        os.getpid(),
        platform.python_version(),
        CODE,
        {name: _version(name) for name in LIBRARIES},
        Path(mark).is_file(),
        available_cores(),
        torch.cuda.device_count(),
        os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    )


@dataclass(frozen=True)
class Task:
    """A group for a worker.

    Attributes:
        key: unique name.
        make_runner: pickled function that takes a device and returns a `Runner`.
        items: of the group.
        folder: the project's, in which paths are relative.
        device: name of the device to use.
        threads: of torch.
        topic: where progress is told.
    """

    key: str
    make_runner: bytes
    items: list[Any]
    folder: str
    device: str
    threads: int
    topic: str


def work(task: Task) -> Any:
    """Work on a group.

    Raises:
        AvFusionError: if it cannot be worked on at all; failures of single trials are part of the result.
    """
    from distributed import get_worker

    from extract.engine.devices import torch_threads

    told = _Progress(task.key, partial(get_worker().log_event, task.topic))
    with contextlib.chdir(task.folder), torch_threads(task.threads), _quiet():
        result = _open(task)(task.items, told)
    told.flush()
    return result


def _open(task: Task) -> Runner:
    """The runner of a task's job, which is kept for the next task."""
    key = hashlib.sha256(task.make_runner).hexdigest() + task.device
    if key not in _opened:
        _opened.clear()
        _opened[key] = pickle.loads(task.make_runner)(task.device)
        log.info("ready to work in '%s' on %s, %d threads", task.folder, task.device, task.threads)
    return _opened[key]


@dataclass
class _Progress:
    """Logs what is finished, and tells the process that asked for it, not too often."""

    key: str
    tell: Callable[[dict[str, Any]], None]
    _frames: int = 0
    _note: str = ""
    _sent: float = field(default_factory=time.monotonic)
    _lock: Any = field(default_factory=threading.Lock)  # trials are finished in several threads

    def __call__(self, title: str, frames: int, trial_id: str) -> None:
        """Take what was just finished of a trial; one that was finished before is only counted."""
        note = f"{title} {trial_id}".rstrip()
        with self._lock:
            if trial_id and self._note != note:
                log.info("%s '%s'", title, trial_id)
            self._note = note
            self._frames += frames
        if time.monotonic() - self._sent > _EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Tell what was not told yet."""
        with self._lock:
            if self._frames:
                self.tell({"key": self.key, "frames": self._frames, "note": self._note})
            self._frames, self._sent = 0, time.monotonic()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Log the warnings of libraries; the process that sent the task shows our own."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.showwarning = lambda message, *more, **others: log.warning("%s", message)
        yield


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
