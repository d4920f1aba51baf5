"""The claim queue: what is taken, kept, waited for and given up, alone and among threads."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cache.errors import CorpusError, StoreError
from cache.store.locks import claim
from extract.engine import claim_queue
from extract.engine.claim_queue import ClaimQueue, Turn
from extract.engine.outcome import Outcome

TRIALS = tuple("abcdef")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "made"


@pytest.fixture
def make(store: Path) -> Callable[[str], None]:
    store.mkdir()
    return lambda trial_id: (store / trial_id).write_text("made") and None


def test_what_is_finished_is_kept(store: Path, make: Callable[[str], None]) -> None:
    make("b")
    advanced: dict[str, bool] = {}
    queue = ClaimQueue(store, Outcome(), "letters", advanced.__setitem__)
    queue.work(TRIALS, lambda trial_id: (store / trial_id).exists(), make)
    assert (queue.outcome.computed, queue.outcome.kept, queue.outcome.failures) == (list("acdef"), ["b"], {})
    assert advanced == {name: name == "b" for name in TRIALS}
    assert not list(store.parent.glob(".*.locks"))


def test_a_fault_fails_its_trial_alone(store: Path, make: Callable[[str], None]) -> None:
    def fail(trial_id: str) -> None:
        if trial_id == "b":
            raise ValueError("of a library")
        make(trial_id)

    def is_finished(trial_id: str) -> bool:
        if trial_id == "d":
            raise CorpusError("Trial 'd' has no video. Add it.")
        return False

    queue = ClaimQueue(store, Outcome(), "letters")
    queue.work(TRIALS, is_finished, fail)
    assert queue.outcome.computed == list("acef")
    assert queue.outcome.failures.keys() == {"b", "d"}
    assert "of a library" in queue.outcome.failures["b"]


def test_what_cannot_be_written_ends_the_run_and_gives_the_claim_back(store: Path) -> None:
    def full(trial_id: str) -> None:
        raise OSError(28, "No space left on device")

    queue = ClaimQueue(store, Outcome(), "letters")
    with pytest.raises(OSError, match="No space left"):
        queue.work(TRIALS, lambda trial_id: False, full)
    assert claim(store, "a") is not None
    with pytest.raises(StoreError):
        list(queue.share(TRIALS, lambda trial_id: (_ for _ in ()).throw(StoreError("Full."))))


def test_many_at_once_make_each_trial_once(store: Path, make: Callable[[str], None]) -> None:
    made: list[str] = []
    barrier = threading.Barrier(3)

    def slowly(trial_id: str) -> None:
        made.append(trial_id)
        threading.Event().wait(0.02)
        make(trial_id)

    def run() -> Outcome:
        queue = ClaimQueue(store, Outcome(), "letters")
        barrier.wait()
        queue.work(TRIALS, lambda trial_id: (store / trial_id).exists(), slowly)
        return queue.outcome

    with pytest.warns(UserWarning, match="Waiting for the letters of"), ThreadPoolExecutor(3) as pool:
        outcomes = [future.result() for future in [pool.submit(run) for _ in range(3)]]
    assert sorted(made) == list(TRIALS)
    assert sorted(trial for outcome in outcomes for trial in outcome.computed) == list(TRIALS)
    assert all(sorted(outcome.computed + outcome.kept) == list(TRIALS) for outcome in outcomes)


def test_what_was_begun_is_finished_before_waiting(store: Path) -> None:
    held = claim(store, "b")
    assert held is not None
    queue = ClaimQueue(store, Outcome(), "letters")

    def attempt(trial_id: str) -> str | Turn:
        taken = queue.take(trial_id, lambda: False)
        if isinstance(taken, Turn):
            return taken
        taken.release()
        return trial_id

    def finish(taken: str | None) -> str | None:
        if taken is None:
            held.release()
        return taken

    with pytest.warns(UserWarning, match="'b' is just given back"), ThreadPoolExecutor(1) as readers:
        assert list(map(finish, queue.share("abc", attempt, readers))) == ["a", "c", None, "b"]


def test_waiting_is_said_once(store: Path, make: Callable[[str], None]) -> None:
    """Another process gives its trials back one by one; nothing is to be deleted, as the kernel drops its locks."""
    held = {name: claim(store, name) for name in "bd"}
    advanced: list[str] = []

    def release_next(trial_id: str, was_finished: bool) -> None:
        advanced.append(trial_id)
        if trial_id in "fb":
            claimed = held["b" if trial_id == "f" else "d"]
            assert claimed is not None
            threading.Timer(0.3, claimed.release).start()

    queue = ClaimQueue(store, Outcome(), "letters", release_next)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        queue.work(TRIALS, lambda trial_id: (store / trial_id).exists(), make)
    assert advanced == list("acefbd")
    (said,) = [str(warning.message) for warning in caught]
    assert said.startswith("Waiting for the letters of 2 trials of another process; 'b' is taken by process ")
    assert said.endswith(", and free when that ends.")


def test_patience_ends(store: Path, make: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_queue, "PATIENCE_S", 0.1)
    held = claim(store, "b")
    assert held is not None
    queue = ClaimQueue(store, Outcome(), "letters")
    with held, pytest.warns(UserWarning, match="Waiting for the letters of 1 trial of"):
        queue.work(TRIALS, lambda trial_id: (store / trial_id).exists(), make)
    assert queue.outcome.computed == list("acdef")
    assert "Then run again." in queue.outcome.failures["b"]
