"""Weights of backbones: where they come from, and proof that they are the right ones.

The only place that reaches the network, beside the libraries that `extract.pretrained` and torchvision's detectors call. A weights argument is a registered name, a path, or `random`
(seeded and recorded as such: untrained networks, for trials of the pipeline only).
"""

from __future__ import annotations

import codecs
import hashlib
import os
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache.errors import MissingFileError, UnknownNameError, WeightsError
from cache.names import require_known

RANDOM_SEED = 2022


@dataclass(frozen=True)
class WeightsCard:
    """Origin of one published set of weights.

    Attributes:
        name: what a user types.
        variant: of the backbone that they fit.
        origin: address of the file, or of the page that hands it out.
        sha256: of the file; only its first digits where the publisher tells no more (in the file's name), "" where none.
        licence: as stated by the publisher.
        paper: key in `docs/refs.bib`.
        direct: whether `origin` is the file itself, so that it can be downloaded.
    """

    name: str
    variant: str
    origin: str
    sha256: str
    licence: str
    paper: str
    direct: bool = True

    def promises(self, digest: str) -> bool:
        """Whether the publisher's digest, or what is known of it, is this one."""
        return bool(self.sha256) and digest.startswith(self.sha256)


@dataclass(frozen=True)
class Weights:
    """Weights as loaded.

    Attributes:
        tensors: parameter name → tensor; None for an untrained network, and once a network is built of them.
        sha256: of the file's bytes, or "random:<seed>".
        card: the card whose sha256 this is, None for a file that nobody registered.
        name: what the user asked for, for messages.
    """

    tensors: dict[str, Tensor] | None
    sha256: str
    card: WeightsCard | None
    name: str

    @property
    def seed(self) -> int | None:
        """Seed of an untrained network, None for trained weights."""
        return int(self.sha256.removeprefix("random:")) if self.sha256.startswith("random:") else None


def load_weights(wanted: str, cards: Mapping[str, WeightsCard]) -> Weights:
    """Resolve a weights argument.

    Args:
        wanted: a name from `cards`, a path to a state dict (`.pt`, `.pth`, `.tar`, `.safetensors`), "random" or
            "random:<seed>".
        cards: the backbone's registered weights by name.

    Raises:
        MissingFileError: if a path does not exist.
        UnknownNameError: if it is neither a name nor looks like a path.
        WeightsError: if the file holds no tensors, has another sha256 than promised, or cannot be downloaded.
    """
    if wanted == "random" or wanted.startswith("random:"):
        seed = wanted.partition(":")[2] or str(RANDOM_SEED)
        if not seed.isdecimal():
            raise WeightsError(f"Weights '{wanted}' name no seed; expected 'random' or 'random:<number>'.")
        return Weights(None, f"random:{int(seed)}", None, wanted)
    path = Path(wanted).expanduser()
    if wanted in cards:
        path = _fetch(cards[wanted])
    elif not path.is_file():
        if path.suffix or os.sep in wanted:
            raise MissingFileError(
                f"Weights '{wanted}' do not exist. Give a path, 'random', or one of {_names(cards)}."
            )
        require_known("weights", wanted, [*cards, "random"])
        raise UnknownNameError(wanted)
    digest = _digest(path)
    card = next((card for card in cards.values() if card.promises(digest)), cards.get(wanted))
    return Weights(_read_tensors(path), digest, card, wanted)


def load_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], weights: Weights, what: str) -> None:
    """Load tensors into a network, all of them and nothing else.

    The count of training steps of a batch norm may be missing: old files lack it and nothing here reads it.

    Raises:
        WeightsError: if names or shapes differ; lists the first of each kind.
    """
    wanted = module.state_dict()
    missing = sorted(name for name in set(wanted) - set(tensors) if not name.endswith(".num_batches_tracked"))
    surplus = sorted(set(tensors) - set(wanted))
    misfits = [name for name in wanted if name in tensors and wanted[name].shape != tensors[name].shape]
    if missing or surplus or misfits:
        faults = [
            f"{len(names)} {kind} (first: '{names[0]}')"
            for kind, names in (("missing", missing), ("unexpected", surplus), ("of another shape", misfits))
            if names
        ]
        raise WeightsError(
            f"Weights '{weights.name}' do not fit {what}: tensors {', '.join(faults)}. Give weights of this network."
        )
    module.load_state_dict({**wanted, **tensors})


def weights_folder() -> Path:
    """Where downloads are kept: `$AVFUSION_WEIGHTS`, else `~/.cache/avfusion/weights`."""
    return Path(os.environ.get("AVFUSION_WEIGHTS", "~/.cache/avfusion/weights")).expanduser()


def _fetch(card: WeightsCard) -> Path:
    path = weights_folder() / f"{card.name}{Path(card.origin).suffix or '.pt'}"
    by_hand = f"Fetch '{card.origin}' yourself, put it at '{path}' (or give its path as the weights) and run again."
    if not path.is_file():
        if not card.direct:
            raise WeightsError(f"Weights '{card.name}' are handed out by a page, not a file. {by_hand}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(card.origin, str(path), hash_prefix=card.sha256 or None, progress=False)
        except (OSError, RuntimeError) as error:
            raise WeightsError(f"Weights '{card.name}' could not be downloaded ({error}). {by_hand}") from error
    if card.sha256 and not card.promises(found := _digest(path)):
        raise WeightsError(
            f"Weights '{path}' have sha256 '{found[:12]}…', expected '{card.sha256[:12]}…'. Delete the file and run again."
        )
    return path


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        with torch.serialization.safe_globals(_numpy_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, AssertionError,
            ImportError, pickle.UnpicklingError, struct.error) as error:  # fmt: skip  # a torn pickle raises anything
        raise WeightsError(
            f"Weights '{path}' cannot be read as a state dict: it is damaged, or holds more than tensors. "
            "Give a file of tensors saved by torch or safetensors."
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if isinstance(content, dict):
        content = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in content.items()}
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(
            f"Weights '{path}' hold no state dict of tensors. Save 'model.state_dict()' and give that file."
        )
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _numpy_globals() -> list[Any]:
    """What a file of plain numpy arrays and numbers of floats names, under the names of numpy 1 and 2; all of it is harmless."""
    rebuild, scalar = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    names = [(rebuild, "_reconstruct"), (scalar, "scalar")]
    dtypes = [np.ndarray, np.dtype, type(np.dtype("f4")), type(np.dtype("f8")), codecs.encode]
    return [(call, f"numpy.{core}.multiarray.{name}") for call, name in names for core in ("core", "_core")] + dtypes


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _names(cards: Mapping[str, WeightsCard]) -> str:
    return ", ".join(sorted(cards)) or "none registered"
