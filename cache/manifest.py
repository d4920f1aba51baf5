"""The manifest: every trial of a corpus, its media, its clock and its labels, in one canonical form.

A corpus reader writes it once; from there on no code knows the corpus's own file formats. On disk it
is a folder with `manifest.json` (readable, sorted by trial) and `labels.npy` (all label rows, trial
after trial), both a pure function of the corpus.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.errors import CorpusError, MissingFileError
from cache.names import require_known

VERSION = 2  # 2: clocks of varying pictures, and rates by the pictures' intervals
PARTITIONS = ("train", "validation", "test")


@dataclass(frozen=True)
class Trial:
    """One labelled recording of one person.

    Attributes:
        id: unique name.
        subject: group that folds never split (a person; both people of one video).
        partition: "train", "validation", "test", or "" where the corpus has none.
        clock: the label clock.
        media: source kind → path relative to the manifest's media root, in POSIX form. Kinds:
            `video` (a container), `audio` (a container or sound file), `crops` (a folder or zip of
            JPEGs), `words` (a transcript with word times), `face` (a picture of the person).
        labels: (T, C) float32 in [-1, 1], nan where not annotated; None where a trial has no labels.
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


@dataclass(frozen=True)
class Manifest:
    """All trials of a corpus, sorted by id.

    Attributes:
        root: folder that the trials' media paths start from.
        trials: the trials.
        targets: names of the label columns.
    """

    root: Path
    trials: tuple[Trial, ...]
    targets: tuple[str, ...] = ("valence", "arousal")

    def __post_init__(self) -> None:
        object.__setattr__(self, "trials", tuple(sorted(self.trials, key=lambda trial: trial.id)))
        faults = [
            f"trial id '{name}' occurs {count} times"
            for name, count in Counter(t.id for t in self.trials).items()
            if count > 1
        ]
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
                "The corpus contradicts itself: " + "; ".join(faults) + ". Mend the corpus and read it again."
            )

    def trial(self, trial_id: str) -> Trial:
        """The trial of this id.

        Raises:
            UnknownNameError: if there is none.
        """
        require_known("trial", trial_id, (trial.id for trial in self.trials))
        return next(trial for trial in self.trials if trial.id == trial_id)

    def path(self, trial: Trial, kind: str) -> Path:
        """Absolute path of one medium of a trial.

        Raises:
            MissingFileError: if the trial has no such medium.
        """
        if kind not in trial.media:
            how = "Add the file and build the corpus again" + (
                ", run 'avfusion transcribe'," if kind == "words" else ""
            )
            raise MissingFileError(
                f"Trial '{trial.id}' has no {kind}, only {', '.join(sorted(trial.media)) or 'nothing'}. {how} or leave that "
                "modality out."
            )
        return (self.root / trial.media[kind]).resolve()

    def save(self, folder: Path) -> None:
        """Write `manifest.json` and `labels.npy`; the media root is stored relative to the folder where it lies inside."""
        folder.mkdir(parents=True, exist_ok=True)
        root, home = self.root.resolve(), folder.resolve()
        rows = [
            trial.labels
            if trial.labels is not None
            else np.full((trial.clock.num_frames, len(self.targets)), np.nan, np.float32)
            for trial in self.trials
        ]
        np.save(folder / "labels.npy", np.concatenate(rows) if rows else np.zeros((0, len(self.targets)), np.float32))
        document = {
            "version": VERSION,
            "root": root.relative_to(home).as_posix() if root.is_relative_to(home) else root.as_posix(),
            "targets": list(self.targets),
            "trials": [_trial_document(trial) for trial in self.trials],
        }
        (folder / "manifest.json").write_text(
            json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read what `save` wrote.

        Raises:
            MissingFileError: if the folder holds no manifest.
            CorpusError: if it is damaged, of another version, or its labels do not fit.
        """
        path = folder / "manifest.json"
        if not path.is_file() or not (folder / "labels.npy").is_file():
            raise MissingFileError(
                f"No manifest in '{folder}'. Run 'avfusion corpus build' first (or 'dvc repro corpus')."
            )
        try:
            return cls._parse(folder, json.loads(path.read_text(encoding="utf-8")), np.load(folder / "labels.npy"))
        except CorpusError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, EOFError, ArithmeticError) as error:
            what = f"'{error.args[0]}' is absent" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise CorpusError(
                f"The manifest in '{folder}' is damaged ({what}). Run 'avfusion corpus build' again (or 'dvc repro -f corpus')."
            ) from error

    @classmethod
    def _parse(cls, folder: Path, document: dict[str, Any], labels: NDArray[np.float32]) -> Manifest:
        if document.get("version") != VERSION:
            raise CorpusError(
                f"Manifest '{folder / 'manifest.json'}' has version {document.get('version')}, expected {VERSION}. Run "
                "'avfusion corpus build' again (or 'dvc repro'); features that still fit are kept."
            )
        if labels.dtype != np.float32:
            raise TypeError(f"labels.npy holds {labels.dtype}, expected float32")
        total = sum(entry["num_frames"] for entry in document["trials"])
        if total != len(labels):
            raise CorpusError(
                f"'{folder / 'labels.npy'}' has {len(labels)} rows, expected {total}. Run 'dvc repro corpus' again."
            )
        trials, start = [], 0
        for entry in document["trials"]:
            stop = start + entry["num_frames"]
            trials.append(_trial_from_document(entry, labels[start:stop]))
            start = stop
        return cls(folder / document["root"], tuple(trials), tuple(document["targets"]))


def _trial_document(trial: Trial) -> dict[str, object]:
    return {
        "id": trial.id,
        "subject": trial.subject,
        "partition": trial.partition,
        **trial.clock.to_document(),
        "media": trial.media,
        "labelled": trial.labels is not None,
        "face": trial.face,
    }


def _trial_from_document(entry: dict[str, Any], labels: NDArray[np.float32]) -> Trial:
    texts = (entry["id"], entry["subject"], entry["partition"], entry["face"], *entry["media"].values())
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"trial {entry['id']!r} has a name that is no text")
    clock = FrameClock.from_document(entry)
    return Trial(
        entry["id"],
        entry["subject"],
        entry["partition"],
        clock,
        entry["media"],
        labels if entry["labelled"] else None,
        entry["face"],
    )
