"""The two files of a checkpoint, read and verified without building its model, so that torch need not be imported.

`fusion.training.checkpoint` writes them and rebuilds the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cache.documents.documents import (
    Document,
    Number,
    Pair,
    RecipePart,
    TargetPart,
    Values,
    digest_bytes,
    read_document,
)
from cache.errors import MissingFileError, WeightsError

VERSION = 4  # 2: targets with ranges, recipes; 3: how trials are read, post-processing; 4: trials that weights have seen by their content
TENSORS, DOCUMENT = "model.safetensors", "model.json"


class CheckpointDocument(Document):
    """Content of `model.json`.

    Attributes:
        model: name in the table of models.
        specs: modality → recipe of its features.
        fold: part → its trials.
        reading: window and hop of predictions.
        sha256: of the tensors.
        parameters: number of the model's parameters; None in checkpoints of older versions.
    """

    version: Literal[4]
    model: str
    settings: Values
    dims: dict[str, Number]
    targets: list[TargetPart]
    specs: dict[str, RecipePart]
    fold_index: int
    fold: dict[str, list[str]]
    training: Values
    reading: Pair
    fitted: dict[str, list[list[float]]]
    validation: dict[str, float | None]
    versions: dict[str, str]
    projections: list[str]
    sha256: str
    parameters: Number | None = None


def read_files(folder: Path) -> tuple[CheckpointDocument, bytes]:
    """The document of a checkpoint, and the bytes of its tensors.

    Raises:
        MissingFileError: if the folder or one of its two files does not exist.
        WeightsError: if a file is damaged or has another version.
    """
    absent = [name for name in (DOCUMENT, TENSORS) if not (folder / name).is_file()]
    if absent:
        raise MissingFileError(
            f"No checkpoint in '{folder}': {' and '.join(absent)} missing. Train a model first, or check the path."
        )
    remedy = "Copy it again, or run 'avfusion train'."
    document = read_document(folder / DOCUMENT, CheckpointDocument, remedy, WeightsError)
    assert document is not None
    data = (folder / TENSORS).read_bytes()
    if digest_bytes(data) != document.sha256:
        raise WeightsError(
            f"The sha256 of '{folder / TENSORS}' differs from that in {DOCUMENT}: it is damaged. Copy it again, or run "
            "'avfusion train'."
        )
    return document, data


def run_parts(folder: Path) -> list[Path]:
    """Folders of the checkpoints of a run: the run's own, or one per target inside of it."""
    alone = (folder / DOCUMENT).exists()
    return [folder] if alone else sorted(path.parent for path in folder.glob(f"*/{DOCUMENT}"))
