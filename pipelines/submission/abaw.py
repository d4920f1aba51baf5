"""The file of ABAW's valence-arousal challenge: one row per frame of the organisers' sample, in its order.

    image_location,valence,arousal
    video59_right/00001.jpg,0.123456,-0.5
    …

`<trial>/<number>.jpg` names a frame: number 1 is frame 0 of the trial. Frames after the last one that was decoded repeat its
prediction, as the published code does. [Kollias2019]
"""

from __future__ import annotations

import filecmp
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest
from cache.documents.documents import write_file
from cache.errors import CorpusError, SettingError, StoreError, counted, list_faults
from cache.settings import expected_one_of
from cache.targets import AFFECT, names_of
from pipelines.submission.faults import Faults, check_above, find_fault, read_lines

HEADER = ("image_location", *names_of(AFFECT))
_NAMED = 3  # missing rows, trials with rows beyond their end
_LOCATION = re.compile(r"(?P<trial>.+)/(?P<number>\d+)\.\w+")


@dataclass(frozen=True, eq=False)
class Sample:
    """The frames that the organisers ask for.

    Attributes:
        locations: first column, row by row.
        trials: trial of each row.
        frames: (N,) int64 frame of each row, from 0.
        lines: line of each row.
    """

    locations: list[str]
    trials: list[str]
    frames: NDArray[np.int64]
    lines: list[int]

    def trial_ids(self) -> list[str]:
        """The trials, in order of first appearance."""
        return list(dict.fromkeys(self.trials))


def read_sample(path: Path) -> Sample:
    """Read the organisers' sample; its values do not matter, nor whether there are any.

    Raises:
        CorpusError: if there is no such file, or it is no sample of this challenge, with the faulty lines, or has no rows.
    """
    header, rows = read_lines(path)
    if tuple(header) not in (HEADER, HEADER[:1]):
        raise CorpusError(
            f"'{path}' starts with '{','.join(header)[:60]}', expected '{','.join(HEADER)}' or '{HEADER[0]}' alone. Name the "
            "organisers' sample of the valence-arousal challenge."
        )
    if not rows:
        raise CorpusError(f"'{path}' has no rows, expected one for each frame. Ask for the sample again.")
    faults = Faults(path)
    locations, trials, frames = [], [], []
    seen: dict[str, int] = {}
    for number, (location, *_) in rows:
        match = _LOCATION.fullmatch(location)
        if not match or int(match["number"]) < 1:
            faults.add(number, f"'{location[:60]}', expected TRIAL/00001.jpg or a later number")
        elif location in seen:
            faults.add(number, f"'{location}' stands in line {seen[location]} already")
        else:
            seen[location] = number
            locations.append(location)
            trials.append(match["trial"])
            frames.append(int(match["number"]) - 1)
    faults.refuse("Ask for the sample again.")
    return Sample(locations, trials, np.array(frames, np.int64), list(seen.values()))


def check_trials(sample: Sample, manifest: Manifest, path: Path) -> None:
    """Check that the corpus has the trials of a sample, and valence and arousal.

    Raises:
        CorpusError: if it has not.
    """
    lacking = [name for name in HEADER[1:] if name not in manifest.names]
    if lacking:
        raise CorpusError(
            f"The corpus has no target {' and '.join(lacking)}, which '{path}' asks for. Submit predictions of a corpus with both."
        )
    known = {trial.id for trial in manifest.trials}
    absent = [trial_id for trial_id in sample.trial_ids() if trial_id not in known]
    if absent:
        raise CorpusError(
            f"'{path}' asks for {len(absent)} of {len(sample.trial_ids())} trials that the corpus does not have (first: '{absent[0]}', "
            f"{expected_one_of(absent[0], sorted(known)) if len(known) < 20 else f'among {len(known)} others'}). Put their "
            "videos or crops where corpus.root is, with the organisers' list of the test set, and run 'dvc repro' or the commands again."
        )


def say_repeated(sample: Sample, manifest: Manifest) -> str:
    """Which rows of a sample are after the last frame of their trial, by trial and first line; "" if none is."""
    beyond: dict[str, list[int]] = {}
    for trial_id, frame, line in zip(sample.trials, sample.frames.tolist(), sample.lines, strict=True):
        if frame >= manifest.trial(trial_id).clock.num_frames:
            beyond.setdefault(trial_id, []).append(line)
    if not beyond:
        return ""
    listed = [
        f"{counted(len(lines), 'row')} of '{trial_id}', which has {counted(manifest.trial(trial_id).clock.num_frames, 'frame')}, from line "
        f"{lines[0]}"
        for trial_id, lines in beyond.items()
    ]
    count = sum(map(len, beyond.values()))
    return (
        f"{counted(count, 'row')} of the sample {'is' if count == 1 else 'are'} after the last frame of the trial and "
        f"{'repeats' if count == 1 else 'repeat'} its prediction: {list_faults(listed, _NAMED)}."
    )


