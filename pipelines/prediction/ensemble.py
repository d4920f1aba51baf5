"""The networks that predict together: runs by folder or by the name of their system, and the mean and spread of what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest
from cache.errors import MissingFileError, SettingError
from cache.foreign import sha256_file
from cache.names import require_known
from cache.recipe import Recipe, fingerprint
from cache.store.store import FeatureStore
from cache.targets import Target
from fusion.bank.bank import Bank
from fusion.training import checkpoint
from fusion.training.checkpoint import Checkpoint
from fusion.training.inference import merge, predict
from pipelines.project import paths
from pipelines.project.runs import DOCUMENT, load_networks, saved_runs

MEMORY_GB = 1.0  # of a video's embeddings; what exceeds it is read from the store as it is needed

OpenStore = Callable[[Recipe], FeatureStore]
"""The store that has the features of a recipe."""


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Runs that predict together; every run has one network, or one per target.

    Attributes:
        runs: the networks of each run.
        targets: what they predict, in order of first appearance.
    """

    runs: tuple[tuple[Checkpoint, ...], ...]
    targets: tuple[Target, ...]

    @classmethod
    def load(cls, folders: Sequence[Path]) -> Ensemble:
        """Load runs.

        Raises:
            WeightsError: if a checkpoint is damaged or was changed after its training.
            SettingError: if two of them have a target of the same name in different ranges.
        """
        runs = tuple(
            load_networks(folder) if any(folder.rglob(DOCUMENT)) else checkpoint.load_run(folder) for folder in folders
        )
        targets: dict[str, Target] = {}
        for network in (network for run in runs for network in run):
            for target in network.targets:
                known = targets.setdefault(target.name, target)
                if known != target:
                    raise SettingError(
                        f"The models predict '{target.name}' in [{known.low:g}, {known.high:g}] and in [{target.low:g}, "
                        f"{target.high:g}]; expected one range. Predict with one of them at a time."
                    )
        return cls(runs, tuple(targets.values()))

    @property
    def networks(self) -> Iterator[Checkpoint]:
        """All networks."""
        return (network for run in self.runs for network in run)

    @property
    def recipes(self) -> dict[str, tuple[str, Recipe]]:
        """Fingerprint → modality and recipe of every feature set that they read."""
        return {
            recipe.fingerprint: (modality, recipe)
            for network in self.networks
            for modality, recipe in network.recipes.items()
        }

    def predict(
        self, trial_id: str, manifest: Manifest, open_store: OpenStore
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Predict one trial.

        Returns:
            (T, C) the mean over the runs, and (T, C) their standard deviation, in its N - 1 form; nan for a single run.
        """
        known: dict[str, Bank] = {}
        runs = []
        for run in self.runs:
            parts = []
            for network in run:
                key = fingerprint({modality: recipe.fingerprint for modality, recipe in network.recipes.items()})
                if key not in known:
                    stores = {modality: open_store(recipe) for modality, recipe in network.recipes.items()}
                    known = {key: Bank.from_stores(stores, manifest, [trial_id], memory_gb=MEMORY_GB)}
                parts.append(predict(network, known[key], [trial_id]))
            runs.append(merge(parts))
        mean = merge(runs)[0]
        order = [mean.targets.index(target.name) for target in self.targets]
        spread = np.full_like(mean.values, np.nan)
        for column, target in enumerate(mean.targets):
            own = [one.values[:, one.targets.index(target)] for (one,) in runs if target in one.targets]
            if len(own) > 1:
                spread[:, column] = np.std(own, axis=0, ddof=1, dtype=np.float64)
        return mean.values[:, order], spread[:, order]


def find_runs(wanted: str | Path, models: Sequence[Path] = (paths.MODELS, paths.MATRIX.models)) -> list[Path]:
    """Folders of the runs that a name stands for: all of a system, or the run in a folder.

    Args:
        wanted: the name of a trained system of the project, the folder of a run, a fold or a whole system.
        models: folders with a folder per system.

    Raises:
        MissingFileError: if a folder has no trained network.
        UnknownNameError: if it is neither a folder nor the name of a trained system.
    """
    systems = {path.name: path for root in reversed(models) for path in sorted(root.glob("*")) if path.is_dir()}
    folder = systems.get(str(wanted), Path(wanted).expanduser())
    if not folder.is_dir():
        if folder.name != str(wanted) or not systems:
            raise MissingFileError(
                f"No model '{wanted}'. Give the folder of a trained run, such as work/models/<system>/fold0/seed0, or run this in "
                "the project's folder and name one of its systems."
            )
        require_known("system", str(wanted), systems)
    if folder.name.startswith("fold") and (seeds := list(folder.glob("seed*"))):
        return sorted(seeds, key=lambda seed: int(seed.name.removeprefix("seed")))
    if any(folder.glob(checkpoint.DOCUMENT)) or any(folder.glob(f"*/{checkpoint.DOCUMENT}")):
        return [folder]
    parts = saved_runs(folder.parent, folder.name)
    found = dict.fromkeys(part if part.name.startswith("seed") else part.parent for part in parts)
    if not found:
        raise MissingFileError(f"'{folder}' has no trained network. Run 'avfusion train' first, or check the path.")
    return list(found)


def digest_networks(folders: Sequence[Path]) -> list[str]:
    """Digest of every network of some runs: that of its document, which holds the digest of its weights."""
    found = (path for folder in folders for path in sorted(folder.rglob(checkpoint.DOCUMENT)))
    return [sha256_file(path) for path in found]
