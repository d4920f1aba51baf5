"""Weights of backbones: where to get them, and how to verify them.

A weights argument is a registered name, a path, or `random` (seeded and recorded as such: untrained networks, for trials
of the pipeline only). What is registered is fetched by `extract.weights.download`.
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
from cache.errors import MissingFileError, UnknownNameError, WeightsError
from cache.foreign import one_line
from cache.names import require_known
from extract.weights.download import MAX_BYTES, digest_file, download

RANDOM_SEED = 2022
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module")
"""Keys under which training programs keep a state dict, the inner ones of another."""
_DEEPEST = 8  # of them within each other
_ERRORS_OF_A_TORN_PICKLE = (
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
class WeightsCard:
    """Origin of one published set of weights.

    Attributes:
        name: what a user types.
        variant: of the backbone that they fit.
        origin: address of the file, or of the page that hands it out.
        sha256: of the file, all 64 digits; "" where nobody published it: the digest of what came first is kept beside the
            file and compared from then on.
        licence: as stated by the publisher.
        paper: key in `docs/refs.bib`.
        direct: whether `origin` is the file itself, so that it can be downloaded.
        sha256_start: its first digits, where the publisher gives no more (at the end of the file's name).
        max_bytes: above which a download is refused.
    """

    name: str
    variant: str
    origin: str
    sha256: str
    licence: str
    paper: str
    direct: bool = True
    sha256_start: str = ""
    max_bytes: int = MAX_BYTES

    @property
    def known_digits(self) -> str:
        """The published part of the digest: all of it, its first digits, or ""."""
        return self.sha256 or self.sha256_start

    def promises(self, digest: str) -> bool:
        """Whether a digest agrees with the published part."""
        return bool(self.known_digits) and digest.startswith(self.known_digits)


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
    digest = digest_file(path)
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


def build_fitting(weights: Weights, build: Callable[[Weights], _Built]) -> _Built:
    """Build a network with weights whose names may have a prefix in front of the network's own.

    Compilers, wrappers for several devices and training programs write `_orig_mod.`, `module.`, `model.` and the like
    before the names of a network that they hold. Names that fit as they are stay as they are; else a prefix is left out
    where the network then takes the weights, with a warning. No tensor is dropped for it.

    Args:
        weights: as loaded.
        build: makes the network, or raises `WeightsError` where they do not fit.

    Raises:
        WeightsError: if they do not fit with any prefix left out; what is wrong with the names as they are.
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
            f"The names of the tensors of weights '{weights.name}' start with '{prefix}', which was left out: they fit then.",
            stacklevel=2,
        )
        return built
    raise misfit


def _without_prefixes(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield ever longer prefixes that most names share, with the tensors renamed without them; other names are kept."""
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


def weights_folder() -> Path:
    """Where downloads are kept: `$AVFUSION_WEIGHTS`, else `~/.cache/avfusion/weights`."""
    return Path(os.environ.get("AVFUSION_WEIGHTS", "~/.cache/avfusion/weights")).expanduser()


def _fetch(card: WeightsCard) -> Path:
    path = weights_folder() / f"{card.name}{Path(card.origin).suffix or '.pt'}"
    by_hand = f"Fetch '{card.origin}' yourself, put it at '{path}' (or give its path as the weights) and run again."

    def check(file: Path) -> None:
        """Raise if the digest differs or, where none is known, if the file holds no tensors."""
        found = digest_file(file)
        if card.known_digits and not card.promises(found):
            raise ValueError(f"it has sha256 '{found[:12]}…', expected '{card.known_digits[:12]}…'")
        if not card.sha256:
            try:
                _read_tensors(file)
            except WeightsError as error:
                raise ValueError("what came is not a file of tensors") from error

    if not path.is_file():
        if not card.direct:
            raise WeightsError(f"Weights '{card.name}' are offered on a web page, not as a file. {by_hand}")
        try:
            download(card.origin, path, card.max_bytes, check)
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"Weights '{card.name}' could not be downloaded ({one_line(error)}). {by_hand}"
            ) from error
    _verify(path, card)
    return path


def _verify(path: Path, card: WeightsCard) -> None:
    """Compare with what is published of the digest, and where that is not all of it, with the file that came first."""
    found = digest_file(path)
    kept = path.with_name(f"{path.name}.sha256")
    if card.known_digits and not card.promises(found):
        raise WeightsError(
            f"Weights '{path}' have sha256 '{found[:12]}…', expected '{card.known_digits[:12]}…'. Delete the file and run again."
        )
    if card.sha256:
        return
    if kept.is_file():
        first = kept.read_text(encoding="utf-8", errors="replace").strip()
        if first != found:
            raise WeightsError(
                f"Weights '{path}' have sha256 '{found[:12]}…', expected '{first[:12]}…', that of the file that came first, from "
                f"'{kept.name}' beside it. Delete both files and run again."
            )
        return
    with contextlib.suppress(OSError):  # a folder that somebody else keeps
        write_file(kept, f"{found}\n".encode())
    warnings.warn(
        f"Nobody published a full digest of weights '{card.name}'; those in '{path}' have sha256 '{found}', which later runs "
        "demand.",
        stacklevel=2,
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        with torch.serialization.safe_globals(_numpy_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _ERRORS_OF_A_TORN_PICKLE as error:
        raise WeightsError(
            f"Weights '{path}' cannot be read as a state dict: it is damaged, or holds more than tensors. "
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
            f"Weights '{path}' hold no state dict of tensors. Save 'model.state_dict()' and give that file."
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
    """What a file of plain numpy arrays and numbers of floats names, under the names of numpy 1 and 2; all of it is harmless."""
    rebuild, scalar = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    names = [(rebuild, "_reconstruct"), (scalar, "scalar")]
    dtypes = [np.ndarray, np.dtype, type(np.dtype("f4")), type(np.dtype("f8")), codecs.encode]
    return [(call, f"numpy.{core}.multiarray.{name}") for call, name in names for core in ("core", "_core")] + dtypes


def _names(cards: Mapping[str, WeightsCard]) -> str:
    return ", ".join(sorted(cards)) or "none registered"
