"""Checkpoints: a folder with `model.safetensors` and `model.json` that rebuilds its own model.

The tensors are the model's weights (`model.<name>`) and the moments of the features (`moments.<modality>.mean`). The
document holds the model's name and settings, how it was trained, and the recipes of its features, so that they can be
computed for a new video. Nothing is pickled, and equal content gives equal bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite, nan
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialise_tensors
from torch import Tensor

from cache.corpus.folds import Fold
from cache.documents.documents import digest_bytes, format_document, write_file
from cache.errors import SettingError, WeightsError, short_text
from cache.recipe import Recipe
from cache.settings import make_settings
from cache.targets import Target, names_of
from fusion.bank.normalisation import Moments
from fusion.bank.projection import Projection
from fusion.model import FusionModel
from fusion.settings import TrainConfig
from fusion.training.building import build_model
from fusion.training.checkpoint_files import DOCUMENT, TENSORS, VERSION, CheckpointDocument, read_files, run_parts
from fusion.training.postprocessing import Fitted
from fusion.training.reading import AUTO, Reading, find_hop_fault, overlapping


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model, and everything needed to use it and to trace where it came from.

    Attributes:
        model: with its trained weights, name, settings, dims and targets.
        moments: modality → moments that normalise its features.
        recipes: modality → recipe of the features that it was trained on.
        fold: the trials for training, validation and testing.
        training: the settings of the run.
        validation: target → CCC on the fold's validation trials.
        versions: versions of the libraries that trained it.
        targets: what it predicts, with the ranges that its outputs in [-1, 1] are mapped to.
        projections: modality → principal components that its embeddings are reduced to before normalisation.
        reading: the windows that predictions are made in, as chosen on the validation trials; by default those of training.
        fitted: post-processing that was fitted on the validation trials: chain → parameters of its last step for each target.
        postprocess: the chain that predictions pass; none unless asked for, and not saved.
    """

    model: FusionModel
    moments: dict[str, Moments]
    recipes: dict[str, Recipe]
    fold: Fold
    training: TrainConfig
    validation: dict[str, float]
    versions: dict[str, str]
    targets: tuple[Target, ...]
    projections: dict[str, Projection] = field(default_factory=dict)
    reading: Reading | None = None
    fitted: Fitted = field(default_factory=dict)
    postprocess: tuple[str, ...] = ()

    @property
    def windows(self) -> Reading:
        """The windows that predictions are made in."""
        return self.reading or Reading(self.training.window, self.training.hop)

    def answering(self, window: int | str = AUTO, hop: int | str = AUTO, postprocess: Sequence[str] = ()) -> Checkpoint:
        """The same network with another way to make its predictions, as section `evaluate` of params.yaml says.

        Args:
            window: their frames, "train" for those of training, or "auto" for those chosen on the validation trials; models of a
                fixed length keep theirs.
            hop: frames between their starts, at most a window, or "auto" for what belongs to the window: of a number a quarter.
            postprocess: a chain of `fusion.training.postprocessing`.

        Raises:
            SettingError: if post-processing is asked for and none was fitted, or the hop is longer than the windows, so that frames
                between them would have no prediction; with models of a fixed length it is cut to their windows.
        """
        if postprocess and not self.fitted:
            raise SettingError(
                f"The network has no fitted post-processing, but {', '.join(postprocess)} is asked for. Train it with 'avfusion train', or "
                "set evaluate.postprocess to [] and leave out --postprocess."
            )
        own = Reading(self.training.window, self.training.hop)
        chosen = self.windows if window == AUTO else own
        fixed = self.model.fixed_length is not None
        if isinstance(window, int) and not fixed:
            chosen = overlapping(window)
        if not fixed and (wrong := find_hop_fault(chosen.window, hop)):
            raise SettingError(
                f"The hop {wrong} of a network: frames between its windows would have no prediction. Give a smaller hop, or auto."
            )
        if isinstance(hop, int):
            chosen = replace(chosen, hop=min(hop, chosen.window))
        return replace(self, reading=chosen, postprocess=tuple(postprocess))

    def save(self, folder: Path | str) -> None:
        """Write to a temporary folder beside it, then rename, so that no half-written checkpoint is seen; replaces an old one."""
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        tensors = serialise_tensors(self._tensors())
        document = {**self._document(), "sha256": digest_bytes(tensors)}
        text = format_document(CheckpointDocument, document, sort_keys=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as workshop:
            fresh = Path(workshop) / "fresh"
            write_file(fresh / TENSORS, tensors)
            write_file(fresh / DOCUMENT, text)
            if folder.exists():
                folder.rename(Path(workshop) / "old")
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
            "specs": {modality: recipe.to_document() for modality, recipe in self.recipes.items()},
            "fold_index": self.fold.index,
            "fold": {part: list(getattr(self.fold, part)) for part in ("train", "validate", "test")},
            "training": asdict(self.training),
            "reading": [self.windows.window, self.windows.hop],
            "fitted": dict(self.fitted),
            "validation": {target: ccc if isfinite(ccc) else None for target, ccc in self.validation.items()},
            "versions": self.versions,
            "projections": sorted(self.projections),
            "parameters": sum(each.numel() for each in self.model.parameters()),
        }


def load(folder: Path | str) -> Checkpoint:
    """Rebuild a checkpoint on the CPU, with its model in evaluation mode.

    Raises:
        MissingFileError: if the folder or one of its two files does not exist.
        WeightsError: if a file is damaged, has another version, or does not fit the model it names.
    """
    folder = Path(folder)
    document, data = read_files(folder)
    return _rebuild(folder, document, parse_tensors(data))


def load_run(folder: Path | str) -> tuple[Checkpoint, ...]:
    """All networks of a run: the checkpoint in this folder, or one per target in its subfolders.

    Raises:
        MissingFileError: if there is none.
        WeightsError: as `load`.
    """
    folder = Path(folder)
    return tuple(load(part) for part in run_parts(folder) or [folder])


def _rebuild(folder: Path, document: CheckpointDocument, tensors: dict[str, Tensor]) -> Checkpoint:
    try:
        with torch.random.fork_rng(devices=[]):
            targets = tuple(part.target for part in document.targets)
            model = build_model(document.model, document.dims, names_of(targets), document.settings)
        weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
        model.load_state_dict(weights)
        moments = {m: Moments(tensors[f"moments.{m}.mean"], tensors[f"moments.{m}.std"]) for m in document.dims}
        return Checkpoint(
            model.eval(),
            moments,
            {modality: part.recipe for modality, part in document.specs.items()},
            Fold(document.fold_index, **{part: tuple(names) for part, names in document.fold.items()}),
            make_settings(TrainConfig, document.training, "section 'training'"),
            {target: nan if ccc is None else ccc for target, ccc in document.validation.items()},
            document.versions,
            targets,
            {
                m: Projection(*(tensors[f"projections.{m}.{name}"] for name in ("mean", "components")))
                for m in document.projections
            },
            Reading(*document.reading),
            document.fitted,
        )
    except (KeyError, TypeError, RuntimeError, ValueError, LookupError) as error:
        raise WeightsError(
            f"Checkpoint '{folder}' does not fit the model it names: {short_text(error)}. Train it again."
        ) from error
