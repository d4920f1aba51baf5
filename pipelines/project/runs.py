"""Finished training runs: where they are, and whether they are up to date.

Beside the checkpoint of a network lies `run.json` with the digest of everything that decides its weights, the digest of the
checkpoint's document (which contains that of the weights), and the history. A network is trained again unless it is undamaged
and its digest is that of today, so a killed training continues where it stopped and no outdated network is kept.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.corpus.folds import Fold
from cache.corpus.manifest import Manifest
from cache.documents.documents import Cell, Document, Values, digest_bytes, read_document, write_document
from cache.errors import MissingFileError, StoreError, WeightsError
from cache.store.store import FeatureStore
from extract.engine.devices import device_kind
from fusion.training import checkpoint_files
from pipelines.project import paths
from pipelines.project.code_digest import digest_code
from pipelines.project.params import FusionParams, SystemParams

if TYPE_CHECKING:
    from fusion.settings import TrainConfig
    from fusion.training.checkpoint import Checkpoint

DOCUMENT = "run.json"
LIBRARIES = ("torch", "numpy", "scikit-learn")  # those that compute weights
ROOT = Path(__file__).parents[2]

WORDS = {
    "model": "the fusion model's settings",
    "training": "the settings of training",
    "how": "the settings of fine-tuning",
    "fold": "the trials of the fold",
    "start": "the weights or settings that it starts from",
    "media": "crops, sound or words",
    "features": "features beside them",
    "targets": "the targets",
    "labels": "labels",
    "machine": "device or threads",
    "versions": f"versions of {' or '.join(LIBRARIES)}",
    "code": "the code of avfusion that trains",
}
"""Part of what decides the weights of a fine-tuning → the same in words."""

Row = dict[str, Any]

_AGAIN = "Run 'avfusion train' again, or 'avfusion finetune' for a fine-tuning"


@dataclass(frozen=True)
class Job:
    """One network to train: the system's name and settings, the fold, and the settings of training."""

    name: str
    system: SystemParams
    fold: Fold
    config: TrainConfig
    digest: str = ""

    def folder(self, models: Path) -> Path:
        """Folder of its checkpoint: that of the run, or one inside if every target has its own network."""
        run = run_folder(models, self.name, self.fold.index, self.config.seed)
        return run / self.config.targets[0] if self.config.per_target else run


def run_folder(models: Path, system: str, fold: int, seed: int) -> Path:
    """Folder of a run, with its checkpoint or a folder per target with a checkpoint each."""
    return models / system / f"fold{fold}" / f"seed{seed}"


class Digests:
    """Digest of everything that decides the weights of a job's network.

    Settings of model and training, the fold, fingerprints and digests of the features and labels of its training and
    validation trials, device and threads, the libraries, and the code that trains this model.
    """

    def __init__(
        self,
        params: FusionParams,
        manifest: Manifest,
        open_stores: Callable[[Mapping[str, str], Fold], Mapping[str, FeatureStore]],
    ) -> None:
        """Prepare for the jobs of a corpus.

        Args:
            params: device and threads.
            manifest: the corpus.
            open_stores: from modality → feature set, and a fold, to modality → store.
        """
        self._manifest, self._open_stores = manifest, open_stores
        self._trials = {trial.id: trial for trial in manifest.trials}
        self._machine = {"device": device_kind(params.device), "threads": params.threads}
        self._known: dict[tuple[str, str, int], dict[str, Any]] = {}

    def __call__(self, job: Job) -> str:
        """The digest of a job, as hexadecimal digits.

        Raises:
            AvFusionError: if features are missing or differ from their receipt.
        """
        model = job.system.model
        trial_ids = (*job.fold.train, *job.fold.validate)
        document = {
            "model": [model, asdict(job.system.settings)],
            "training": asdict(job.config),
            "pca": job.system.pca,
            "fold": asdict(job.fold),
            "features": {m: self.features(m, b, trial_ids, job.fold) for m, b in sorted(job.system.modalities.items())},
            **self.common(trial_ids),
            "code": _digest_training(model),
        }
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    def common(self, trial_ids: Sequence[str]) -> dict[str, Any]:
        """What decides any weights: labels of some trials, device and threads, and the libraries."""
        return {
            "targets": [asdict(target) for target in self._manifest.targets],
            "labels": [self._digest_labels(trial_id) for trial_id in trial_ids],
            "machine": self._machine,
            "versions": {name: _version(name) for name in LIBRARIES},
        }

    def features(self, modality: str, name: str, trial_ids: Sequence[str], fold: Fold) -> list[str]:
        """Fingerprint of a modality's features in a fold, and the digests of those of some trials."""
        key = modality, name, fold.index
        if key not in self._known:
            store = self._open_stores({modality: name}, fold)[modality]
            embeddings = {trial_id: record.embeddings for trial_id, record in store.find_records(self._trials).items()}
            self._known[key] = {"": store.recipe.fingerprint, **embeddings}
        return [self._known[key][trial_id] for trial_id in ("", *trial_ids)]

    @functools.cache  # noqa: B019 - as long as the digests themselves
    def _digest_labels(self, trial_id: str) -> str:
        trial = self._trials[trial_id]
        labels = b"" if trial.labels is None else trial.labels.tobytes()
        return f"{trial.clock.num_frames} {hashlib.sha256(labels).hexdigest()}"


