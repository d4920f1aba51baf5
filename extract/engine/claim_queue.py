"""The claim queue: several processes share the same trials, each working on those that no other process holds.

The claims are the scheduler. Crops, embeddings and transcripts are all made through this loop; to share the work, start
the same command again, here or on another machine that sees the folder. Claims of a killed process become free, and the
next process takes those trials.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TypeVar

from cache.errors import AvFusionError, StoreError, counted, plain_error
from cache.names import encode_trial_id
from cache.places.folders import Where
from cache.store.locks import Claim, claim, holder, wait_for_any
from extract.engine.outcome import Outcome

T = TypeVar("T")

PATIENCE_S = 3600.0
"""How long to wait for the trials of other processes while none of them becomes free."""


class Turn(Enum):
    """Why this process does not get a trial: it is finished, or another process works on it."""

    FINISHED = "finished"
    BUSY = "busy"


@dataclass(frozen=True)
class ClaimQueue:
    """The trials of one run.

    Attributes:
        store: holds the claims that divide the work.
        outcome: collects what is kept and what fails.
        what: name of what is made, such as "crops".
        advance: called with the id of each trial that is finished, and whether it was so already.
        lock: returns the name of a trial's claim.
        waits: whether to wait for trials that other processes hold; else they are left out.
    """

    store: Where
    outcome: Outcome
    what: str
    advance: Callable[[str, bool], None] = lambda trial_id, was_finished: None
    lock: Callable[[str], str] = encode_trial_id
    waits: bool = True

    def take(self, trial_id: str, is_finished: Callable[[], bool]) -> Claim | Turn:
        """Claim a trial unless it is finished, even if another process finished it just before the claim."""
        if is_finished():
            return Turn.FINISHED
        claimed = claim(self.store, self.lock(trial_id))
        if claimed is None:
            return Turn.BUSY
        try:
            if not is_finished():
                return claimed
        except BaseException:
            claimed.release()
            raise
        claimed.release()
        return Turn.FINISHED

    def share(
        self, trial_ids: Sequence[str], attempt: Callable[[str], T | Turn], readers: Executor | None = None
    ) -> Iterator[T | None]:
        """Work through the trials in order; those that other processes hold are tried again when they become free.

        Args:
            trial_ids: trials to finish.
            attempt: takes a trial; an error fails that trial, except a StoreError, which ends the run.
            readers: calls `attempt` for the next trial while the caller works on the current one.

        Yields:
            What `attempt` returned; None when everything taken so far must be finished before waiting.

        Raises:
            StoreError: if the store cannot be written.
        """
        left = list(trial_ids)
        busy: list[str] = []
        has_waited = False
        while left:
            for trial_id, taken in _attempts(left, attempt, readers):
                try:
                    found = taken()
                except StoreError:
                    raise
                except Exception as error:  # from any library
                    self.outcome.failures[trial_id] = plain_error(error)
                    continue
                if found is Turn.FINISHED:
                    self.outcome.kept.append(trial_id)
                    self.advance(trial_id, True)
                elif found is Turn.BUSY:
                    busy.append(trial_id)
                else:
                    yield found
            left = []
            if busy and self.waits:
                yield None
                if not has_waited:
                    self._tell_wait(busy)
                has_waited = True
                left = self._wait(busy)
                busy = [trial_id for trial_id in busy if trial_id not in left]

    def work(self, trial_ids: Sequence[str], is_finished: Callable[[str], bool], make: Callable[[str], None]) -> None:
        """Make the unfinished trials, one after the other.

        Raises:
            StoreError: if the store cannot be written.
            OSError: if a result cannot be written, because the next ones could not either.
        """

        def attempt(trial_id: str) -> tuple[str, Claim] | Turn:
            taken = self.take(trial_id, partial(is_finished, trial_id))
            return taken if isinstance(taken, Turn) else (trial_id, taken)

        for taken in self.share(trial_ids, attempt):
            if taken is None:
                continue
            trial_id, claimed = taken
            with claimed:
                try:
                    make(trial_id)
                except Exception as error:
                    if isinstance(error, OSError) and not isinstance(error, AvFusionError):
                        raise
                    self.outcome.failures[trial_id] = plain_error(error)
                else:
                    self.outcome.computed.append(trial_id)
            self.advance(trial_id, False)

    def _tell_wait(self, busy: Sequence[str]) -> None:
        """Say once what this process waits for: others may hold many trials, one after the other."""
        who = self._holder(busy[0]) or "just given back"
        warnings.warn(
            f"Waiting for the {self.what} of {counted(len(busy), 'trial')} of another process; '{busy[0]}' is {who}.",
            stacklevel=3,
        )

    def _wait(self, busy: Sequence[str]) -> list[str]:
        """Wait until another process finishes or releases some trials; if patience ends first, all fail and none is returned."""
        names = {self.lock(trial_id): trial_id for trial_id in busy}
        free = wait_for_any(self.store, list(names), PATIENCE_S)
        if free:
            return [names[name] for name in free]
        self.outcome.failures |= {
            trial_id: f"Trial '{trial_id}' is {self._holder(trial_id) or 'still taken'}. Then run again."
            for trial_id in busy
        }
        return []

    def _holder(self, trial_id: str) -> str:
        return holder(self.store, self.lock(trial_id))


def _attempts(
    trial_ids: Sequence[str], attempt: Callable[[str], T], readers: Executor | None
) -> Iterator[tuple[str, Callable[[], T]]]:
    """Pair each trial with a function that returns or raises its attempt's result; with readers, one attempt ahead."""
    if readers is None:
        yield from ((trial_id, partial(attempt, trial_id)) for trial_id in trial_ids)
        return
    ahead: deque[tuple[str, Future[T]]] = deque()
    for trial_id in trial_ids:
        ahead.append((trial_id, readers.submit(attempt, trial_id)))
        if len(ahead) > 1:
            done, future = ahead.popleft()
            yield done, future.result
    yield from ((trial_id, future.result) for trial_id, future in ahead)
