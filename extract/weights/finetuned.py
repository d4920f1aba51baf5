"""Weights that fine-tuning wrote: a file of tensors, and beside it a document that says what they learned from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open
from safetensors.torch import save as serialise_tensors
from torch import Tensor

from cache.documents.documents import (
    Document,
    SeenPart,
    Values,
    digest_bytes,
    read_document,
    write_document,
    write_file,
)
from cache.errors import WeightsError
from cache.recipe import Seen

_MARK = {"avfusion": "fine-tuned"}  # one entry: the library writes several in any order
"""In the tensors' file, which is worth nothing without its document: nobody could tell which trials it has seen."""
_REMEDY = "Copy both files again, or run 'avfusion finetune'."


@dataclass(frozen=True)
class Lineage:
    """Where fine-tuned weights come from.

    Attributes:
        backbone: name of the backbone that they belong to.
        settings: its `settings()`.
        origin: address of the weights that training started from; "" for random ones.
        licence: of those weights.
        parents: their sha256, and those that they were fine-tuned from in turn.
        trials: the trials that these weights and their parents learned from.
        selection: the trials that chose the epoch.
        training: how they were trained.
    """

    backbone: str
    settings: dict[str, Any]
    origin: str
    licence: str
    parents: tuple[str, ...]
    trials: tuple[Seen, ...]
    selection: tuple[Seen, ...]
    training: dict[str, Any]


class _LineageDocument(Document):
    version: Literal[2]  # 2: trials by their content
    backbone: str
    settings: Values
    origin: str
    licence: str
    parents: list[str]
    trials: list[SeenPart]
    selection: list[SeenPart]
    training: Values
    sha256: str


def save_finetuned(path: Path, tensors: dict[str, Tensor], lineage: Lineage) -> None:
    """Write `path` (.safetensors) and its document; equal content gives equal bytes.

    The document goes last and holds the digest of the tensors, so that files of two runs are never taken for a pair.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = serialise_tensors({name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}, _MARK)
    write_file(path, data)
    parts = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(lineage).items()}
    write_document(_document_of(path), _LineageDocument, {"version": 2, **parts, "sha256": digest_bytes(data)})


def read_lineage(path: Path, sha256: str) -> Lineage | None:
    """The lineage of a weights file, None for weights that were not fine-tuned here.

    Args:
        path: of the tensors.
        sha256: of the tensors.

    Raises:
        WeightsError: if the document beside it is missing or damaged, or belongs to other tensors.
    """
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, "pt") as file:
        if (file.metadata() or {}).get("avfusion") != _MARK["avfusion"]:
            return None
    where = _document_of(path)
    document = read_document(where, _LineageDocument, _REMEDY, WeightsError)
    if document is None:
        raise WeightsError(
            f"Weights '{path}' were fine-tuned, but '{where.name}', which says on which trials, is not beside them. {_REMEDY}"
        )
    if document.sha256 != sha256:
        raise WeightsError(
            f"Weights '{path}' have sha256 '{sha256[:12]}…', expected '{document.sha256[:12]}…' by '{where}' beside them. {_REMEDY}"
        )
    parts: dict[str, Any] = document.model_dump(exclude={"version", "digest", "sha256"})
    parts |= {key: tuple(Seen(*each) for each in parts[key]) for key in ("trials", "selection")}
    return Lineage(**{**parts, "parents": tuple(parts["parents"])})


def _document_of(path: Path) -> Path:
    return path.with_suffix(".lineage.json")