_version = functools.cache(version)  # parses a file at each call


@functools.cache
def _digest_training(model: str) -> str:
    """Digest of the code that trains a network of a model: its file, training, and everything that they import."""
    return _digest_modules(model, "fusion.training.trainer")


@functools.cache
def digest_finetuning(model: str) -> str:
    """The same of fine-tuning under a model; of backbones and their inputs, recipes have the versions."""
    return _digest_modules(model, "pipelines.endtoend.training")


class _CodeDocument(Document):
    """What was found in files of code on this machine, as `pipelines.project.code_digest.Seen`."""

    files: dict[str, list[str]]


def _digest_modules(model: str, trainer: str) -> str:
    from fusion.models import MODELS

    try:
        known = read_document(paths.CODE_SEEN, _CodeDocument, "")
    except StoreError:  # damaged; it only saves time
        known = None
    seen = {} if known is None else known.files
    before = len(seen)
    digest = digest_code((MODELS[model].split(":")[0], trainer), ROOT, seen)
    if len(seen) > before and paths.CODE_SEEN.parent.is_dir():
        with contextlib.suppress(OSError):  # nor must a full or read-only disk matter
            write_document(paths.CODE_SEEN, _CodeDocument, {"files": seen}, sort_keys=True)
    return digest


class RunDocument(Document):
    """Content of `run.json`.

    Attributes:
        made_of: digest of everything that decides the weights.
        network: sha256 of the checkpoint's document.
        history: one row per epoch.
        parts: digests of the parts of what decides the weights, by the names of WORDS; none in older documents.
    """

    made_of: str
    network: str
    history: list[dict[str, Cell]]
    parts: Values


def save_run(folder: Path, digest: str, history: Sequence[Row], parts: Mapping[str, str] | None = None) -> None:
    """Write digests and history beside a checkpoint, which finishes the run.

    Args:
        folder: of the checkpoint.
        digest: of everything that decides the weights.
        history: one row per epoch.
        parts: digests of its parts, so that `say_changes` can name those that changed.
    """
    rows = [
        {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in row.items()}
        for row in history
    ]
    content = {"made_of": digest, "network": _digest_network(folder), "history": rows, "parts": dict(parts or {})}
    write_document(folder / DOCUMENT, RunDocument, content)


def _digest_network(folder: Path) -> str:
    """sha256 of a checkpoint's document; "" if there is none."""
    path = folder / checkpoint_files.DOCUMENT
    return digest_bytes(path.read_bytes()) if path.is_file() else ""


def _read(folder: Path) -> RunDocument:
    """The document of a finished run. Errors as of `read_history`."""
    path = folder / DOCUMENT
    found = read_document(path, RunDocument, f"{_AGAIN}; only this network is redone.", WeightsError)
    if found is None:
        raise MissingFileError(f"No '{path}': the training of this network did not finish. {_AGAIN}.")
    return found


def read_history(folder: Path) -> list[Row]:
    """History of a finished run.

    Raises:
        MissingFileError: if the run is not finished.
        WeightsError: if its document is damaged.
    """
    return [{key: nan if value is None else value for key, value in row.items()} for row in _read(folder).history]


def gather_history(models: Path, systems: Iterable[str]) -> list[Row]:
    """Every epoch of every finished network of some systems; errors as of `read_history`."""
    return [
        {**row, "system": name}  # systems with the same settings share a network
        for name in systems
        for folder in saved_runs(models, name)
        for row in read_history(folder)
    ]


