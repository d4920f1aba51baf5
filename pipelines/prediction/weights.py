"""Where the weights of a recipe lie on this machine: found by their digest, else loaded by their name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from cache.errors import AvFusionError, FingerprintError, SettingError
from cache.foreign import sha256_file
from cache.recipe import Recipe
from extract.backbones.contract import Backbone, rebuild
from pipelines.project import paths
from pipelines.project.params_file import read_params

_SUFFIXES = {".pt", ".pth", ".tar", ".bin", ".safetensors"}


class WeightsFinder:
    """Finds the files of weights.

    Args:
        given: feature set (the model's modality, or the backbone) → a file, or a folder to be searched.
        runs: folders of the checkpoints, whose projects may have fine-tuned weights.
    """

    def __init__(self, given: Mapping[str, Path], runs: Sequence[Path]) -> None:
        self._given = {name: path.expanduser() for name, path in given.items()}
        for name, path in self._given.items():
            if not path.exists():
                raise SettingError(f"--weights {name}={path}: there is no such file or folder. Check the path.")
        self._roots = list(dict.fromkeys(root for run in runs for root in _projects(run)))

    def build(self, modality: str, recipe: Recipe) -> Backbone:
        """Rebuild the backbone of a recipe.

        Raises:
            FingerprintError: if the features were imported, or this version would compute different ones.
            WeightsError: if its weights are not found; says which ones are needed and how to name their place.
        """
        if recipe.upstream is None or recipe.input is None:
            raise FingerprintError(
                f"The model's features '{modality}' ({recipe.name}) were imported or made by an older version; expected a recipe "
                "of ours, which says how to make them of a new video. Use a model that was trained on extracted features."
            )
        given = self._given.get(modality, self._given.get(recipe.name))
        own = {} if given is None else _by_digest([given])
        found = own.get(recipe.weights_sha256)
        if found is None and given is None and not recipe.weights_sha256.startswith("random:"):
            found = self._known.get(recipe.weights_sha256)
        if found is None and given is not None:
            found = given if given.is_file() else None
        remedy = f"Say where these lie with --weights {modality}=PATH, a file or a folder that has them."
        return rebuild(recipe, "" if found is None else str(found), remedy)

    def check_names(self, known: Iterable[str]) -> None:
        """Check that every given feature set is one of the models'.

        Raises:
            SettingError: if one is not.
        """
        names = sorted(set(known))
        for name in self._given:
            if name not in names:
                raise SettingError(f"--weights names '{name}'; expected one of {', '.join(names)}. Correct it.")

    @cached_property
    def _known(self) -> dict[str, Path]:
        """Digest → the weights of the projects: fine-tuned ones, and those that params.yaml names by their path."""
        places = [root / paths.FINETUNINGS for root in self._roots]
        for root in self._roots:
            if (root / paths.PARAMS).is_file():
                try:
                    sets = read_params(root / paths.PARAMS).extract.values()
                except AvFusionError:  # reported by the commands that need it
                    continue
                places += [root / Path(section.weights).expanduser() for section in sets]
        return _by_digest(places)


def _projects(run: Path) -> Iterator[Path]:
    """Folders of projects that a run may belong to: the one that it lies in, and the current one."""
    for folder in run.absolute().parents:
        if folder.name == paths.MODELS.parts[0]:
            yield folder.parent
    yield Path()


def _by_digest(places: Iterable[Path]) -> dict[str, Path]:
    """Digest → what `load_backbone` takes, of all files of weights in some places; a model folder stands for its file."""
    found: dict[str, Path] = {}
    for place in places:
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.suffix in _SUFFIXES and path.is_file():
                found.setdefault(sha256_file(path), path.parent if (path.parent / "config.json").is_file() else path)
    return found
