"""What the networks of an ensemble say together of some trials: their mean, plain or weighted, and how far they are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest
from cache.errors import SettingError
from cache.recipe import Recipe, fingerprint
from cache.store.store import FeatureStore
from cache.targets import Target, names_of
from fusion.bank.bank import Bank
from fusion.training.checkpoint import Checkpoint
from fusion.training.inference import predict
from pipelines.ensembles.members import Member

WEIGHTINGS = ("mean", "ccc")
"""All networks count the same, or by their validation CCC for each target, those with 0 or less not at all."""

FindStores = Callable[[Checkpoint], Mapping[str, FeatureStore]]
"""The stores, by modality, that have the features of a network."""


class Joint(NamedTuple):
    """The prediction of a trial.

    Attributes:
        values: (T, C) float32 the mean over the networks for each target.
        spread: (T, C) float32 their standard deviation, in its N - 1 form; nan for a single network.
    """

    values: NDArray[np.float32]
    spread: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Networks that predict together, each all targets or some.

    Attributes:
        members: the networks.
        targets: what they predict, in order of first appearance.
    """

    members: tuple[Member, ...]
    targets: tuple[Target, ...]

    @classmethod
    def of(cls, members: Iterable[Member]) -> Ensemble:
        """Put networks together.

        Raises:
            SettingError: if there is none, or two of them have a target of the same name in different ranges.
        """
        members = tuple(members)
        if not members:
            raise SettingError("The ensemble has 0 models; expected at least one. Name the checkpoints.")
        targets: dict[str, Target] = {}
        for member in members:
            for target in (target for target in member.network.targets if target.name in member.targets):
                known = targets.setdefault(target.name, target)
                if known != target:
                    raise SettingError(
                        f"The models predict '{target.name}' in [{known.low:g}, {known.high:g}] and in [{target.low:g}, "
                        f"{target.high:g}]; expected one range. Predict with one of them at a time."
                    )
        return cls(members, tuple(targets.values()))

    @property
    def recipes(self) -> dict[str, tuple[str, Recipe]]:
        """Fingerprint → modality and recipe of every feature set that they read."""
        return {
            recipe.fingerprint: (modality, recipe)
            for member in self.members
            for modality, recipe in member.network.recipes.items()
        }

    def weigh(self, weighting: str) -> NDArray[np.float64]:
        """(M, C) weight of each network for each target.

        Args:
            weighting: one of `WEIGHTINGS`.

        Raises:
            SettingError: if no network for a target is better than chance, and they count by their CCC.
        """
        names = names_of(self.targets)
        weights = np.zeros((len(self.members), len(names)))
        for row, member in enumerate(self.members):
            for target in member.targets:
                weights[row, names.index(target)] = 1.0 if weighting == "mean" else max(0.0, member.score(target))
        weak = [name for name, total in zip(names, weights.sum(axis=0), strict=True) if total <= 0]
        if weak:
            raise SettingError(
                f"The validation CCC of {' and '.join(weak)} is 0 or less for each of {len(self.members)} networks, so that none "
                "counts. Name other runs, or use --weights mean."
            )
        return weights

    def predict(
        self,
        trial_ids: Sequence[str],
        manifest: Manifest,
        find_stores: FindStores,
        *,
        weighting: str = "mean",
        device: str = "cpu",
        memory_gb: float = 1.0,
        advance: Callable[[int, str], None] = lambda steps, note: None,
    ) -> dict[str, Joint]:
        """Predict trials, one network after the other.

        Args:
            trial_ids: trials to predict.
            manifest: their corpus.
            find_stores: finds the features of a network.
            weighting: one of `WEIGHTINGS`.
            device: where to predict.
            memory_gb: of embeddings held in memory; more are read from the store as they are needed.
            advance: called after each network.

        Returns:
            Trial → its prediction, with the columns of `targets`.
        """
        weights = self.weigh(weighting)
        names = names_of(self.targets)
        sums = {each: _Sums((manifest.trial(each).clock.num_frames, len(names))) for each in trial_ids}
        for same in self._group():
            stores = find_stores(self.members[same[0]].network)
            bank = Bank.from_stores(stores, manifest, trial_ids, device, memory_gb)
            for row in same:
                member = self.members[row]
                for prediction in predict(member.network, bank, trial_ids):
                    for target in member.targets:
                        values = prediction.values[:, prediction.targets.index(target)]
                        column = names.index(target)
                        sums[prediction.trial_id].add(column, values, weights[row, column])
                advance(1, member.system)
        return {trial_id: each.joint(weights) for trial_id, each in sums.items()}

    def join(self, predictions: Sequence[NDArray[np.float32]]) -> Joint:
        """Mean and spread of what the networks say about some frames.

        Args:
            predictions: (T, …) of each network, with all of its targets.
        """
        names = names_of(self.targets)
        sums = _Sums((len(predictions[0]), len(names)))
        for member, values in zip(self.members, predictions, strict=True):
            for target in member.targets:
                sums.add(names.index(target), values[:, member.network.model.targets.index(target)], 1.0)
        return sums.joint(self.weigh("mean"))

    def _group(self) -> list[list[int]]:
        """Rows of the networks that read the same features, and so the same bank."""
        groups: dict[str, list[int]] = {}
        for row, member in enumerate(self.members):
            key = fingerprint({modality: recipe.fingerprint for modality, recipe in member.network.recipes.items()})
            groups.setdefault(key, []).append(row)
        return list(groups.values())


class _Sums:
    """Running moments over networks of a trial's prediction [Welford1962], as hundreds of predictions do not fit in memory."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._count = np.zeros(shape[1])
        self._weighted, self._mean, self._squares = np.zeros((3, *shape))

    def add(self, column: int, values: NDArray[np.float32], weight: float) -> None:
        """Count the prediction of a network for a target."""
        self._weighted[:, column] += weight * values.astype(np.float64)
        self._count[column] += 1
        apart = values - self._mean[:, column]
        self._mean[:, column] += apart / self._count[column]
        self._squares[:, column] += apart * (values - self._mean[:, column])

    def joint(self, weights: NDArray[np.float64]) -> Joint:
        """Mean and spread, given the weights (M, C) of all networks."""
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.sqrt(self._squares / (self._count - 1))
        return Joint((self._weighted / weights.sum(axis=0)).astype(np.float32), spread.astype(np.float32))
