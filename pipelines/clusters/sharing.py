"""Share groups of items among the workers of a cluster, one group at a time for each.

The groups are handed out here rather than by Dask's scheduler, which gives the task of a dead worker to further ones until it gives
up: what a worker held when it died has to be known, so that an item that kills its worker is found and set aside.
"""

from __future__ import annotations

import pickle
import queue
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from cache.errors import UnreachableError, counted, list_faults
from pipelines.clusters.cluster import Cluster, Seat
from pipelines.clusters.groups import Divide, Group, Item, pack, whole
from pipelines.clusters.worker import Runner, Task, work
from pipelines.console.console import progress, warn

PATIENCE_S = 60.0
"""How long to wait for another worker when the last one is gone; a nanny starts one again within seconds."""
_LOOK_S = 1.0  # between two looks at the workers
_LISTED = 5

Advance = Callable[[int, str], None]
Release = Callable[[list[str], Seat], None]
"""Frees what a dead worker had claimed of items of these names."""


@dataclass(frozen=True)
class Shared:
    """What became of the items.

    Attributes:
        by_worker: address of a worker → what the runner returned there.
        set_aside: items, or parts of them, that ended their workers, and why.
    """

    by_worker: dict[str, list[Any]]
    set_aside: list[tuple[Item, str]]

    @property
    def results(self) -> list[Any]:
        """What the runner returned, in no order."""
        return [result for results in self.by_worker.values() for result in results]

    @property
    def failures(self) -> dict[str, str]:
        """Name of an item that was set aside → why."""
        return {item.name: why for item, why in self.set_aside}


def share(
    cluster: Cluster,
    items: Sequence[Item],
    make_runner: Callable[[str], Runner],
    title: str,
    device: str = "cpu",
    release: Release = lambda names, seat: None,
    divide: Divide = whole,
) -> Shared:
    """Work on items in the workers of a cluster, with one progress bar.

    A worker that dies loses at most its group, which is given to the others item by item, and each in its parts. What has no parts and was
    there when two workers died is set aside.

    Args:
        cluster: the cluster.
        items: what to work on.
        make_runner: picklable; called with a device once in each worker, returns the function that works on a group.
        title: of the progress bar.
        device: auto, cpu, cuda or cuda:N; workers of one machine take its GPUs in turn unless a number is given.
        release: called when a worker died.
        divide: cuts an item of which parts may be at fault.

    Raises:
        UnreachableError: if the scheduler or all workers are lost; what is finished is kept.
        AvFusionError: as the runner.
    """
    if not items:
        return Shared({}, [])
    groups = deque(pack(items, len(cluster.seats)))
    with progress(title, sum(item.size for item in items)) as advance:
        sharing = _Sharing(cluster, pickle.dumps(make_runner), device, release, divide, advance, groups)
        try:
            with cluster.listen(sharing.topic, sharing.hear):
                sharing.run()
        finally:
            cluster.cancel([future for future, *_ in sharing.running.values()])
    return Shared(dict(sharing.results), sharing.set_aside)


@dataclass
class _Sharing:
    """The state of `share`."""

    cluster: Cluster
    make_runner: bytes
    device: str
    release: Release
    divide: Divide
    advance: Advance
    left: deque[Group]
    topic: str = field(default_factory=lambda: f"avfusion-{uuid.uuid4().hex}")
    running: dict[str, tuple[Any, Group, Seat]] = field(default_factory=dict)  # key of a task → its future
    shown: dict[str, int] = field(default_factory=dict)  # key of a running task → its progress
    results: defaultdict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    set_aside: list[tuple[Item, str]] = field(default_factory=list)
    ended: queue.Queue[str] = field(default_factory=queue.Queue)
    told: queue.Queue[Mapping[str, Any]] = field(default_factory=queue.Queue)
    count: int = 0

    def hear(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """Take a message of a worker; called in a thread of Dask's."""
        self.told.put(event[1])

    def run(self) -> None:
        """Hand out groups until none is left."""
        looked = alone_since = time.monotonic()
        while self.left or self.running:
            self._hand_out()
            with suppress(queue.Empty):
                self._end(self.ended.get(timeout=_LOOK_S / 4))
            self._show()
            if time.monotonic() - looked > _LOOK_S:
                self.cluster.look()
                looked = time.monotonic()
                for key in [key for key, (*_, seat) in self.running.items() if not self.cluster.has(seat)]:
                    self._lose(key)
            if self.cluster.seats:
                alone_since = time.monotonic()
            elif time.monotonic() - alone_since > PATIENCE_S:
                raise UnreachableError(
                    f"The cluster at '{self.cluster.address}' has had no workers for {PATIENCE_S:g} s. What is finished is kept; "
                    "start workers and run again."
                )

    def _hand_out(self) -> None:
        """Give a group to every worker that has none."""
        busy = {seat.address for *_, seat in self.running.values()}
        for seat in self.cluster.seats:
            if self.left and seat.address not in busy:
                group = self.left.popleft()
                key = f"{self.topic}-{self.count}"
                self.count += 1
                task = Task(
                    key,
                    self.make_runner,
                    [item.content for item in group.items],
                    str(Path.cwd()),
                    seat.device(self.device),
                    seat.threads,
                    self.topic,
                )
                future = self.cluster.submit(work, task, key, seat.address)
                self.running[key] = future, group, seat
                self.shown[key] = 0
                future.add_done_callback(partial(self._note_end, key))

    def _note_end(self, key: str, future: Any) -> None:
        self.ended.put(key)

    def _end(self, key: str) -> None:
        """Take the result of a task."""
        if key not in self.running:
            return
        future, group, seat = self.running[key]
        result = self.cluster.result(future)
        if result is None:
            self._lose(key)
            return
        del self.running[key]
        self.results[seat.address].append(result)
        self.advance(group.size - self.shown.pop(key), "")

    def _lose(self, key: str) -> None:
        """A worker died: give each part of its items to another one, or set aside what killed two."""
        future, group, seat = self.running.pop(key)
        self.cluster.cancel([future])
        self.cluster.drop(seat)
        self.advance(-self.shown.pop(key), "")
        self.release(group.names, seat)
        group = replace(group, deaths=group.deaths + 1)
        names = list_faults(list(map(str, group.items)), _LISTED)
        what = f"Worker '{seat.address}' on '{seat.node.host}' ended while it had {counted(len(group.items), 'trial')} ({names})"
        parts = group.split(self.divide)
        if len(parts) == 1 and parts[0].is_to_blame():
            warn(f"{what} again; it is set aside.")
            why = (
                f"{group.deaths} workers ended while they had it, the last one '{seat.address}' on '{seat.node.host}', perhaps for want of "
                "memory or because of a damaged file; see the log of that worker. Then run again."
            )
            self.set_aside.append((parts[0].items[0], why))
            self.advance(group.size, "")
        else:
            warn(f"{what}; others take over what it did not finish.")
            self.left.extend(parts)
            self.advance(group.size - sum(part.size for part in parts), "")

    def _show(self) -> None:
        with suppress(queue.Empty):
            while True:
                message = self.told.get_nowait()
                if message["key"] in self.shown:
                    self.shown[message["key"]] += message["frames"]
                    self.advance(message["frames"], message["note"])
