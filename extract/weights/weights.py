"""Weights of backbones: where to get them, and how to verify them.

A weights argument is a registered name (downloaded by `extract.weights.download`), a path, or `random` for an untrained
network, seeded and recorded as such, to try the pipeline.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import pickle
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from cache.documents.documents import write_file
from cache.errors import MissingFileError, WeightsError
from cache.foreign import one_line, sha256_file
from cache.names import require_known
from extract.weights.cards import WeightsCard, card_place
from extract.weights.download import download
from extract.weights.finetuned import Lineage, read_lineage

RANDOM_SEED = 2022
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module")
"""Keys under which training programs save a state dict, possibly nested."""
_ERRORS_OF_A_DAMAGED_PICKLE = (
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ImportError,
    pickle.UnpicklingError,
    struct.error,
)
_Built = TypeVar("_Built")


@dataclass(frozen=True)
class Weights:
    """Loaded weights.

    Attributes:
        tensors: parameter name → tensor; None for an untrained network, and after a network was built with them.
        sha256: of the file, or "random:<seed>".
        card: the card with this sha256, None for an unregistered file.
        name: the weights argument, for messages.
        lineage: of weights that were fine-tuned here.
    """

    tensors: dict[str, Tensor] | None
    sha256: str
    card: WeightsCard | None
    name: str
    lineage: Lineage | None = None

    @property
    def seed(self) -> int | None:
        """Seed of an untrained network, None for trained weights."""
        return int(self.sha256.removeprefix("random:")) if self.sha256.startswith("random:") else None

    @contextlib.contextmanager
    def seeded(self) -> Iterator[None]:
        """Draw torch's random numbers from the seed, and restore their state afterwards."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed or 0)
            yield


def load_weights(wanted: str, cards: Mapping[str, WeightsCard]) -> Weights:
    """Resolve a weights argument.

    Args:
        wanted: a name from `cards`, a path to a state dict (`.pt`, `.pth`, `.tar`, `.safetensors`), "random" or
            "random:<seed>".
        cards: the backbone's registered weights by name.

    Raises:
        MissingFileError: if a path does not exist.
        UnknownNameError: if it is neither a name nor looks like a path.
        WeightsError: if the file has no tensors or the wrong sha256, or cannot be downloaded.
    """
    if wanted == "random" or wanted.startswith("random:"):
        seed = wanted.partition(":")[2] or str(RANDOM_SEED)
        if not seed.isdecimal():
            raise WeightsError(f"Weights '{wanted}' have no valid seed; expected 'random' or 'random:<number>'.")
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
    digest = sha256_file(path)
    matching = (card for card in cards.values() if card.sha256 and digest.startswith(card.sha256))
    card = next(matching, cards.get(wanted))
    return Weights(_read_tensors(path), digest, card, wanted, read_lineage(path, digest))


def load_into(
    module: torch.nn.Module, weights: Weights, what: str, prefix: str = "", unused: tuple[str, ...] = ()
) -> None:
    """Load trained weights into a network; names and shapes must match exactly.

    Only a batch norm's count of training steps may be missing: old files lack it, and it is not used.

    Args:
        module: the network.
        weights: nothing is done if they are random.
        what: the network in words, for messages.
        prefix: removed from the names that have it.
        unused: tensors whose remaining names begin with one of these are ignored.

    Raises:
        WeightsError: if names or shapes differ; lists the first of each kind.
    """
    if weights.tensors is None:
        return
    renamed = {name.removeprefix(prefix): tensor for name, tensor in weights.tensors.items()}
    tensors = {name: tensor for name, tensor in renamed.items() if not name.startswith(unused)}
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


def build_fitting(weights: Weights, build: Callable[[Weights], _Built]) -> _Built:
    """Build a network with weights whose names may have an extra prefix.

    Compilers, data-parallel wrappers and training programs add `_orig_mod.`, `module.`, `model.` and the like to the names.
    If the weights do not fit as they are, common prefixes are removed until they do, with a warning; no tensor is dropped.

    Args:
        weights: as loaded.
        build: builds the network, or raises `WeightsError` if they do not fit.

    Raises:
        WeightsError: if they do not fit with any prefix removed; says what is wrong with the original names.
    """
    try:
        return build(weights)
    except WeightsError as error:
        misfit = error
    for prefix, tensors in _without_prefixes(weights.tensors or {}):
        try:
            built = build(replace(weights, tensors=tensors))
        except WeightsError:
            continue
        warnings.warn(
            f"The tensor names of weights '{weights.name}' start with '{prefix}', which was removed to make them fit.",
            stacklevel=2,
        )
        return built
    raise misfit


