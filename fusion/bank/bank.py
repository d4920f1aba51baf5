"""The bank: the features of a set of trials, loaded once into one contiguous tensor per modality, in the stored type.

Modalities that exceed the memory budget stay in their stores (`fusion.bank.mapped`). `fusion.bank.batches` gathers windows of both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial, find_labels_outside
from cache.errors import CorpusError, FingerprintError, SettingError
from cache.names import require_known
from cache.recipe import Recipe, differences
from cache.store.store import FeatureStore
from cache.targets import AFFECT, Target, names_of, require_targets, to_unit
from cache.windows import Window, cut_windows
from fusion.bank.arrays import as_tables, check_tables
from fusion.bank.batches import Batches
from fusion.bank.mapped import choose_resident, load_rows
from fusion.bank.normalisation import Moments, measure_moments
from fusion.bank.projection import Projection
from fusion.bank.rows import ResidentRows, Rows


@dataclass(frozen=True, eq=False)
class Bank:
    """F frames of consecutive trials, on one device.

    Attributes:
        embeddings: modality → its rows, in memory or in their store.
        valid: {modality: (F + 1,)} true where the backbone saw input.
        labels: (F + 1, C) float32, mapped from the corpus's range to [-1, 1]; nan where the target is not annotated.
        starts: trial id → its first row.
        lengths: trial id → its number of frames, in the order of the rows.
        targets: the label columns, with their original ranges.
        recipes: modality → recipe of its features.
        projections: modality → the principal components that its embeddings were reduced to.
        ahead: whether a thread gathers the next batch while the current one is computed, if a core is free.
        kept: trial id → the frames of the trial that its rows belong to, where some were left out; see `keep`.
    """

    embeddings: dict[str, Rows]
    valid: dict[str, Tensor]
    labels: Tensor
    starts: dict[str, int]
    lengths: dict[str, int]
    targets: tuple[Target, ...]
    recipes: dict[str, Recipe]
    projections: dict[str, Projection] = field(default_factory=dict)
    ahead: bool = True
    kept: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    @classmethod
    def from_stores(
        cls,
        stores: Mapping[str, FeatureStore],
        manifest: Manifest,
        trial_ids: Sequence[str],
        device: str = "cpu",
        memory_gb: float = math.inf,
        ahead: bool = True,
    ) -> Bank:
        """Load trials from one store per modality, verifying every byte against its digest.

        Args:
            stores: modality → its features.
            manifest: clocks and labels of the trials.
            trial_ids: trials to load, at least one.
            device: where the tensors live.
            memory_gb: budget for the embeddings and their normalised copy, in 10^9 bytes; the smallest modalities are
                loaded first, and those that no longer fit stay in their stores.
            ahead: see the attribute.

        Raises:
            UnknownNameError: if a trial is not in the manifest.
            StoreError: if a store lacks a trial, or its bytes were altered.
            ShapeError: if a trial's rows do not equal the ticks of its clock.
            SettingError: if there is no store or no trial.
        """
        trials = [manifest.trial(trial_id) for trial_id in dict.fromkeys(trial_ids)]
        if not stores or not trials:
            raise SettingError(
                f"The bank has {len(trials)} trials and {len(stores)} modalities; expected at least one of each. Name them."
            )
        lengths = {trial.id: trial.clock.num_frames for trial in trials}
        loaded = choose_resident(stores, sum(lengths.values()), memory_gb)
        rows = {
            modality: load_rows(modality, store, lengths, modality in loaded)
            for modality, store in sorted(stores.items())
        }
        labelled = cls.of_labels(trials, manifest.targets, device)
        return replace(
            labelled,
            embeddings={modality: embeddings.to(torch.device(device)) for modality, (embeddings, _) in rows.items()},
            valid={modality: valid.to(device) for modality, (_, valid) in rows.items()},
            recipes={modality: store.recipe for modality, store in sorted(stores.items())},
            ahead=ahead,
        )

    @classmethod
    def from_arrays(
        cls,
        embeddings: Mapping[str, Mapping[str, NDArray[Any]]],
        labels: Mapping[str, NDArray[Any]] | None = None,
        targets: tuple[Target, ...] = AFFECT,
        device: str = "cpu",
    ) -> Bank:
        """Take trials from arrays, without any store or manifest.

        Args:
            embeddings: modality → trial → (T, D), the same trials in each; a frame with nan in any dimension was not seen.
            labels: trial → (T, C) in the ranges of the targets, nan where not annotated; trials may be left out.
            targets: the label columns.
            device: where the tensors live.

        Raises:
            SettingError: if there is no modality or no trial, or a value is infinite.
            CorpusError: if labels are outside the ranges of the targets.
            ShapeError: if an array is no table of numbers, arrays of a trial differ in length, those of a modality in width, or
                modalities in their trials.
        """
        first = next(iter(embeddings.values()), {})
        if not first:
            raise SettingError(
                f"The bank has no trial in {len(embeddings)} modalities; expected at least one. Name some."
            )
        tables = {modality: as_tables(f"'{modality}'", arrays) for modality, arrays in embeddings.items()}
        given = as_tables("Array of labels", labels or {})
        lengths = {trial_id: len(rows) for trial_id, rows in next(iter(tables.values())).items()}
        for modality, table in tables.items():
            check_tables(f"'{modality}'", table, lengths)
        check_tables("Array of labels", given, lengths, len(targets))
        clock = {trial_id: FrameClock(Fraction(1), length) for trial_id, length in lengths.items()}
        trials = [Trial(each, each, "", clock[each], {}, given.get(each)) for each in lengths]
        if wrong_labels := find_labels_outside(trials, targets):
            raise CorpusError(
                f"Labels leave the declared range: {wrong_labels}. Declare the range that they have, with targets=(Target('valence', "
                "low=1, high=9), …), or correct them."
            )
        rows: dict[str, Rows] = {}
        valid, recipes = {}, {}
        for modality, arrays in sorted(tables.items()):
            whole = np.concatenate([arrays[each] for each in lengths])
            whole = np.concatenate([whole, np.zeros((1, whole.shape[1]), np.float32)])
            seen = np.isfinite(whole).all(axis=1)
            seen[-1] = False
            rows[modality] = ResidentRows(torch.from_numpy(np.where(seen[:, None], whole, 0))).to(torch.device(device))
            valid[modality] = torch.from_numpy(seen).to(device)
            recipes[modality] = Recipe("arrays", modality, whole.shape[1], dtype="float32")
        return replace(cls.of_labels(trials, targets, device), embeddings=rows, valid=valid, recipes=recipes)

    @classmethod
    def of_labels(cls, trials: Sequence[Trial], targets: tuple[Target, ...], device: str = "cpu") -> Bank:
        """The labels of some trials, without embeddings."""
        lengths = {trial.id: trial.clock.num_frames for trial in trials}
        labels = torch.full((sum(lengths.values()) + 1, len(targets)), torch.nan)
        starts = _starts(lengths)
        for trial in trials:
            if trial.labels is not None:
                rows = slice(starts[trial.id], starts[trial.id] + lengths[trial.id])
                labels.numpy()[rows] = to_unit(trial.labels, targets)
        return cls({}, {}, labels.to(device), starts, lengths, targets, {})

    @property
    def dims(self) -> dict[str, int]:
        """Modality → D."""
        return {modality: rows.dim for modality, rows in self.embeddings.items()}

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.labels.device

    def span(self, trial_id: str) -> slice:
        """Rows of a trial.

        Raises:
            UnknownNameError: if the bank does not hold it.
        """
        require_known("trial of the bank", trial_id, self.starts)
        return slice(self.starts[trial_id], self.starts[trial_id] + self.lengths[trial_id])

    def frames(self, trial_id: str) -> NDArray[np.int64]:
        """(T,) frame of the trial that each of its rows belongs to.

        Raises:
            UnknownNameError: if the bank does not hold it.
        """
        require_known("trial of the bank", trial_id, self.lengths)
        return self.kept[trial_id] if trial_id in self.kept else np.arange(self.lengths[trial_id])

    def keep(self, rows: Mapping[str, NDArray[np.int64]]) -> Bank:
        """A copy with only these trials, and only some of their rows; embeddings that are not in memory stay where they are.

        Args:
            rows: trial id → the rows to keep, counted from its first one, ascending; with none left, a trial has no windows.

        Raises:
            UnknownNameError: if the bank does not hold a trial.
        """
        kept = {trial_id: self.frames(trial_id)[own] for trial_id, own in rows.items()}
        lengths = {trial_id: len(own) for trial_id, own in rows.items()}
        places = [self.starts[trial_id] + own for trial_id, own in rows.items()]
        chosen = torch.from_numpy(np.concatenate([*places, [len(self.labels) - 1]])).to(self.device)
        embeddings = {modality: own.keep(chosen, kept) for modality, own in self.embeddings.items()}
        return replace(self._choose(chosen, lengths), embeddings=embeddings, kept=kept)

    def _choose(self, rows: Tensor, lengths: dict[str, int]) -> Bank:
        """Some rows of labels and valid frames, the last one for padding; `lengths` says whose they are."""
        valid = {modality: own[rows] for modality, own in self.valid.items()}
        return replace(self, valid=valid, labels=self.labels[rows], starts=_starts(lengths), lengths=lengths)

    def rows(self, modality: str, trial_id: str) -> Tensor:
        """(T, D) embeddings of a trial in the stored type; on the CPU if they are not in memory.

        Raises:
            UnknownNameError: if the bank does not hold the modality or the trial.
        """
        require_known("modality of the bank", modality, self.embeddings)
        return self.embeddings[modality].trial(trial_id, self.span(trial_id))

    def select_targets(self, targets: tuple[str, ...]) -> Bank:
        """The same bank with these label columns, in this order; features are shared.

        Raises:
            UnknownNameError: if a target does not exist.
        """
        require_targets(targets, self.targets)
        names = names_of(self.targets)
        columns = list(map(names.index, targets))
        return replace(self, labels=self.labels[:, columns], targets=tuple(self.targets[column] for column in columns))

    def projected(self, projections: Mapping[str, Projection]) -> Bank:
        """The same bank with some modalities reduced to principal components, in float32 and in memory.

        Raises:
            UnknownNameError: if the bank lacks a modality.
            ShapeError: if components were fitted on embeddings of another dimension.
        """
        reduced: dict[str, Rows] = {}
        for modality, projection in projections.items():
            parts = [projection.apply(*self._valid_rows(modality, trial_id)) for trial_id in self.lengths]
            padding = torch.zeros(1, len(projection.components))
            reduced[modality] = ResidentRows(torch.cat([part.to(self.device) for part in (*parts, padding)]))
        return replace(self, embeddings=self.embeddings | reduced, projections=self.projections | dict(projections))

    def measure(
        self, trial_ids: Sequence[str], how: str = "dimension", how_of: Mapping[str, str] | None = None
    ) -> dict[str, Moments]:
        """Moments of every modality over the valid frames of these trials only.

        Args:
            trial_ids: the trials.
            how: one of `fusion.settings.NORMALISATIONS`.
            how_of: modality → the same, where it differs.

        Raises:
            UnknownNameError: if the bank does not hold a trial.
            SettingError: if a modality has no valid frame in them.
        """
        moments = {}
        for modality in self.embeddings:
            trials = (self._valid_rows(modality, trial_id) for trial_id in trial_ids)
            chosen = (how_of or {}).get(modality, how)
            moments[modality] = measure_moments(modality, trials).simplified(chosen).to(self.device)
        return moments

    def _valid_rows(self, modality: str, trial_id: str) -> tuple[Tensor, Tensor]:
        rows = self.rows(modality, trial_id)
        return rows, self.valid[modality][self.span(trial_id)].to(rows.device)

    def normalised(self, moments: Mapping[str, Moments], trial_ids: Sequence[str]) -> Bank:
        """A copy with only these trials and the modalities of `moments`, normalised once for all batches.

        Rows keep the stored type and are clipped to its range; rows of invalid frames are zero, the mean. Modalities
        that are not in memory are normalised when they are gathered, with the same result.

        Raises:
            UnknownNameError: if the bank does not hold a trial or a modality.
        """
        for modality in moments:
            require_known("modality of the bank", modality, self.embeddings)
        spans = {trial_id: self.span(trial_id) for trial_id in trial_ids}
        lengths = {trial_id: self.lengths[trial_id] for trial_id in trial_ids}
        padding = slice(len(self.labels) - 1, len(self.labels))
        rows = torch.cat(
            [torch.arange(span.start, span.stop, device=self.device) for span in (*spans.values(), padding)]
        )
        chosen = self._choose(rows, lengths)
        embeddings = {
            modality: self.embeddings[modality].normalised(own.to(self.device), self.valid[modality], spans)
            for modality, own in sorted(moments.items())
        }
        return replace(
            chosen,
            embeddings=embeddings,
            valid={modality: chosen.valid[modality] for modality in embeddings},
            recipes={modality: self.recipes[modality] for modality in embeddings},
            projections={modality: own for modality, own in self.projections.items() if modality in moments},
        )

    def cut(
        self, trial_ids: Sequence[str], length: int, hop: int, dilation: int = 1, tail: str = "align"
    ) -> tuple[Window, ...]:
        """Windows of these trials: `cache.windows.cut_windows` with the bank's lengths.

        Raises:
            UnknownNameError: if the bank does not hold a trial.
            SettingError: if the numbers are out of range.
        """
        for trial_id in trial_ids:
            require_known("trial of the bank", trial_id, self.lengths)
        return cut_windows({trial_id: self.lengths[trial_id] for trial_id in trial_ids}, length, hop, dilation, tail)

    def batches(self, windows: Sequence[Window], length: int, batch_size: int) -> Batches:
        """Batches over windows, padded to `length` frames.

        Raises:
            UnknownNameError: if the bank does not hold a window's trial.
            ShapeError: if a window is longer than `length` or leaves its trial.
        """
        return Batches(self, windows, length, batch_size)

    def check_recipes(self, expected: Mapping[str, Recipe]) -> None:
        """Check that the features are the ones that a model was trained on.

        Args:
            expected: modality → recipe.

        Raises:
            UnknownNameError: if the bank lacks a modality.
            FingerprintError: if a recipe differs; the message names the modality, both fingerprints, and what differs.
        """
        for modality in expected:
            require_known("modality of the bank", modality, self.recipes)
        faults = [
            f"{modality} features have fingerprint '{self.recipes[modality].fingerprint}', the model was trained on "
            f"'{recipe.fingerprint}' ({differences(recipe, self.recipes[modality])})"
            for modality, recipe in sorted(expected.items())
            if self.recipes[modality] != recipe
        ]
        if faults:
            raise FingerprintError(f"{'; '.join(faults)}. Extract with the settings of training, or train again.")


def _starts(lengths: Mapping[str, int]) -> dict[str, int]:
    ends = np.cumsum([0, *lengths.values()]).tolist()
    return dict(zip(lengths, ends, strict=False))
