"""Training batches of an end-to-end model: windows of a bank, with what the trained backbones read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fusion.bank.batches import Batch, Batches
from fusion.bank.counted_padding import count_padding
from fusion.layers.padding import inside_of
from pipelines.endtoend.items import ItemReader, Items
from pipelines.endtoend.network import MixedInputs

Augment = Callable[[Tensor, Tensor], Tensor]
"""Items (N, …) and the number of the window (N,) that each belongs to → items, changed at random."""


@dataclass(frozen=True, eq=False)
class ItemBatch(Batch):
    """A batch of windows, with the items of the modalities whose backbones are trained."""

    items: dict[str, Items] = field(default_factory=dict)

    @property
    def inputs(self) -> MixedInputs:  # type: ignore[override]
        """The part that the model sees."""
        return MixedInputs(super().inputs, self.items)


class ItemBatches:
    """Training windows in random order; the items of the next batch are read while one is computed.

    Args:
        batches: the windows.
        open_readers: called before each epoch; returns modality → what its backbone reads.
        augment: modality → random changes of its items; modalities that are not named stay as they are.
        seed: of orders and random changes; the batches of an epoch depend on it and on the number of the epoch only.
        limit: windows of an epoch at most, drawn at random; 0 for all.
        order: seed of one order for all epochs, whose first `limit` windows are used; by default each epoch draws its own.
        padding: modality → (D,) of the cached ones if padding counts as input, see `fusion.bank.counted_padding`; that of
            the trained ones is zero.
        threads: that read and decode.
    """

    def __init__(
        self,
        batches: Batches,
        open_readers: Callable[[], Mapping[str, ItemReader]],
        augment: Mapping[str, Augment],
        seed: int,
        limit: int = 0,
        order: int | None = None,
        padding: Mapping[str, Tensor] | None = None,
        threads: int = 2,
    ) -> None:
        self._batches, self._open_readers, self._augment = batches, open_readers, augment
        self._readers: Mapping[str, ItemReader] = {}
        self._seed, self._order, self._padding, self._threads = seed, order, padding, threads
        self._count = min(limit or len(batches.windows), len(batches.windows))
        self._next = 0

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-self._count // self._batches.batch_size)

    @property
    def epoch(self) -> int:
        """The epoch of the pass that began last."""
        return self._next - 1

    def start_at(self, epoch: int) -> None:
        """Let the next pass be that of an epoch."""
        self._next = epoch

    def __iter__(self) -> Iterator[ItemBatch]:
        """One epoch."""
        self._readers = self._open_readers()
        chance = torch.Generator().manual_seed(self._seed * 1_000_003 + self._next)
        self._next += 1
        order = chance if self._order is None else torch.Generator().manual_seed(self._order)
        drawn = torch.randperm(len(self._batches.windows), generator=order)[: self._count]
        chosen = drawn.split(self._batches.batch_size)
        with ThreadPoolExecutor(self._threads) as readers, ThreadPoolExecutor(1) as ahead:
            pending = ahead.submit(self._read, chosen[0], readers)
            for number, windows in enumerate(chosen):
                items = pending.result()
                if number + 1 < len(chosen):
                    pending = ahead.submit(self._read, chosen[number + 1], readers)
                items = self._change(items, int(torch.randint(2**62, (), generator=chance)))
                yield self._join(self._batches.gather(windows), items)

    def _read(self, chosen: Tensor, readers: ThreadPoolExecutor) -> dict[str, Items]:
        bank = self._batches.bank
        chosen_windows = [self._batches.windows[index] for index in chosen.tolist()]
        windows = [(window.trial_id, bank.frames(window.trial_id)[window.rows]) for window in chosen_windows]
        return {
            modality: reader.read(windows, self._batches.length, readers).to(bank.device)
            for modality, reader in self._readers.items()
        }

    def _change(self, items: dict[str, Items], seed: int) -> dict[str, Items]:
        """Random changes, which draw from torch's global generator, without moving it for the network's dropout."""
        if not self._augment:
            return items
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            changed = {
                modality: replace(items[modality], inputs=change(items[modality].inputs, items[modality].windows))
                for modality, change in self._augment.items()
            }
        return {**items, **changed}

    def _join(self, batch: Batch, items: dict[str, Items]) -> ItemBatch:
        inside = inside_of(batch.lengths, batch.mask.shape[1], batch.mask.device)
        if self._padding is not None and inside is not None:
            batch = count_padding(batch, self._padding)
            items = {modality: replace(each, valid=each.valid | ~inside) for modality, each in items.items()}
        return ItemBatch(**vars(batch), items=items)