def find_run(folder: Path, digest: str) -> list[Row] | None:
    """History of a finished run with this digest; None if there is none, or it or its checkpoint is damaged."""
    try:
        if _read(folder).made_of != digest:
            return None
        for part in checkpoint_files.run_parts(folder) or [folder]:
            checkpoint_files.read_files(part)
        _require_unchanged(folder)
        return read_history(folder) or None
    except (MissingFileError, WeightsError):
        return None


def digest_of(folder: Path) -> str | None:
    """Digest of a run; None if it is not finished or its document is damaged."""
    try:
        return _read(folder).made_of
    except (MissingFileError, WeightsError):
        return None


def say_changes(folder: Path, parts: Mapping[str, str]) -> str:
    """What decides the weights of the run in a folder and has changed since, in words; "" if nothing has, or there is no such run."""
    try:
        known = _read(folder).parts
    except (MissingFileError, WeightsError):
        return ""
    if not known:
        return "something that decides its weights"
    return ", ".join(words for name, words in WORDS.items() if known.get(name) != parts.get(name))


def list_kept(root: Path, users: Iterable[tuple[str, Path]], describe: Callable[[Path], str]) -> list[Row]:
    """One row per folder that is kept under a digest, sorted by it: first digits, what it is, size, who uses it.

    Args:
        root: folder of these folders.
        users: name of each user → its folder with a run document.
        describe: folder → what it is.
    """
    named: dict[str, list[str]] = {}
    for name, folder in users:
        if (digest := digest_of(folder)) is not None:
            named.setdefault(digest, []).append(name)
    return [
        {
            "network": folder.name[:12],
            "model": describe(folder),
            "kilobytes": round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1000),
            "runs": ", ".join(named.get(folder.name, ())),
            "folder": str(folder),
        }
        for folder in sorted(root.glob("*"))
        if folder.is_dir() and not folder.name.startswith(".")
    ]


def load_networks(folder: Path) -> tuple[Checkpoint, ...]:
    """All networks of a run, each exactly as its training saved it.

    Raises:
        MissingFileError: if there is none, or a training did not finish.
        WeightsError: if one is damaged.
    """
    from fusion.training import checkpoint

    networks = checkpoint.load_run(folder)
    _require_unchanged(folder)
    return networks


def _require_unchanged(folder: Path) -> None:
    """Check that the checkpoints of a run are those that its training saved; errors as of `load_networks`."""
    for part in checkpoint_files.run_parts(folder):
        if _read(part).network != _digest_network(part):
            raise WeightsError(
                f"'{part / checkpoint_files.DOCUMENT}' has been changed since its training. {_AGAIN}; only this network "
                "is redone."
            )


def count_parameters(folder: Path) -> int:
    """Parameters of all networks of a run, as saved with them; those of older versions are built to be counted.

    Raises:
        MissingFileError: if there is none, or a training did not finish.
        WeightsError: if one is damaged.
    """
    saved = [checkpoint_files.read_files(part)[0].parameters for part in checkpoint_files.run_parts(folder)]
    if saved and None not in saved:
        _require_unchanged(folder)
        return sum(count or 0 for count in saved)
    return sum(each.numel() for network in load_networks(folder) for each in network.model.parameters())


def saved_runs(models: Path, system: str) -> Iterator[Path]:
    """Folders of a system's finished networks, by fold, seed and target."""

    def order(path: Path) -> tuple[int, int, str]:
        fold, seed, *target = path.relative_to(models / system).parts[:-1]
        return int(fold.removeprefix("fold")), int(seed.removeprefix("seed")), "".join(target)

    found = [*(models / system).glob(f"fold*/seed*/{DOCUMENT}"), *(models / system).glob(f"fold*/seed*/*/{DOCUMENT}")]
    for path in sorted(found, key=order):
        yield path.parent


def digest_runs(models: Path, system: str) -> str:
    """Digest of all finished networks of a system, which changes as soon as any is trained again.

    Raises:
        WeightsError: if a run's document is damaged.
    """
    digests = [_read(folder).made_of for folder in saved_runs(models, system)]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def best_epoch(history: Sequence[Row]) -> Row:
    """The epoch that a run kept: the first one with the highest CCC."""
    return max(history, key=lambda row: (row["ccc"] == row["ccc"], row["ccc"]))
