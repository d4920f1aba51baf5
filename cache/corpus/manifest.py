"""The manifest: every trial of a corpus, its media, its clock and its labels, in one canonical form.

A corpus reader writes it once; after that, no code depends on the corpus's own file formats. On disk it is a folder with
`manifest.json` (readable, sorted by trial, with the digest of the labels) and `labels.npy` (all label rows, trial after
trial). Both depend only on the corpus and on the root as given, so colleagues whose corpora are in folders of the same
name, or below their homes, get the same bytes.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.documents.arrays import format_array, read_array
from cache.documents.documents import (
    ClockPart,
    Document,
    TargetPart,
    damaged,
    digest_bytes,
    read_document,
    write_document,
    write_file,
)
from cache.errors import CorpusError, MissingFileError, counted, list_faults
from cache.names import require_known
from cache.targets import AFFECT, Target, names_of

VERSION = 3  # 2: clocks of varying pictures, digests; 3: targets with kind, unit, range
_REMEDY = "Run 'avfusion corpus build' again (or 'dvc repro -f corpus'); features that still fit are kept."
_LISTED = 10  # faults listed in a message; further ones are only counted
PARTITIONS = ("train", "validation", "test")
_HERE = "<manifest>/"  # prefix of media paths relative to the manifest's folder, e.g. of our own transcripts


@dataclass(frozen=True)
class Trial:
    """One labelled recording of one person.

    Attributes:
        id: unique name.
        subject: group that folds never split (a person; both people of one video).
        partition: "train", "validation", "test", or "" if the corpus has none.
        clock: the label clock.
        media: source kind → path relative to the manifest's media root, in POSIX form. Kinds:
            `video` (a container), `audio` (a container or sound file), `crops` (a folder or zip of
            JPEGs), `words` (a transcript with word times), `face` (a picture of the person).
        labels: (T, C) float32, each column in the range of its target, nan where that target is not annotated; None if the
            trial has no labels.
        face: which face of the video is this trial's: largest, centre, left, right, or reference (the one like
            the picture `face`).
    """

    id: str
    subject: str
    partition: str
    clock: FrameClock
    media: dict[str, str]
    labels: NDArray[np.float32] | None = field(default=None, compare=False)
    face: str = "largest"

    @functools.cached_property
    def labels_digest(self) -> str:
        """Digest of the labels; "" if none of them varies, as those of other trials may be the same then."""
        known = [] if self.labels is None else [column[np.isfinite(column)] for column in self.labels.T]
        varies = any(len(column) and column.min() < column.max() for column in known)
        return digest_bytes(np.asarray(self.labels, "<f4").tobytes()) if varies else ""


class _TrialPart(ClockPart):
    id: str
    subject: str
    partition: str
    media: dict[str, str]
    labelled: bool
    face: str


class _ManifestDocument(Document):
    version: Literal[3]
    root: str
    targets: list[TargetPart]
    labels: str
    trials: list[_TrialPart]

    def check(self) -> None:
        """Check that the manifest has a digest."""
        if not self.digest:
            raise ValueError("digest: absent")


@dataclass(frozen=True)
class Manifest:
    """All trials of a corpus, sorted by id.

    Attributes:
        root: folder that the trials' media paths are relative to; may begin with `~`.
        trials: the trials.
        targets: the label columns.
    """

    root: Path
    trials: tuple[Trial, ...]
    targets: tuple[Target, ...] = AFFECT

    def __post_init__(self) -> None:
        object.__setattr__(self, "trials", tuple(sorted(self.trials, key=lambda trial: trial.id)))
        faults = [
            f"trial id '{name}' occurs {count} times"
            for name, count in Counter(t.id for t in self.trials).items()
            if count > 1
        ]
        faults += [f"target '{n}' is declared {count} times" for n, count in Counter(self.names).items() if count > 1]
        for trial in self.trials:
            shape = (trial.clock.num_frames, len(self.targets))
            if trial.labels is not None and trial.labels.shape != shape:
                faults.append(f"trial '{trial.id}' has labels of shape {trial.labels.shape}, expected {shape}")
            if trial.partition not in (*PARTITIONS, ""):
                faults.append(
                    f"trial '{trial.id}' is in partition '{trial.partition}', expected one of {', '.join(PARTITIONS)}"
                )
        if faults:
            raise CorpusError(
                "The corpus contradicts itself: " + "; ".join(faults) + ". Fix the corpus and read it again."
            )
        self._check_ranges()

    def _check_ranges(self) -> None:
        """Check that labels are in the range that their target declares; otherwise training would silently fail.

        Raises:
            CorpusError: if some are not; the message names trials, frames and labels.
        """
        if faults := find_labels_outside(self.trials, self.targets):
            raise CorpusError(
                f"Labels leave the declared range: {faults}. Declare the range that the labels have "
                "('corpus.settings.targets' of a folder of your own, else the targets of the reader), or correct them."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the targets."""
        return names_of(self.targets)

    def trial(self, trial_id: str) -> Trial:
        """The trial with this id.

        Raises:
            UnknownNameError: if there is none.
        """
        require_known("trial", trial_id, self._by_id)
        return self._by_id[trial_id]

    @functools.cached_property
    def _by_id(self) -> dict[str, Trial]:
        return {trial.id: trial for trial in self.trials}

    def path(self, trial: Trial, kind: str) -> Path:
        """Absolute path of one medium of a trial.

        Raises:
            MissingFileError: if the trial has no such medium.
        """
        if kind not in trial.media:
            raise missing_medium(kind, [trial])
        return Path(os.path.normpath(self.root.expanduser() / trial.media[kind])).resolve()

    def save(self, folder: Path) -> None:
        """Write `manifest.json` and `labels.npy`; a relative root is stored relative to the folder, others unchanged.

        Files are replaced atomically and never modified in place, so hard links to them, such as DVC's, keep their content.
        """
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            trial.labels
            if trial.labels is not None
            else np.full((trial.clock.num_frames, len(self.targets)), np.nan, np.float32)
            for trial in self.trials
        ]
        every = np.concatenate(rows) if rows else np.zeros((0, len(self.targets)), np.float32)
        labels = format_array(every.astype("<f4", copy=False))
        document = {
            "version": VERSION,
            "root": _write_root(self.root, folder),
            "targets": [asdict(target) for target in self.targets],
            "labels": digest_bytes(labels),
            "trials": [_trial_document(trial, self.root, folder) for trial in self.trials],
        }
        write_file(folder / "labels.npy", labels)
        write_document(folder / "manifest.json", _ManifestDocument, document, sort_keys=True)

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read a saved manifest.

        Raises:
            MissingFileError: if there is no manifest in the folder.
            CorpusError: if it is damaged, has another version, or does not match its labels.
        """
        path = folder / "manifest.json"
        labels_path = folder / "labels.npy"
        document = read_document(path, _ManifestDocument, _REMEDY, CorpusError)
        if document is None or not labels_path.is_file():
            raise MissingFileError(
                f"No manifest in '{folder}'. Run 'avfusion corpus build' first (or 'dvc repro corpus')."
            )
        try:
            clocks = [entry.clock for entry in document.trials]
            targets = tuple(part.target for part in document.targets)
        except ValueError as error:
            raise damaged(path, error, _REMEDY, CorpusError) from error
        shape = sum(clock.num_frames for clock in clocks), len(document.targets)
        labels = read_array(labels_path, "<f4", shape, document.labels, _REMEDY, CorpusError)
        root = Path(document.root)
        if document.root.partition("/")[0][:1] != "~":
            root = Path(os.path.normpath(folder / root))
        trials, start = [], 0
        for entry, clock in zip(document.trials, clocks, strict=True):
            stop = start + clock.num_frames
            own = labels[start:stop] if entry.labelled else None
            media = {kind: _read_place(place, root, folder) for kind, place in entry.media.items()}
            trials.append(Trial(entry.id, entry.subject, entry.partition, clock, media, own, entry.face))
            start = stop
        return cls(root, tuple(trials), targets)


def read_target_names(folder: Path) -> tuple[str, ...]:
    """Names of the targets of a saved manifest, without its labels; none if there is no manifest.

    Raises:
        CorpusError: if it is damaged or has another version.
    """
    document = read_document(folder / "manifest.json", _ManifestDocument, _REMEDY, CorpusError)
    return () if document is None else tuple(part.name for part in document.targets)


def find_labels_outside(trials: Iterable[Trial], targets: Sequence[Target]) -> str:
    """Which labels of some trials leave the range that their target declares, with frames and labels; "" if none does.

    A label of nan is none, and lies nowhere.
    """
    faults = []
    for trial in trials:
        for target, column in zip(targets, () if trial.labels is None else trial.labels.T, strict=False):
            frames = np.flatnonzero(target.outside(column))
            if len(frames):
                faults.append(
                    f"trial '{trial.id}' has {counted(len(frames), 'label')} of '{target.name}' outside [{target.low:g}, "
                    f"{target.high:g}], the first is {column[frames[0]]:g} in frame {frames[0]}"
                )
    return list_faults(faults, _LISTED)


def missing_medium(kind: str, trials: Sequence[Trial]) -> MissingFileError:
    """The error of trials without a medium: what they have, and what to do."""
    who = f"Trial '{trials[0].id}' has no" if len(trials) == 1 else f"None of {len(trials)} trials has"
    has = ", ".join(sorted({name for trial in trials for name in trial.media})) or "nothing"
    also = ", run 'avfusion transcribe'," if kind == "words" else ""
    return MissingFileError(
        f"{who} {kind}, only {has}. Add the file{'s' * (len(trials) > 1)} and build the corpus again{also} or leave that modality out."
    )


def _write_root(root: Path, folder: Path) -> str:
    """The media root as stored: absolute only if it was given as such, so it is the same on other machines."""
    if root.as_posix()[:1] == "~":
        return root.as_posix()
    inside = Path(os.path.abspath(root)).is_relative_to(os.path.abspath(folder))
    return Path(os.path.relpath(root, folder)).as_posix() if inside or not root.is_absolute() else root.as_posix()


def _write_place(place: str, root: Path, folder: Path) -> str:
    """The path of a medium as stored: relative to the manifest's folder if the medium lies beside that."""
    path = os.path.abspath(root.expanduser() / place)
    if place.startswith("../") and Path(path).is_relative_to(os.path.abspath(folder.parent)):
        return _HERE + Path(os.path.relpath(path, folder)).as_posix()
    return place


def _read_place(place: str, root: Path, folder: Path) -> str:
    """Inverse of `_write_place`: the path from the root."""
    if not place.startswith(_HERE):
        return place
    return Path(os.path.relpath(folder / place.removeprefix(_HERE), root.expanduser())).as_posix()


def _trial_document(trial: Trial, root: Path, folder: Path) -> dict[str, object]:
    return {
        "id": trial.id,
        "subject": trial.subject,
        "partition": trial.partition,
        **trial.clock.to_document(),
        "media": {kind: _write_place(place, root, folder) for kind, place in trial.media.items()},
        "labelled": trial.labels is not None,
        "face": trial.face,
    }
