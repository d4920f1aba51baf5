"""Predictions in the form of MuSe's labels: a folder per target with one file per subject, to be packed and handed in.

    TARGET/SUBJECT.csv    timestamp (milliseconds), value

One row per tick of the subject's label clock, those without a label included [Christ2022MuSe].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest, Trial
from cache.documents.documents import write_file
from cache.errors import CorpusError, StoreError
from cache.targets import Target
from pipelines.submission.faults import Faults, check_above, find_fault, read_lines

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


def check_out(folder: Path, manifest: Manifest) -> None:
    """Check that the folder can be written into, and holds nothing but folders of targets.

    Raises:
        StoreError: if it holds anything else or the labels of the corpus, or it or a folder above it is a file.
    """
    check_above(folder / manifest.names[0])
    if not folder.exists():
        return
    if folder.resolve() == (manifest.root / "label_segments").resolve():
        raise StoreError(f"'{folder}' holds the labels of the corpus. Name another folder with --out.")
    other = sorted(path.name for path in folder.iterdir() if path.name not in manifest.names or not path.is_dir())
    if other:
        raise StoreError(
            f"'{folder}' holds '{other[0]}', expected only folders of the targets {', '.join(manifest.names)}, or none. Name an "
            "empty or a new folder with --out."
        )


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
        CorpusError: if there is no such folder or none of a target in it, or with the faults of all files, line by line.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise CorpusError(f"'{folder}' {what}, expected a folder with a folder of each target. Check the path.")
    if not any((folder / name).is_dir() for name in manifest.names):
        names = " or ".join(f"'{name}'" for name in manifest.names)
        raise CorpusError(f"'{folder}' has no folder {names}, expected at least one. Name the folder above them.")
    faults = Faults(folder)
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in manifest.names:
            faults.add(0, f"is no target, expected folders {', '.join(manifest.names)}", path.name)
    for target in manifest.targets:
        if (folder / target.name).is_dir():
            _check_target(folder / target.name, trial_ids, manifest, target, faults)
        else:
            faults.add(0, "is missing, expected a folder for each target of the corpus", target.name)
    faults.refuse("Write them again, e.g. with 'avfusion submit muse'.")
    return len(manifest.targets) * len(trial_ids)


def _check_target(folder: Path, trial_ids: Sequence[str], manifest: Manifest, target: Target, faults: Faults) -> None:
    found = {path.name for path in folder.glob("*.csv")}
    for name in sorted(found - {f"{trial_id}.csv" for trial_id in trial_ids}):
        faults.add(
            0, f"must not be there, expected one file for each of {len(trial_ids)} trials", f"{target.name}/{name}"
        )
    for trial_id in trial_ids:
        file = f"{target.name}/{trial_id}.csv"
        if f"{trial_id}.csv" not in found:
            faults.add(0, f"is missing, expected one file for each of {len(trial_ids)} trials", file)
            continue
        try:
            header, rows = read_lines(folder / f"{trial_id}.csv")
        except CorpusError as error:
            faults.add(0, str(error), file)
            continue
        if tuple(header) != HEADER:
            faults.add(1, f"'{','.join(header)[:60]}', expected '{','.join(HEADER)}'", file)
        for line, text in _find_faults(rows, _stamps(manifest.trial(trial_id)), target):
            faults.add(line, text, file)


def _find_faults(
    rows: Sequence[tuple[int, list[str]]], stamps: Sequence[int], target: Target
) -> Iterator[tuple[int, str]]:
    """Line and text of each fault; if rows are too few or too many, only of the first wrong timestamp, which moves the others."""
    if len(rows) != len(stamps):
        yield rows[-1][0] if rows else 1, f"is the last of {len(rows)} rows, expected {len(stamps)}"
    moved = False
    for place, (line, cells) in enumerate(rows):
        if len(cells) != len(HEADER):
            yield line, f"{len(cells)} cells, expected {len(HEADER)}"
            continue
        if place < len(stamps) and not moved:
            text = find_fault(cells[0], stamps[place] - 1, stamps[place] + 1)
            if text:
                yield line, text
            moved = bool(text) and len(rows) != len(stamps)
        if text := find_fault(cells[1], target.low, target.high):
            yield line, text


def _stamps(trial: Trial) -> list[int]:
    """Start of each frame in whole milliseconds."""
    return [round(1000 * seconds) for seconds in trial.clock.times_s().tolist()]