def _without_prefixes(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield ever longer prefixes that most names share, with the tensors renamed without them."""
    prefix = ""
    while True:
        inner = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
        firsts = Counter(name.partition(".")[0] for name in inner if "." in name)
        if not firsts or 2 * max(firsts.values()) <= len(tensors):
            return
        prefix += max(firsts, key=lambda first: firsts[first]) + "."
        renamed = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        if len(renamed) == len(tensors):
            yield prefix, renamed


def _fetch(card: WeightsCard) -> Path:
    path = card_place(card)
    by_hand = f"Download '{card.origin}' yourself, put it at '{path}' (or give its path as the weights) and run again."

    def check(file: Path) -> None:
        """Raise if the digest differs or, if the full digest is unknown, if the file has no tensors."""
        found = sha256_file(file)
        if not found.startswith(card.sha256):
            raise ValueError(f"it has sha256 '{found[:12]}…', expected '{card.sha256[:12]}…'")
        if not card.is_certain:
            try:
                _read_tensors(file)
            except WeightsError as error:
                raise ValueError("the download is not a file of tensors") from error

    if not path.is_file():
        if not card.direct:
            raise WeightsError(f"Weights '{card.name}' are offered on a web page, not as a direct download. {by_hand}")
        try:
            download(card.origin, path, card.max_bytes, check)
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"Weights '{card.name}' could not be downloaded ({one_line(error)}). {by_hand}"
            ) from error
    _verify(path, card)
    return path


def _verify(path: Path, card: WeightsCard) -> None:
    """Compare with the published part of the digest and, if that is incomplete, with the digest of the first download."""
    found = sha256_file(path)
    kept = path.with_name(f"{path.name}.sha256")
    if not found.startswith(card.sha256):
        raise WeightsError(
            f"Weights '{path}' have sha256 '{found[:12]}…', expected '{card.sha256[:12]}…'. Delete the file and run again."
        )
    if card.is_certain:
        return
    if kept.is_file():
        first = kept.read_text(encoding="utf-8", errors="replace").strip()
        if first != found:
            raise WeightsError(
                f"Weights '{path}' have sha256 '{found[:12]}…', expected '{first[:12]}…', that of the first download, saved in "
                f"'{kept.name}'. Delete both files and run again."
            )
        return
    with contextlib.suppress(OSError):  # a read-only folder
        write_file(kept, f"{found}\n".encode())
    warnings.warn(
        f"There is no complete published digest of weights '{card.name}'; those in '{path}' have sha256 '{found}', which later runs "
        "require.",
        stacklevel=2,
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        with torch.serialization.safe_globals(_numpy_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _ERRORS_OF_A_DAMAGED_PICKLE as error:
        raise WeightsError(
            f"Weights '{path}' cannot be read as a state dict: the file is damaged, or has more than tensors. "
            "Give a file of tensors saved by torch or safetensors."
        ) from error
    while isinstance(content, dict) and (
        inner := next((k for k in _WRAPPERS if isinstance(content.get(k), dict)), None)
    ):
        content = content[inner]
    if isinstance(content, dict):
        content = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in content.items()}
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(
            f"Weights '{path}' are not a state dict of tensors. Save 'model.state_dict()' and give that file."
        )
    return {str(name): tensor for name, tensor in content.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _numpy_globals() -> list[Any]:
    """Globals in pickles of plain numpy arrays and floats, under the names of numpy 1 and 2; all are harmless."""
    names = [(np.zeros(1).__reduce__()[0], "_reconstruct"), (np.float64(0).__reduce__()[0], "scalar")]
    dtypes = [np.ndarray, np.dtype, type(np.dtype("f4")), type(np.dtype("f8")), codecs.encode]
    return [(call, f"numpy.{core}.multiarray.{name}") for call, name in names for core in ("core", "_core")] + dtypes


def _names(cards: Mapping[str, WeightsCard]) -> str:
    return ", ".join(sorted(cards)) or "none registered"
