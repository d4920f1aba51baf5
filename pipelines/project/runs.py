"""Finished training runs: where they lie, and whether they are what training would make now.

Beside the checkpoint of a network lies `run.json` with the digest of all that decides its weights, the digest of the
checkpoint's document, which holds that of the weights, and the history. A network is trained again unless it was made of
just what there is today and is whole, so that a killed training goes on where it stopped and nothing stale is kept.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.corpus.folds import Fold
from cache.corpus.manifest import Manifest
from cache.documents.documents import Cell, Document, digest_bytes, read_document, write_document
from cache.errors import MissingFileError, WeightsError
from cache.store.store import FeatureStore
from pipelines.project.code_digest import digest_code
from pipelines.project.params import FusionParams, SystemParams

if TYPE_CHECKING:
    from fusion.settings import TrainConfig
    from fusion.training.checkpoint import Checkpoint

DOCUMENT = "run.json"
LIBRARIES = ("torch", "numpy", "scikit-learn")  # those that compute weights
ROOT = Path(__file__).parents[2]

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One network to train: the system's name and settings, the fold, and the settings of training."""

    name: str
    system: SystemParams
    fold: Fold
    config: TrainConfig
    digest: str = ""

    def folder(self, models: Path) -> Path:
        """Where its checkpoint lies: the folder of the run, or one in it where every target has its own network."""
        run = run_folder(models, self.name, self.fold.index, self.config.seed)
        return run / self.config.targets[0] if self.config.per_target else run


def run_folder(models: Path, system: str, fold: int, seed: int) -> Path:
    """Where one run lies: its checkpoint, or one folder with a checkpoint per target."""
    return models / system / f"fold{fold}" / f"seed{seed}"


class Digests:
    """Digest of all that decides what a job trains.

    Settings of model and training, the fold, fingerprints and digests of the features and the labels of the trials that
    teach and choose, device and threads, the libraries, and the code that trains this model.
    """

    def __init__(
        self,
        params: FusionParams,
        manifest: Manifest,
        open_stores: Callable[[Mapping[str, str]], Mapping[str, FeatureStore]],
    ) -> None:
        """Prepare for the jobs of a corpus.

        Args:
            params: device and threads.
            manifest: the corpus.
            open_stores: modality → backbone, to modality → store.
        """
        from extract.engine.devices import choose_device

        self._manifest, self._open_stores = manifest, open_stores
        self._trials = {trial.id: trial for trial in manifest.trials}
        self._machine = {"device": choose_device(params.device).type, "threads": params.threads}
        self._known: dict[tuple[str, str], dict[str, Any]] = {}

    def __call__(self, job: Job) -> str:
        """The digest of a job, as hexadecimal digits.

        Raises:
            AvFusionError: if features are absent or not those of their receipt.
        """
        model = job.system.model
        trial_ids = (*job.fold.train, *job.fold.validate)
        document = {
            "model": [model, asdict(job.system.settings)],
            "training": asdict(job.config),
            "pca": job.system.pca,
            "fold": asdict(job.fold),
            "features": {m: self._digest_features(m, b, trial_ids) for m, b in sorted(job.system.modalities.items())},
            "targets": [asdict(target) for target in self._manifest.targets],
            "labels": [self._digest_labels(trial_id) for trial_id in trial_ids],
            "machine": self._machine,
            "versions": {name: version(name) for name in LIBRARIES},
            "code": _digest_training(model),
        }
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    def _digest_features(self, modality: str, backbone: str, trial_ids: Sequence[str]) -> list[str]:
        if (modality, backbone) not in self._known:
            store = self._open_stores({modality: backbone})[modality]
            embeddings = {trial_id: record.embeddings for trial_id, record in store.find_records(self._trials).items()}
            self._known[modality, backbone] = {"": store.recipe.fingerprint, **embeddings}
        return [self._known[modality, backbone][key] for key in ("", *trial_ids)]

    @functools.cache  # noqa: B019 - as long as the digests themselves
    def _digest_labels(self, trial_id: str) -> str:
        trial = self._trials[trial_id]
        labels = b"" if trial.labels is None else trial.labels.tobytes()
        return f"{trial.clock.num_frames} {hashlib.sha256(labels).hexdigest()}"


