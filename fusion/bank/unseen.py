"""Frames that a system does not see, left out before windows are cut, as in the code of [Karas2022].

Windows are then cut from the frames that are left as if they followed one another. At prediction the others take the value
of the last one before them, those at the start the first value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from cache.corpus.folds import Fold
from cache.errors import CorpusError
from fusion.bank.bank import Bank


def find_seen(
    bank: Bank, modalities: Collection[str], trial_ids: Iterable[str], labelled: bool
) -> dict[str, NDArray[np.int64]]:
    """Find the frames of trials that stay.

    Args:
        bank: with labels and valid frames.
        modalities: a frame stays if it is valid in all of these that the bank has.
        trial_ids: the trials.
        labelled: whether it also needs a label, of any target.

    Returns:
        Trial id → its rows in the bank that stay, counted from its first one.

    Raises:
        UnknownNameError: if the bank does not hold a trial.
    """
    stays = bank.labels.isfinite().any(dim=1) | (not labelled)
    for modality in bank.valid.keys() & set(modalities):
        stays = stays & bank.valid[modality]
    found = stays.cpu().numpy()
    return {trial_id: np.flatnonzero(found[bank.span(trial_id)]) for trial_id in trial_ids}


def drop_unseen(bank: Bank, modalities: Collection[str], fold: Fold) -> Bank:
    """The frames of a fold's training and validation trials that are seen and labelled; the same bank if no modality is named.

    Raises:
        CorpusError: if no training trial has any.
    """
    if not modalities:
        return bank
    left = bank.keep(find_seen(bank, modalities, [*fold.train, *fold.validate], labelled=True))
    if not any(left.lengths[trial_id] for trial_id in fold.train):
        raise CorpusError(
            f"None of {len(fold.train)} training trials has a labelled frame that is valid in {', '.join(modalities)}. Check the "
            "extraction, or change 'drop_unseen'."
        )
    return left


def repeat_last(values: NDArray[np.float32], frames: NDArray[np.int64], num_frames: int) -> NDArray[np.float32]:
    """Give every frame the value of the last one that was seen, or of the first one before that.

    >>> repeat_last(np.array([5.0, 7.0], np.float32), np.array([1, 3]), 5).tolist()
    [5.0, 5.0, 5.0, 7.0, 7.0]

    Args:
        values: (N, …) of the frames that were seen, N ≥ 1.
        frames: (N,) which ones, ascending.
        num_frames: T.

    Returns:
        (T, …).
    """
    return values[np.searchsorted(frames, np.arange(num_frames), side="right").clip(min=1) - 1]
