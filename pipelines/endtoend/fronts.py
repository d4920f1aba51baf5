"""Frozen fronts: what the part of a backbone makes that no gradient reaches, computed once and kept in a store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.corpus.manifest import Manifest, Trial
from cache.errors import ShapeError, StoreError, TrialsFailedError
from cache.store.store import FeatureStore
from extract.backbones.contract import Backbone
from extract.engine.claim_queue import ClaimQueue
from extract.engine.outcome import Outcome
from extract.inputs.alignment import Alignment, align_frames
from extract.inputs.contract import Input, Source
from pipelines.endtoend.items import ItemReader
from pipelines.endtoend.network import Cut, EndToEnd, cut
from pipelines.endtoend.settings import FinetuneConfig


@dataclass(frozen=True)
class FrontInput(Input):
    """Rows of a front (N, F) float32, one per frame, from their store."""

    name = "front"
    media = ()
    version = 1

    store: FeatureStore

    def is_absent(self, trial: Trial) -> bool:
        """Never: a trial without the medium has rows that are not valid."""
        return False

    def open(self, manifest: Manifest, trial: Trial, crops: Path | None) -> Source:
        """The rows of a trial."""
        return _StoredRows(self.store, trial.id)

    def check(self, batch: Tensor) -> None:
        """Check that a batch has rows of this front."""
        if batch.dtype != torch.float32 or batch.shape[1:] != (self.store.recipe.dim,):
            raise ShapeError(
                f"Rows are {batch.dtype} of shape {tuple(batch.shape)}, expected torch.float32 of shape (B, {self.store.recipe.dim})."
            )

    def example(self, count: int, seed: int = 0) -> NDArray[np.float32]:
        """(B, F) zeros."""
        return np.zeros((count, self.store.recipe.dim), np.float32)


@dataclass(frozen=True)
class _StoredRows:
    store: FeatureStore
    trial_id: str

    def digest(self) -> str:
        return self.store.record(self.trial_id).embeddings

    def load(self) -> Alignment:
        return align_frames(self.store.read(self.trial_id).valid)

    def read(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        first = int(items[0])
        return self.store.read(self.trial_id, first, int(items[-1]) + 1).embeddings[items - first]


@dataclass(frozen=True)
class Fronts:
    """Where fronts are kept, for the trials of a fold.

    Attributes:
        folder: with a store for each backbone.
        manifest: of the corpus.
        trials: those of the fold.
        upstream: input → see `Input.upstream`.
        tell: called with a sentence before a front is computed.
    """

    folder: Path
    manifest: Manifest
    trials: Sequence[Trial]
    upstream: Callable[[Input], dict[str, Any]]
    tell: Callable[[str], None] = lambda text: None

    def bytes(self, backbone: Backbone, part: Cut) -> int:
        """Space that a front takes."""
        return 4 * width(backbone, part) * sum(trial.clock.num_frames for trial in self.trials)

    def reader(self, backbone: Backbone, part: Cut, media: ItemReader) -> ItemReader:
        """Reads the rows of a front; those that are not stored yet are computed first.

        Raises:
            TrialsFailedError: if the media of a trial cannot be read; the others are kept.
            StoreError: if the store cannot be written.
        """
        recipe = backbone.recipe("float32", upstream=self.upstream(backbone.input))
        settings = {**recipe.settings, "front": part.released}
        place = self.folder / f"{backbone.name}.zarr"
        store = FeatureStore.create(place, replace(recipe, dim=width(backbone, part), settings=settings))
        device = next(backbone.parameters()).device
        outcome, pending = Outcome(), [f"computing the frozen front of '{backbone.name}', once for all epochs"]

        def make(trial_id: str) -> None:
            if pending:
                self.tell(pending.pop())
            trial = media.trial(trial_id)
            rows = trial.embed(part.front, store.recipe.dim, device)
            clock = self.manifest.trial(trial_id).clock
            store.write(trial_id, rows, trial.alignment.valid, source=trial.source.digest(), clock=clock)

        queue = ClaimQueue(store.path, outcome, "frozen front", lock=store.lock_name)
        queue.work([trial.id for trial in self.trials], partial(self._is_whole, store, media), make)
        if outcome.failures:
            trial_id, why = next(iter(outcome.failures.items()))
            raise TrialsFailedError(
                f"The frozen front of '{backbone.name}' could not be computed for {len(outcome.failures)} of {len(self.trials)} "
                f"trials, e.g. '{trial_id}': {why}"
            )
        return ItemReader(FrontInput(store), self.manifest, self.trials, None)

    def _is_whole(self, store: FeatureStore, media: ItemReader, trial_id: str) -> bool:
        """Whether a trial is stored as computed from these media, to the last bit."""
        clock = self.manifest.trial(trial_id).clock
        record = store.find_record(trial_id)
        if record is None or (record.source, record.clock) != (media.trial(trial_id).source.digest(), clock):
            return False
        try:
            store.read(trial_id, check=True)
        except StoreError:
            return False
        return True


def width(backbone: Backbone, part: Cut) -> int:
    """Numbers per row of a front."""
    if not part.released:
        return backbone.dim
    device = next(backbone.parameters()).device
    with torch.no_grad():
        return int(part.front(torch.from_numpy(backbone.input.example(1)).to(device)).shape[1])


class Readers:
    """What is read for each backbone in training: its media, or the rows of its front as long as that is frozen.

    A front is used only where the weights end as without it: it drops nothing, its batch norms do not learn, nothing
    changes its items at random, and it runs in float32.

    Args:
        network: told which part of each backbone to run.
        fronts: where they are kept, None to use none.
        changed: modalities whose items are changed at random.
        how: the settings of fine-tuning.
    """

    def __init__(
        self,
        network: EndToEnd,
        fronts: Fronts | None,
        changed: Collection[str],
        how: FinetuneConfig,
    ) -> None:
        self._network, self._changed, self._limit = network, changed, how.fronts_gb * 1e9
        self._fronts = fronts if how.batch_norm == "frozen" and how.precision == "fp32" else None
        self._opened: dict[tuple[str, int], ItemReader | None] = {}

    def open(self, media: Mapping[str, ItemReader]) -> dict[str, ItemReader]:
        """What is read for each modality now; called whenever weights may have been released.

        Args:
            media: modality → what its backbone reads.
        """
        self._network.rests.clear()
        return {modality: self._open(modality, reader) or reader for modality, reader in media.items()}

    def _open(self, modality: str, media: ItemReader) -> ItemReader | None:
        """The rows of a front; None where none is used."""
        backbone: Any = self._network.backbones[modality]
        part = None if modality in self._changed or self._fronts is None else cut(backbone)
        if part is None or self._fronts is None:
            return None
        key = modality, part.released
        if key not in self._opened:
            fits = self._fronts.bytes(backbone, part) <= self._limit
            self._opened[key] = self._fronts.reader(backbone, part, media) if fits else None
        found = self._opened[key]
        if found is not None:
            self._network.rests[modality] = part.rest
        return found
