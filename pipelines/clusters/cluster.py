"""A Dask cluster: of processes of this machine, or of a scheduler that runs already. One that cannot do the work is refused."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.errors import AvFusionError, SettingError, UnreachableError, counted, list_faults, short_text
from extract.extras import import_extra
from pipelines.clusters.worker import Node, describe
from pipelines.console.console import note, warn
from pipelines.project.params import ClusterParams

_TIMEOUT_S = 15
_RESULT_S = 60  # results are small; a worker that does not hand one over is dead
_LISTED = 3
_CANCELLED = (
    asyncio.CancelledError,
    concurrent.futures.CancelledError,
)  # all that was running, when the scheduler dies
_LOST = (OSError, TimeoutError, RuntimeError, *_CANCELLED)


@dataclass(frozen=True)
class Seat:
    """A place to work: a worker that fits.

    Attributes:
        address: of the worker.
        node: what it says about itself.
        number: of the worker among those of its machine that see the same GPUs.
        threads: of torch.
    """

    address: str
    node: Node
    number: int
    threads: int

    def device(self, wanted: str) -> str:
        """The device to use; a GPU for each where there are several."""
        if wanted in ("auto", "cuda") and self.node.devices:
            return f"cuda:{self.number % self.node.devices}"
        return wanted


@dataclass
class Cluster:
    """A connection to a scheduler, and the workers that fit.

    Attributes:
        client: Dask's.
        address: of the scheduler.
        seats: workers that are there.
    """

    client: Any
    address: str
    seats: list[Seat] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)  # addresses of workers that were asked
    _threads: dict[str, int] = field(
        default_factory=dict
    )  # machine → threads for each worker, the same for a whole run

    def admit(self) -> None:
        """Ask all workers at the beginning.

        Raises:
            SettingError: if there are none, or one does not fit.
        """
        workers = self._workers()
        faults = self._ask(workers) if workers else []
        if faults:
            raise SettingError(
                f"{len(faults)} of {len(workers)} workers of '{self.address}' do not fit: {list_faults(faults, _LISTED)}. "
                "Start them again in the project's folder and with the same installation as here (docs/clusters.md)."
            )
        if not self.seats:
            raise SettingError(
                f"The cluster at '{self.address}' has no workers, so nothing would be done. Start some, on any machine, with "
                f"'dask worker {self.address} --nthreads 1', and run again."
            )

    def look(self) -> None:
        """Notice workers that left, and those that joined if they fit."""
        workers = self._workers()
        self.seats = [seat for seat in self.seats if seat.address in workers]
        self._known &= workers.keys()
        new = {address: info for address, info in workers.items() if address not in self._known}
        if new:
            for fault in self._ask(new):
                warn(f"A worker that joined gets nothing to do: {fault}.")

    def has(self, seat: Seat) -> bool:
        """Whether a worker is still there."""
        return seat in self.seats

    def drop(self, seat: Seat) -> None:
        """Give a worker nothing more: it is gone, or about to; if it is still there later, it is asked again."""
        self.seats = [each for each in self.seats if each != seat]
        self._known.discard(seat.address)

    def submit(self, function: Callable[[Any], Any], task: Any, key: str, address: str) -> Any:
        """Start a task in this worker and in no other; returns its future."""
        with self._reached():
            return self.client.submit(function, task, key=key, workers=[address], allow_other_workers=False, pure=False)

    def result(self, future: Any) -> Any:
        """The result of a task that ended; None if its worker died.

        Raises:
            Exception: what the task raised.
        """
        from distributed.scheduler import KilledWorker

        if future.status == "error":
            with self._reached():
                error = future.exception()
                if isinstance(error, _CANCELLED):
                    raise error
            if isinstance(error, KilledWorker):
                return None
            raise error
        with self._reached(), suppress(TimeoutError):  # a worker that dies takes its results along
            return future.result(timeout=_RESULT_S)
        return None

    def cancel(self, futures: Sequence[Any]) -> None:
        """Cancel tasks that did not begin; a worker ends the one that it works on."""
        if futures:
            with suppress(*_LOST):
                self.client.cancel(list(futures), force=True)

    @contextmanager
    def listen(self, topic: str, hear: Callable[[Any], None]) -> Iterator[None]:
        """Call a function with whatever workers tell about a topic."""
        with self._reached():
            self.client.subscribe_topic(topic, hear)
        try:
            yield
        finally:
            with suppress(*_LOST, ValueError):
                self.client.unsubscribe_topic(topic)

    def _workers(self) -> dict[str, Mapping[str, Any]]:
        with self._reached():
            info = self.client.scheduler_info(n_workers=-1)
            if self.client.status != "running" or "workers" not in info:
                raise ConnectionError("the connection is closed")
            return dict(info["workers"])

    def _ask(self, workers: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Let workers describe themselves; those that fit get a seat, for the others it is said why not."""
        with tempfile.NamedTemporaryFile(prefix=".avfusion-", dir=Path.cwd()) as mark:
            here = describe(mark.name)
            with self._reached():
                answers = self.client.run(describe, mark.name, workers=list(workers), on_error="return")
        answers = {address: answer for address, answer in answers.items() if not isinstance(answer, OSError)}  # died
        self._known |= answers.keys()
        faults = []
        for address, answer in sorted(answers.items()):
            threads = workers[address]["nthreads"]
            fault = _misfit(here, answer, threads)
            if fault:
                faults.append(f"'{address}' {fault}")
                continue
            for name in here.libraries:
                if here.libraries[name] != answer.libraries[name]:
                    warn(
                        f"Worker '{address}' has {name} {answer.libraries[name] or 'not at all'}, here it is "
                        f"{here.libraries[name] or 'absent'}: results may differ in the last bits."
                    )
            self._seat(address, answer, answers)
        return faults

    def _seat(self, address: str, node: Node, answers: Mapping[str, Any]) -> None:
        beside = [seat for seat in self.seats if (seat.node.host, seat.node.visible) == (node.host, node.visible)]
        taken = {seat.number for seat in beside}
        number = next(number for number in range(len(taken) + 1) if number not in taken)
        there = sum(isinstance(answer, Node) and answer.host == node.host for answer in answers.values())
        threads = self._threads.setdefault(node.host, max(1, node.cores // there))
        self.seats.append(Seat(address, node, number, threads))

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Say in a sentence that the scheduler is gone."""
        try:
            yield
        except AvFusionError:
            raise
        except _LOST as error:
            raise UnreachableError(
                f"The scheduler at '{self.address}' was lost ({_text(error)}). What is finished is kept; start it and its workers "
                "again, and run the same command to go on."
            ) from error


def _misfit(here: Node, worker: Any, threads: int) -> str:
    """Why a worker cannot share the work, "" if it can."""
    if not isinstance(worker, Node):
        return f"cannot run this version of avfusion ({short_text(worker)})"
    changed = [folder for folder in here.code if worker.code.get(folder) != here.code[folder]]
    if changed:
        return f"has other code in {', '.join(changed)}"
    if worker.python.split(".")[:2] != here.python.split(".")[:2]:
        return f"runs Python {worker.python}, here it is {here.python}"
    if not worker.sees:
        return f"does not see the folder '{Path.cwd()}'"
    if threads != 1:
        return f"has {threads} threads; expected one, as a process works on one trial after another ('--nthreads 1')"
    return ""


@contextmanager
def open_cluster(where: ClusterParams, device: str = "cpu") -> Iterator[Cluster | None]:
    """Connect to the cluster at an address, or start one on this machine; None if neither is asked for.

    Args:
        where: which cluster.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        SettingError: if Dask is not installed, or a worker does not fit.
        UnreachableError: if there is no scheduler.
    """
    if not where.is_wanted:
        yield None
        return
    distributed = import_extra("distributed", "dask", "--workers, --scheduler or section 'cluster' of params.yaml")
    with ExitStack() as stack:
        for logger in map(logging.getLogger, ("distributed", "distributed.client")):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)  # what matters is said below
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module="distributed")
        address = where.scheduler or stack.enter_context(_start_here(distributed, where.workers, device))
        try:
            client = distributed.Client(address, timeout=_TIMEOUT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UnreachableError(
                f"There is no scheduler at '{address}' ({short_text(error)}). Start one with 'dask scheduler', or correct the address: "
                "tcp://host:8786."
            ) from error
        stack.callback(_close, client)
        cluster = Cluster(client, address)
        cluster.admit()
        shown = client.dashboard_link if "dashboard" in client.scheduler_info(n_workers=0)["services"] else "none"
        note(f"{counted(len(cluster.seats), 'worker')}; dashboard: {shown}")
        yield cluster


@contextmanager
def _start_here(distributed: Any, workers: int, device: str) -> Iterator[str]:
    """A scheduler and workers on this machine, for no other one to reach; yields the address."""
    import torch

    if device in ("auto", "cuda") and torch.cuda.is_available():
        workers = min(workers, torch.cuda.device_count())
    with distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        memory_limit=0,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    ) as local:
        yield local.scheduler_address


def _text(error: BaseException) -> str:
    return short_text(error) if isinstance(error, Exception) else type(error).__name__


def _close(client: Any) -> None:
    with suppress(*_LOST):
        client.close(timeout=5)
