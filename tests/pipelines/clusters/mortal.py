"""A cluster without processes, whose workers die where a test says."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipelines.clusters.cluster import Seat
from pipelines.clusters.worker import Task, describe


class Died(BaseException):
    """Ends the worker that raises it, as SIGKILL would."""


class MortalCluster:
    """Two workers in this process, each of which does what it is given at once; one that dies is there again.

    Attributes:
        deaths: how many died.
    """

    address = "tcp://there:8786"

    def __init__(self) -> None:
        node = describe(__file__)
        self.seats = [Seat(f"tcp://there:{number}", node, number, 1) for number in range(2)]
        self.deaths = 0
        self._hear: Callable[[Any], None] = print

    def submit(self, function: Any, task: Task, key: str, address: str) -> _Done:
        """Work on a task."""

        def told(title: str, frames: int, trial_id: str) -> None:
            self._hear((0.0, {"key": key, "frames": frames, "note": f"{title} {trial_id}"}))

        try:
            return _Done(pickle.loads(task.make_runner)(task.device)(task.items, told))
        except Died:
            self.deaths += 1
            return _Done(None)

    def result(self, future: _Done) -> Any:
        """The result of a task; None if its worker died."""
        return future.found

    @contextmanager
    def listen(self, topic: str, hear: Callable[[Any], None]) -> Iterator[None]:
        """Tell progress."""
        self._hear = hear
        yield

    def has(self, seat: Seat) -> bool:
        """Whether a worker is there."""
        return True

    def look(self) -> None:
        """Nothing: all workers stay."""

    def drop(self, seat: Seat) -> None:
        """Nothing: it comes back."""

    def cancel(self, futures: Sequence[Any]) -> None:
        """Nothing: all are done."""


class _Done:
    """A future of something done."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def add_done_callback(self, call: Callable[[_Done], None]) -> None:
        """Call it."""
        call(self)
