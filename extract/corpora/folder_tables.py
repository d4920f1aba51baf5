"""The tables of a plain folder: labels by trial, and the list of subjects; a trial is a video, or one of its people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from cache.corpus.manifest import PARTITIONS
from cache.errors import AvFusionError
from cache.targets import Target, names_of
from extract.corpora.file_names import normal, trial_name, visible
from extract.corpora.label_tables import LabelTable, read_table
from extract.corpora.reading import SUBJECTS_HEADER, VIDEO_SUFFIXES, RowFaults, attempt, read_csv
from extract.faces.settings import PERSON


class Person(NamedTuple):
    """A person of a video with a trial for each.

    Attributes:
        video: name of the video.
        face: the person's number, as of a trial.
        file: with the people of the video, relative to the root.
    """

    video: str
    face: str
    file: str


def read_tables(
    folder: Path,
    videos: Mapping[str, Path],
    targets: tuple[Target, ...],
    faults: list[str],
    people: Mapping[str, Person],
    unknown: Collection[str] = (),
) -> tuple[dict[str, LabelTable], dict[str, int]]:
    """Label tables by trial, all with the same targets; and each one's number of frames, faulty or not, 0 for times.

    Those of people of videos that are `unknown` are left out, since nobody knows whom these show.
    """
    tables: dict[str, LabelTable] = {}
    num_rows: dict[str, int] = {}
    columns: dict[Path, tuple[str, ...]] = {}
    for path in visible(folder):
        if path.suffix.lower() != ".csv":
            continue
        name = trial_name(path)
        if name not in videos:
            if _video_of(name) in unknown:
                continue
            faults.append(_nobody(path, name, people))
            continue
        if name in num_rows:
            faults.append(f"labels '{path}' are the second file for trial '{name}', expected one; remove the other")
            continue
        num_rows[name] = 0
        try:
            table = read_table(path, targets)
        except AvFusionError as error:
            faults.append(str(error))
            if isinstance(error, RowFaults):
                num_rows[name] = error.num_rows
                columns |= {path: error.columns} if error.columns else {}
            continue
        num_rows[name] = len(table.rows) if table.times_s is None else 0
        columns[path] = table.columns
        tables[name] = table
    for path in _odd_columns(columns, names_of(targets), faults):
        tables.pop(trial_name(path), None)
    return tables, num_rows


def _video_of(name: str) -> str:
    """The video of a person's trial."""
    return name.rpartition(PERSON)[0] or name


def _nobody(path: Path, name: str, people: Mapping[str, Person]) -> str:
    """The fault of labels that belong to no trial."""
    video = _video_of(name)
    own = [trial for trial, person in people.items() if person.video in (name, video)]
    if own:
        return (
            f"labels '{path}' are of none of the {len(own)} people of '{people[own[0]].video}', expected a name such as "
            f"'{own[0]}.csv'; work/people/{people[own[0]].video}.people.png shows who is who"
        )
    return f"labels '{path}' belong to no video, expected '{name}' with one of {', '.join(VIDEO_SUFFIXES)}"


def _odd_columns(columns: Mapping[Path, tuple[str, ...]], targets: tuple[str, ...], faults: list[str]) -> list[Path]:
    """Label files that lack the targets or, if none are set, whose columns differ from those of most files."""
    if not columns:
        return []
    most = Counter(frozenset(names) for names in columns.values()).most_common(1)[0][0]  # the first one wins a tie
    wanted = targets or next(names for names in columns.values() if most == set(names))
    odd = []
    for path, names in columns.items():
        if not (set(wanted) <= set(names) if targets else most == set(names)):
            odd.append(path)
            faults.append(
                f"labels '{path}' have the columns {', '.join(names)}, expected {', '.join(wanted)} as the others have"
            )
    return odd


def read_subjects(
    path: Path,
    videos: Mapping[str, Path],
    faults: list[str],
    people: Mapping[str, Person],
    unknown: Collection[str] = (),
) -> dict[str, tuple[str, str]]:
    """Trial → subject and partition, a video's own row for people without one; empty if there is no such file.

    Of videos that are `unknown`, nobody knows whom these show.
    """
    if not path.exists():
        return {}
    lines = attempt(faults, read_csv, path)
    if lines is None:
        return {}
    if not lines or lines[0] != SUBJECTS_HEADER:
        faults.append(f"'{path}' line 1: expected '{','.join(SUBJECTS_HEADER)}'")
    lines = [[normal(cell) for cell in line] for line in lines]
    subjects: dict[str, tuple[str, str]] = {}
    whole = {person.video for person in people.values()}

    def is_known(name: str) -> bool:
        return name in videos or name in whole or _video_of(name) in unknown

    for number, line in enumerate(lines[1:], start=2):
        place = f"'{path}' line {number}"
        if not any(line):
            continue
        if len(line) != 3 or not line[0] or not line[1] or line[2] not in (*PARTITIONS, ""):
            wanted = ", ".join(PARTITIONS)
            meant = line[2].lower() if len(line) == 3 else ""
            hint = f"; did you mean '{meant}'?" if meant in PARTITIONS and meant != line[2] else ""
            faults.append(
                f"{place}: '{','.join(line)[:60]}', expected a trial, a subject and one of {wanted}, or nothing{hint}"
            )
        elif line[0] in subjects:
            faults.append(f"{place}: trial '{line[0]}' is listed twice, expected once")
        elif not is_known(line[0]):
            faults.append(f"{place}: trial '{line[0]}' has no video")
        else:
            subjects[line[0]] = line[1], line[2]
    named = {line[0] for line in lines if line}  # in faulty lines too
    named |= {_video_of(name) for name in named} & set(unknown)
    for name, person in people.items():
        if person.video in named:
            named.add(name)
            subjects.setdefault(name, subjects.get(person.video, (person.video, "")))
    faults += [f"'{path}' does not name trial '{name}'" for name in videos if name not in named]
    return subjects
