"""How the rows of trials become batches: cut where a batch is full, across the borders of trials, and filled up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.locks import Claim
from cache.manifest import Trial
from extract.inputs.contract import Source


@dataclass
class Run:
    """A trial on its way through the engine: `rows` (T,) says which input each frame uses, -1 for none.

    `frames` (N,) counts the frames that use each input; `embeddings` (N, D) are of the dtype that is stored.
    """

    trial: Trial
    source: Source
    digest: str
    rows: NDArray[np.int64]
    frames: NDArray[np.int64]
    embeddings: NDArray[Any]
    claim: Claim


class Piece(NamedTuple):
    """Rows of one trial that are being read; a trial ends with a piece without rows."""

    run: Run
    rows: NDArray[np.int64]
    inputs: Future[NDArray[Any]] | None


class Batch(NamedTuple):
    """What is computed together, the trials that are finished with it, and whether somebody waits for them."""

    pieces: list[Piece]
    ended: list[Run]
    flush: bool


def cut_batches(pieces: Iterable[Piece | None], batch_size: int, across: bool) -> Iterator[Batch]:
    """Pieces in order, cut into batches; the last one flushes.

    Args:
        pieces: none of them reaches over the end of a batch; None where all before must be finished at once.
        batch_size: rows of a full batch.
        across: whether a batch may hold rows of several trials.
    """
    batch, room = Batch([], [], False), batch_size
    for piece in pieces:
        full = piece is None
        if piece is not None and piece.inputs is not None:
            batch.pieces.append(piece)
            room -= len(piece.rows)
            full = room == 0
        elif piece is not None:
            batch.ended.append(piece.run)
            full = not across
        if full:
            yield batch._replace(flush=piece is None)
            batch, room = Batch([], [], False), batch_size
    yield batch._replace(flush=True)


def join_inputs(inputs: Sequence[NDArray[Any]], batch_size: int) -> NDArray[Any]:
    """One batch of several pieces' inputs (N, …), filled up to `batch_size` rows with copies of the last row."""
    missing = batch_size - sum(map(len, inputs))
    if missing > 0:
        inputs = [*inputs, np.repeat(inputs[-1][-1:], missing, axis=0)]
    return inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
