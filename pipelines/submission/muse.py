"""Predictions in the form of MuSe's labels: a folder per target with one file per subject, to be packed and handed in.

    TARGET/SUBJECT.csv    timestamp (milliseconds), value

One row per tick of the subject's label clock, those without a label included [Christ2022MuSe].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest, Trial
from cache.documents.documents import write_file
from cache.errors import CorpusError
from cache.targets import Target
from extract.corpora.reading import read_csv
from pipelines.submission.faults import Faults, find_fault

HEADER = ("timestamp", "value")


def choose_trials(manifest: Manifest, partition: str) -> list[str]:
    """The trials of a partition.

    Raises:
        CorpusError: if there is none.
    """
    found = [trial.id for trial in manifest.trials if trial.partition == partition]
    if not found:
        raise CorpusError(f"The corpus has no trial in partition '{partition}'. Choose another one with --partition.")
    return found


def write(folder: Path, predictions: Mapping[str, NDArray[np.float32]], manifest: Manifest) -> dict[str, int]:
    """Write the files, each atomically.

    Args:
        folder: with the folders of targets.
        predictions: trial → (T, C) in the order of the corpus's targets, nan where a target was not predicted; clipped to the
            ranges of the targets.
        manifest: the corpus.

    Returns:
        Numbers of files and rows, and of values that were clipped.
    """
    counts = {"files": 0, "rows": 0, "clipped": 0}
    for trial_id, values in predictions.items():
        stamps = _stamps(manifest.trial(trial_id))
        for target, column in zip(manifest.targets, values.T, strict=True):
            if np.isnan(column).all():
                continue
            inside = np.clip(column, target.low, target.high)
            rows = (f"{stamp},{value:.6f}\n" for stamp, value in zip(stamps, inside.tolist(), strict=True))
            write_file(folder / target.name / f"{trial_id}.csv", (",".join(HEADER) + "\n" + "".join(rows)).encode())
            counts["files"] += 1
            counts["rows"] += len(column)
            counts["clipped"] += int((inside != column).sum())
    return counts


def check(folder: Path, trial_ids: Sequence[str], manifest: Manifest) -> int:
    """Check files of predictions against the label clocks of some trials, whoever wrote them; returns the number of files.

    Raises:
        CorpusError: if there is none, or one is missing or wrong, with its faults line by line.
    """
    targets = [target for target in manifest.targets if (folder / target.name).is_dir()]
    if not targets:
        names = " or ".join(f"'{target.name}'" for target in manifest.targets)
        raise CorpusError(f"'{folder}' has no folder {names}, expected at least one. Name the folder above them.")
    for target in targets:
        wanted = {f"{trial_id}.csv" for trial_id in trial_ids}
        found = {path.name for path in (folder / target.name).glob("*.csv")}
        for what, files in (("lacks", wanted - found), ("must not have", found - wanted)):
            if files:
                raise CorpusError(
                    f"'{folder / target.name}' {what} {len(files)} files (first: '{min(files)}'), expected one for each of {len(wanted)} "
                    "trials. Write it again, e.g. with 'avfusion submit muse'."
                )
        for trial_id in trial_ids:
            _check_file(folder / target.name / f"{trial_id}.csv", manifest.trial(trial_id), target)
    return len(targets) * len(trial_ids)


def _check_file(path: Path, trial: Trial, target: Target) -> None:
    header, *rows = [cells for cells in read_csv(path) if cells] or [[]]
    stamps = _stamps(trial)
    faults = Faults(path)
    if tuple(header) != HEADER:
        faults.add(1, f"'{','.join(header)[:60]}', expected '{','.join(HEADER)}'")
    if len(rows) != len(stamps):
        faults.add(len(rows) + 1, f"is the last of {len(rows)} rows, expected {len(stamps)}")
    for number, (cells, stamp) in enumerate(zip(rows, stamps, strict=False), start=2):
        if len(cells) != len(HEADER):
            faults.add(number, f"{len(cells)} cells, expected {len(HEADER)}")
            continue
        for text in (find_fault(cells[0], stamp - 1, stamp + 1), find_fault(cells[1], target.low, target.high)):
            if text:
                faults.add(number, text)
    faults.refuse("Write it again, e.g. with 'avfusion submit muse'.")


def _stamps(trial: Trial) -> list[int]:
    """Start of each frame in whole milliseconds."""
    return [round(1000 * seconds) for seconds in trial.clock.times_s().tolist()]
