"""The state of a fine-tuning between epochs, in a file, so that a killed run goes on where it was."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cache.documents.documents import digest_bytes, write_file
from pipelines.endtoend.batches import ItemBatches


class StateFile:
    """Keeps the state of a fine-tuning between epochs in a file, under its digest.

    Args:
        path: the file.
        batches: told which epoch comes next.
        restored: called with the scores of the epochs before.
    """

    def __init__(self, path: Path, batches: ItemBatches, restored: Callable[[list[float]], None]) -> None:
        self._path, self._batches, self._restored = path, batches, restored

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last; None if there is none, or it is damaged."""
        if not self._path.is_file():
            return None
        digest, _, content = self._path.read_bytes().partition(b"\n")
        try:
            if digest.decode("ascii", "replace") != digest_bytes(content):
                raise ValueError("its digest does not match")
            state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
            text = f"'{self._path}', the state of a fine-tuning that was interrupted, is damaged: it starts again."
            warnings.warn(text, stacklevel=2)
            return None
        self._batches.start_at(len(state["history"]))
        self._restored([record["score"] for record in state["history"]])
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace it atomically."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        content = buffer.getvalue()
        write_file(self._path, digest_bytes(content).encode() + b"\n" + content)