def refuse_sample(path: Path, sample: Path) -> None:
    """Check that a file to be handed in is not the sample as it was handed out.

    Raises:
        CorpusError: if it is.
    """
    if path.is_file() and filecmp.cmp(path, sample, shallow=False):
        raise CorpusError(
            f"'{path}' is the organisers' sample as it was handed out, without predictions. Check the file that 'avfusion submit abaw "
            "--runs' writes."
        )


def check_out(path: Path, sample: Path) -> None:
    """Check that the file can be written, and replaces nothing but an earlier one.

    Args:
        path: of the file.
        sample: path of the sample.

    Raises:
        StoreError: if a folder, a file of another kind, or the sample itself is there, or a folder above it is a file.
    """
    check_above(path)
    if not path.exists():
        return
    if path.is_dir():
        raise StoreError(f"'{path}' is a folder, expected a file. Name a file in it with --out.")
    if path.samefile(sample):
        raise StoreError(f"'{path}' is the sample itself and would be replaced. Name another file with --out.")
    header = ",".join(HEADER).encode()
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(header) + 1).rstrip() == header:
                return
    raise StoreError(
        f"'{path}' does not start with '{','.join(HEADER)}' as earlier predictions would, and would be replaced. Name another "
        "file with --out, or remove this one."
    )


def write(
    path: Path, sample: Sample, predictions: Mapping[str, NDArray[np.float32]], manifest: Manifest
) -> dict[str, int]:
    """Write the file, atomically.

    Args:
        path: of the file.
        sample: rows and their order.
        predictions: trial → (T, C) in the order of the corpus's targets; clipped to [-1, 1].
        manifest: the corpus.

    Returns:
        Numbers of rows and trials, of rows repeated after the last frame of a trial, and of values that were clipped.

    Raises:
        SettingError: if no network predicts one of the two.
    """
    columns = [manifest.names.index(name) for name in HEADER[1:]]
    values = np.empty((len(sample.frames), len(columns)), np.float32)
    repeated, row = 0, 0
    for trial_id, group in groupby(sample.trials):
        count = sum(1 for _ in group)
        own, frames = predictions[trial_id][:, columns], sample.frames[row : row + count]
        repeated += int((frames >= len(own)).sum())
        values[row : row + count] = own[np.minimum(frames, len(own) - 1)]
        row += count
    unknown = [name for name, column in zip(HEADER[1:], values.T, strict=True) if np.isnan(column).any()]
    if unknown:
        raise SettingError(f"No network predicts {' or '.join(unknown)}; expected both. Name runs that do as well.")
    clipped = int((np.abs(values) > 1).sum())
    rows = (
        f"{location},{valence:.6f},{arousal:.6f}\n"
        for location, (valence, arousal) in zip(sample.locations, np.clip(values, -1, 1).tolist(), strict=True)
    )
    write_file(path, (",".join(HEADER) + "\n" + "".join(rows)).encode())
    return {"rows": len(values), "trials": len(sample.trial_ids()), "repeated": repeated, "clipped": clipped}


def check(path: Path, sample: Sample) -> int:
    """Check a file against the sample, whoever wrote it; returns its number of rows.

    Raises:
        CorpusError: if there is no such file, or with its faults, line by line.
    """
    header, rows = read_lines(path)
    faults = Faults(path)
    if tuple(header) != HEADER:
        faults.add(1, f"'{','.join(header)[:60]}', expected '{','.join(HEADER)}'")
    if header[:1] and header[0] in sample.locations:  # the header is missing, this is the first row
        rows = [(1, header), *rows]
    found = {location for _, (location, *_) in rows}
    missing = [location for location in sample.locations if location not in found]
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        first = ", ".join(f"'{location}'" for location in missing[:_NAMED])
        faults.add(0, f"lacks {len(missing)} of the {len(sample.locations)} rows of the sample: {first}{more}")
    empty = bool(rows) and not any(cell.strip() for _, (_, *cells) in rows for cell in cells)
    if empty:
        faults.add(0, "has rows without values, as a sample, expected predictions")
    wanted, seen = set(sample.locations), dict[str, int]()
    ordered = not missing and len(rows) == len(sample.locations)  # then both have the same rows, each once
    for place, (number, (location, *values)) in enumerate(rows):
        if location not in wanted:
            faults.add(number, f"'{location[:60]}' is not in the sample")
        elif location in seen:
            faults.add(number, f"'{location}' stands in line {seen[location]} already")
        elif ordered and location != sample.locations[place]:
            faults.add(number, f"'{location}', expected '{sample.locations[place]}' as in the sample")
        seen.setdefault(location, number)
        for fault in () if empty else _find_faults(values):
            faults.add(number, fault)
    faults.refuse("Write it again, e.g. with 'avfusion submit abaw'.")
    return len(rows)


def _find_faults(values: Sequence[str]) -> Iterator[str]:
    if len(values) != len(HEADER) - 1:
        yield f"{len(values)} values, expected {len(HEADER) - 1}"
    for name, cell in zip(HEADER[1:], values, strict=False):
        if fault := find_fault(cell, -1, 1):
            yield f"{name} {fault}"
