"""The trials of a search as documents, one each: what was tried, how far it went and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cache.documents.documents import Document, Number, read_document, write_document
from cache.errors import SettingError
from pipelines.project import paths

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
_AGAIN = "Remove it and run 'avfusion tune' again: its network is kept, so it is only read."


@dataclass(frozen=True)
class Trial:
    """One trial of a search.

    Attributes:
        stage: of the search.
        number: in the stage, from 0.
        point: parameter → value.
        state: finished; stopped early, which is the run with so many `epochs`; or failed.
        reason: why it failed.
        epochs: of its run: the limit, or those that it was trained if it was stopped.
        epoch: the one that was kept.
        ccc: mean validation CCC of that epoch.
        by_target: target → the same.
        network: digest of its network in `work/networks`.
        seconds: how long it took, without the times in which it waited for the engine.
    """

    stage: str
    number: int
    point: dict[str, Any]
    state: str
    reason: str = ""
    epochs: int = 0
    epoch: int = 0
    ccc: float = -1.0
    by_target: dict[str, float] = field(default_factory=dict)
    network: str = ""
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Its name within the search."""
        return f"{self.stage}-{self.number:04d}"


class _TrialDocument(Document):
    """The same as a document."""

    stage: str
    number: Number
    point: dict[str, Any]
    state: str
    reason: str
    epochs: Number
    epoch: Number
    ccc: float
    by_target: dict[str, float]
    network: str
    seconds: float

    def check(self) -> None:
        """Check the state."""
        if self.state not in (FINISHED, STOPPED, FAILED):
            raise ValueError(f"state: {self.state}")


def folder_of(search: str) -> Path:
    """Folder of a search."""
    return paths.SEARCHES / search


def _place(search: str, stage: str, number: int) -> Path:
    return folder_of(search) / "trials" / f"{stage}-{number:04d}.json"


def keep_trial(search: str, trial: Trial) -> None:
    """Write a trial's document, which ends it."""
    write_document(_place(search, trial.stage, trial.number), _TrialDocument, asdict(trial))


def find_trial(search: str, stage: str, number: int) -> Trial | None:
    """A trial that ended; None if it did not.

    Raises:
        SettingError: if its document is damaged.
    """
    found = read_document(_place(search, stage, number), _TrialDocument, _AGAIN, SettingError)
    return None if found is None else Trial(**{key: value for key, value in found if key != "digest"})


def list_trials(search: str, stage: str) -> list[Trial]:
    """The trials of a stage that ended, by number; errors as of `find_trial`."""
    numbers = (int(path.stem.rpartition("-")[2]) for path in (folder_of(search) / "trials").glob(f"{stage}-*.json"))
    return [trial for number in sorted(numbers) if (trial := find_trial(search, stage, number)) is not None]


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the highest validation CCC, the first of equals; None if all failed."""
    return max((trial for trial in trials if trial.state != FAILED), key=lambda trial: trial.ccc, default=None)
