"""Stage `train`: every system of `params.yaml`, once per seed, on cached features."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.errors import MissingFileError, SettingError
from cache.folds import partition_fold
from cache.manifest import Manifest
from cache.names import require_known
from cache.receipt import open_receipt, write_text
from cache.store import FeatureStore
from pipelines import paths
from pipelines.console import progress
from pipelines.params import FusionParams, SystemParams

if TYPE_CHECKING:
    from fusion.bank import Bank
    from fusion.trainer import EpochRecord


def seed_folder(models: Path, system: str, seed: int) -> Path:
    """Where the checkpoint of one run lies."""
    return models / system / f"seed{seed}"


def open_stores(features: Path, modalities: Mapping[str, str], manifest: Manifest) -> dict[str, FeatureStore]:
    """The stores of a system's modalities, checked against their receipts and the manifest.

    Raises:
        MissingFileError: if a backbone was never extracted, or a trial of the manifest is missing.
        FingerprintError: if a store does not hold what its receipt says.
    """
    stores = {}
    for modality, backbone in modalities.items():
        path = paths.receipt_path(features, modality, backbone)
        store, receipt = open_receipt(path)
        absent = [trial.id for trial in manifest.trials if trial.id not in receipt.trials]
        if absent:
            raise MissingFileError(
                f"{len(absent)} of {len(manifest.trials)} trials are not in receipt '{path}' (first: '{absent[0]}'). "
                f"Run 'extract-features --backbone {backbone}'."
            )
        stores[modality] = store
    return stores


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads for a while.

    Raises:
        SettingError: if it is less than one.
    """
    import torch

    if count < 1:
        raise SettingError(f"fusion.threads is {count}, expected at least 1. Change params.yaml.")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_systems(params: FusionParams, only: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Train the systems, one checkpoint per system and seed, and write the history of all runs.

    Args:
        params: section `fusion`.
        only: names of the systems to train; all by default.

    Returns:
        One row per run: system, seed, best epoch and validation CCC.

    Raises:
        UnknownNameError: if a system of `only` is not in `params.yaml`.
        AvFusionError: whatever loading or training refuses.
    """
    from fusion.settings import TrainConfig, configure

    for name in only:
        require_known("system in section 'fusion' of params.yaml", name, params.systems)
    if not params.seeds or not params.systems:
        raise SettingError(
            "Section 'fusion' of params.yaml names no seeds or no systems; expected at least one of each."
        )
    manifest = Manifest.load(paths.CORPUS)
    systems = {name: params.systems[name] for name in (only or params.systems)}
    rows: list[dict[str, Any]] = []
    history: list[dict[str, Any]] = []
    epochs = configure("fusion.train", TrainConfig, params.train).epochs
    total = len(systems) * len(params.seeds) * epochs
    with torch_threads(params.threads), progress("training", total) as advance:
        for name, system in systems.items():
            shutil.rmtree(paths.MODELS / name, ignore_errors=True)
            bank = load_bank(system, manifest, params.device)
            for seed in params.seeds:
                runs = _train_one(name, system, bank, manifest, {**params.train, "seed": seed}, advance)
                history += runs
                best = max(runs, key=lambda row: row["ccc"])
                rows.append(
                    {
                        key: best[key]
                        for key in ("system", "seed", "epoch", "ccc_valence", "ccc_arousal", "ccc")
                        if key in best
                    }
                )
    _write_csv(paths.MODELS / "history.csv", history)
    return rows


def load_bank(system: SystemParams, manifest: Manifest, device: str) -> Bank:
    """All trials of a system's modalities."""
    from extract.executors import choose_device
    from fusion.bank import Bank

    stores = open_stores(paths.FEATURES, system.modalities, manifest)
    return Bank.from_stores(stores, manifest, [trial.id for trial in manifest.trials], str(choose_device(device)))


def _train_one(
    name: str, system: SystemParams, bank: Bank, manifest: Manifest, settings: dict[str, Any], advance: Any
) -> list[dict[str, Any]]:
    from fusion.settings import TrainConfig, configure
    from fusion.trainer import train

    config = configure("fusion.train", TrainConfig, settings)

    def tell(record: EpochRecord) -> None:
        advance(1, f"{name} seed {config.seed} CCC {record.score:.3f}")

    result = train(bank, partition_fold(manifest), system.model, system.settings, config, tell)
    result.checkpoint.save(seed_folder(paths.MODELS, name, config.seed))
    advance(config.epochs - len(result.history), name)
    return [
        {
            "system": name,
            "seed": config.seed,
            "epoch": record.epoch,
            "loss": record.loss,
            **{f"ccc_{target}": value for target, value in record.validation.items()},
            "ccc": record.score,
        }
        for record in result.history
    ]


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
