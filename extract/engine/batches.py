"""Group the items of trials into batches: filled across trials, the last one padded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.corpus.manifest import Trial
from cache.store.locks import Claim
from extract.inputs.alignment import Alignment
from extract.inputs.contract import Source


@dataclass
class Run:
    """A trial on its way through the engine.

    Attributes:
        alignment: the rows that each frame uses.
        found: (R, D) rows of its items, in the stored dtype, or in float32 where frames are means of several.
    """

    trial: Trial
    source: Source
    digest: str
    alignment: Alignment
    found: NDArray[Any]
    claim: Claim


class Piece(NamedTuple):
    """Some items of one trial; an empty piece marks the end of a trial."""

    run: Run
    items: NDArray[np.int64]
    inputs: Future[NDArray[Any]] | None


class Batch(NamedTuple):
    """Items that are computed together, the trials that end with them, and whether these must be finished immediately."""

    pieces: list[Piece]
    ended: list[Run]
    flush: bool


def cut_batches(pieces: Iterable[Piece | None], batch_size: int, across: bool) -> Iterator[Batch]:
    """Group pieces into batches, in order; the last batch flushes.

    Args:
        pieces: none of them crosses the end of a batch; None when everything before must be finished immediately.
        batch_size: items of a full batch.
        across: whether a batch may contain items of several trials.
    """
    batch = Batch([], [], False)
    room = batch_size
    for piece in pieces:
        full = piece is None
        if piece is not None and piece.inputs is not None:
            batch.pieces.append(piece)
            room -= len(piece.items)
            full = room == 0
        elif piece is not None:
            batch.ended.append(piece.run)
            full = not across
        if full:
            yield batch._replace(flush=piece is None)
            batch = Batch([], [], False)
            room = batch_size
    yield batch._replace(flush=True)


def join_inputs(inputs: Sequence[NDArray[Any]], batch_size: int) -> NDArray[Any]:
    """Join inputs (N, …) of several pieces into one batch, padded to `batch_size` items with copies of the last one."""
    missing = batch_size - sum(map(len, inputs))
    if missing > 0:
        inputs = [*inputs, np.repeat(inputs[-1][-1:], missing, axis=0)]
    return inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
