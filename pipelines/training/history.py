"""The history of trainings, epoch by epoch, as rows and as a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.corpus.folds import Fold
from cache.documents.documents import write_file

if TYPE_CHECKING:
    from fusion.settings import TrainConfig
    from fusion.training.fitting import EpochRecord


def history_rows(name: str, fold: Fold, config: TrainConfig, history: Sequence[EpochRecord]) -> list[dict[str, Any]]:
    """The epochs of a run as rows of a table."""
    return [
        {
            "system": name,
            "fold": fold.index,
            "seed": config.seed,
            "targets": "+".join(config.targets),
            "epoch": record.epoch,
            "stage": record.stage,
            "lr": record.lr,
            "loss": record.loss,
            **by_target(record),
            "ccc": record.score,
        }
        for record in history
    ]


def by_target(record: EpochRecord) -> dict[str, float]:
    """Validation CCC of each target of an epoch, by the names of columns."""
    return {f"ccc_{target}": value for target, value in record.validation.items()}


def ccc_columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """All columns of CCC in the rows, the mean last."""
    names = dict.fromkeys(key for row in rows for key in row if key.startswith("ccc_"))
    return [*names, "ccc"]


def write_history(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write epochs as a table for `dvc plots`; without any, only its header."""
    text = io.StringIO()
    columns = ["system", "fold", "seed", "targets", "epoch", "stage", "lr", "loss", *ccc_columns(rows)]
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue().encode())
