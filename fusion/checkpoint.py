"""Checkpoints: a folder with `model.safetensors` and `model.json` that rebuilds its own model.

The tensors are the model's weights (`model.<name>`) and the moments of the features (`moments.<modality>.mean`);
the document says which model it is, what it was trained on and how. Nothing is pickled, and the same content
gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialise_tensors
from torch import Tensor

from cache.errors import MissingFileError, WeightsError
from cache.folds import Fold
from cache.settings import make_settings
from cache.targets import Target, names_of
from fusion.model import FusionModel, build_model
from fusion.moments import Moments
from fusion.projection import Projection
from fusion.settings import TrainConfig

VERSION = 2  # 2: targets with their ranges
TENSORS, DOCUMENT = "model.safetensors", "model.json"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model and all that is needed to use it or to ask where it came from.

    Attributes:
        model: with its trained weights; name, settings, dims and targets are its own.
        moments: modality → moments that features are normalised with.
        fingerprints: modality → fingerprint of the features that it was trained on.
        fold: which trials taught, chose and were kept.
        training: the settings of the run; window and hop are those of inference too.
        validation: target → CCC on the fold's validation trials.
        versions: of the libraries that trained it.
        targets: what it predicts, with the ranges that its outputs in [-1, 1] stand for.
        projections: modality → principal components that its embeddings are reduced to before the moments.
    """

    model: FusionModel
    moments: dict[str, Moments]
    fingerprints: dict[str, str]
    fold: Fold
    training: TrainConfig
    validation: dict[str, float]
    versions: dict[str, str]
    targets: tuple[Target, ...]
    projections: dict[str, Projection] = field(default_factory=dict)

    def save(self, folder: Path | str) -> None:
        """Write the folder as a whole: under a temporary name beside it, then renamed; an older one is replaced."""
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        tensors = serialise_tensors(self._tensors())
        document = {**self._document(), "sha256": hashlib.sha256(tensors).hexdigest()}
        text = json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as workshop:
            fresh, old = Path(workshop) / "fresh", Path(workshop) / "old"
            fresh.mkdir()
            _write_through(fresh / TENSORS, tensors)
            _write_through(fresh / DOCUMENT, text.encode())
            if folder.exists():
                folder.rename(old)
            fresh.rename(folder)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for modality, moments in self.moments.items():
            tensors |= {f"moments.{modality}.mean": moments.mean, f"moments.{modality}.std": moments.std}
        for modality, kept in self.projections.items():
            tensors |= {f"projections.{modality}.{name}": tensor for name, tensor in vars(kept).items()}
        return {name: tensors[name].detach().cpu().clone().contiguous() for name in sorted(tensors)}

    def _document(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "model": self.model.name,
            "settings": self.model.settings,
            "dims": self.model.dims,
            "targets": [asdict(target) for target in self.targets],
            "fingerprints": self.fingerprints,
            "fold": asdict(self.fold),
            "training": asdict(self.training),
            "validation": self.validation,
            "versions": self.versions,
            "projections": sorted(self.projections),
        }


def current_versions() -> dict[str, str]:
    """Library → version, of what decides a trained weight."""
    return {"torch": str(torch.__version__)}


def load(folder: Path | str) -> Checkpoint:
    """Rebuild a checkpoint on the CPU, its model in evaluation mode.

    Raises:
        MissingFileError: if the folder or one of its two files does not exist.
        WeightsError: if a file is damaged, of another version, or does not fit the model it names.
    """
    folder = Path(folder)
    absent = [name for name in (DOCUMENT, TENSORS) if not (folder / name).is_file()]
    if absent:
        raise MissingFileError(
            f"No checkpoint in '{folder}': {' and '.join(absent)} missing. Train a model first, or check the path."
        )
    document = _read_document(folder / DOCUMENT)
    data = (folder / TENSORS).read_bytes()
    if hashlib.sha256(data).hexdigest() != document.get("sha256"):
        raise WeightsError(
            f"'{folder / TENSORS}' has another sha256 than its {DOCUMENT} says: it is damaged. Copy it again, or run "
            "'avfusion train'."
        )
    return _rebuild(folder, document, parse_tensors(data))


def load_run(folder: Path | str) -> tuple[Checkpoint, ...]:
    """All networks of a run: the checkpoint in this folder, or those in its folders, one per target.

    Raises:
        MissingFileError: if there is none.
        WeightsError: as `load`.
    """
    folder = Path(folder)
    parts = [folder] if (folder / DOCUMENT).exists() else sorted(path.parent for path in folder.glob(f"*/{DOCUMENT}"))
    return tuple(load(part) for part in parts or [folder])


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version = document["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"'{path}' is damaged: {error}. Copy it again, or run 'avfusion train'.") from error
    if version != VERSION:
        raise WeightsError(
            f"Checkpoint '{path.parent}' has version {version}, expected {VERSION}. Use the avfusion that wrote it, or train again."
        )
    return document


def _rebuild(folder: Path, document: dict[str, Any], tensors: dict[str, Tensor]) -> Checkpoint:
    try:
        with torch.random.fork_rng(devices=[]):
            targets = tuple(Target(**parts) for parts in document["targets"])
            model = build_model(document["model"], document["dims"], names_of(targets), document["settings"])
        weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
        model.load_state_dict(weights)
        moments = {m: Moments(tensors[f"moments.{m}.mean"], tensors[f"moments.{m}.std"]) for m in document["dims"]}
        parts = document["fold"]
        fold = Fold(parts["index"], *(tuple(parts[name]) for name in ("train", "validate", "test")))
        training = make_settings(TrainConfig, document["training"], "section 'training'")
        return Checkpoint(
            model.eval(),
            moments,
            document["fingerprints"],
            fold,
            training,
            document["validation"],
            document["versions"],
            targets,
            {
                m: Projection(*(tensors[f"projections.{m}.{name}"] for name in ("mean", "components")))
                for m in document.get("projections", ())
            },
        )
    except (KeyError, TypeError, RuntimeError, ValueError, LookupError) as error:
        text = " ".join(str(error).split())
        raise WeightsError(
            f"Checkpoint '{folder}' does not fit the model that it names: {text} Train it again."
        ) from error


def _write_through(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