@functools.cache
def _digest_training(model: str) -> str:
    """Digest of the code that trains a network of a model: of its file, of training, and of what they import."""
    from fusion.models import MODELS

    return digest_code((MODELS[model].split(":")[0], "fusion.training.trainer"), ROOT)


class RunDocument(Document):
    """What `run.json` holds.

    Attributes:
        made_of: digest of all that decides the weights.
        network: sha256 of the checkpoint's document.
        history: one row per epoch.
    """

    made_of: str
    network: str
    history: list[dict[str, Cell]]


def save_run(folder: Path, digest: str, history: Sequence[Row]) -> None:
    """Write digests and history beside a checkpoint; with it the run is finished."""
    rows = [
        {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in row.items()}
        for row in history
    ]
    content = {"made_of": digest, "network": _digest_network(folder), "history": rows}
    write_document(folder / DOCUMENT, RunDocument, content)


def _digest_network(folder: Path) -> str:
    """sha256 of a checkpoint's document; "" where there is none."""
    from fusion.training import checkpoint

    path = folder / checkpoint.DOCUMENT
    return digest_bytes(path.read_bytes()) if path.is_file() else ""


def _read(folder: Path) -> RunDocument:
    """What `save_run` wrote.

    Raises:
        MissingFileError: if there is none.
        WeightsError: if it is damaged.
    """
    path = folder / DOCUMENT
    found = read_document(path, RunDocument, "Run 'avfusion train' again; only this network is redone.", WeightsError)
    if found is None:
        raise MissingFileError(f"No '{path}': the training of this network did not finish. Run 'avfusion train' again.")
    return found


def read_history(folder: Path) -> list[Row]:
    """History of a finished run.

    Raises:
        MissingFileError: if the run is not finished.
        WeightsError: if its document is damaged.
    """
    return [{key: nan if value is None else value for key, value in row.items()} for row in _read(folder).history]


def find_run(folder: Path, digest: str) -> list[Row] | None:
    """History of the run that was made so; None where there is none, or it or its checkpoint is damaged."""
    try:
        if _read(folder).made_of != digest:
            return None
        load_networks(folder)
        return read_history(folder) or None
    except (MissingFileError, WeightsError):
        return None


def digest_of(folder: Path) -> str | None:
    """Digest of what a run was made of; None where it is not finished, or its document is damaged."""
    try:
        return _read(folder).made_of
    except (MissingFileError, WeightsError):
        return None


def load_networks(folder: Path) -> tuple[Checkpoint, ...]:
    """All networks of a run, each just as its training left it.

    Raises:
        MissingFileError: if there is none, or a training did not finish.
        WeightsError: if one is damaged.
    """
    from fusion.training import checkpoint

    networks = checkpoint.load_run(folder)
    alone = (folder / checkpoint.DOCUMENT).exists()
    parts = [folder] if alone else [path.parent for path in folder.glob(f"*/{checkpoint.DOCUMENT}")]
    for part in parts:
        if _read(part).network != _digest_network(part):
            raise WeightsError(
                f"'{part / checkpoint.DOCUMENT}' is not the one that its training left. Run 'avfusion train' again; only this "
                "network is redone."
            )
    return networks


def saved_runs(models: Path, system: str) -> Iterator[Path]:
    """Folders of a system's finished networks, by fold, seed and target."""

    def order(path: Path) -> tuple[int, int, str]:
        fold, seed, *target = path.relative_to(models / system).parts[:-1]
        return int(fold.removeprefix("fold")), int(seed.removeprefix("seed")), "".join(target)

    found = [*(models / system).glob(f"fold*/seed*/{DOCUMENT}"), *(models / system).glob(f"fold*/seed*/*/{DOCUMENT}")]
    for path in sorted(found, key=order):
        yield path.parent


def digest_runs(models: Path, system: str) -> str:
    """One digest of all finished networks of a system: another one as soon as any is trained again.

    Raises:
        WeightsError: if a run's document is damaged.
    """
    digests = [_read(folder).made_of for folder in saved_runs(models, system)]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def best_epoch(history: Sequence[Row]) -> Row:
    """The epoch that a run kept: the first of the highest CCC."""
    return max(history, key=lambda row: (row["ccc"] == row["ccc"], row["ccc"]))
