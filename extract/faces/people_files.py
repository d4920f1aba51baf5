"""The people of a video as a file: `NAME.json`, which says what they were found with, and their sightings in `NAME.npy`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cache.documents.arrays import format_array, read_array
from cache.documents.documents import Document, Number, digest_bytes, read_document, write_document, write_file
from cache.errors import CorpusError
from cache.foreign import sha256_file
from extract.faces.linking import Tracklet
from extract.faces.people import Person

VERSION = 1
_COLUMNS = 18  # person, tracklet, shot, frame, box, landmarks
_REMEDY = "Run 'avfusion corpus build' again, or predict again with --redo."


class _PeopleDocument(Document):
    version: Literal[1]
    made_of: dict[str, Any]
    people: Number
    sightings: Number
    content: str


def save_people(people: Sequence[Person], made_of: dict[str, Any], path: Path) -> None:
    """Write the people of a video.

    Args:
        people: in the order of their numbers.
        made_of: everything that they depend on, as JSON values.
        path: of the JSON.
    """
    parts = [(number, part) for number, person in enumerate(people) for part in person.tracklets]
    rows = [np.zeros((0, _COLUMNS), np.float32)]
    for at, (number, part) in enumerate(parts):
        whose = np.tile(np.array([number, at, part.shot], np.float32), (len(part.frames), 1))
        frames = np.array(part.frames, np.float32)[:, None]  # exact up to 16.7 million, eight days at 25 Hz
        rows.append(np.concatenate((whose, frames, part.values()), axis=1))
    content = format_array(np.concatenate(rows).astype("<f4", copy=False))
    write_file(path.with_suffix(".npy"), content)
    document = {
        "version": VERSION,
        "made_of": made_of,
        "people": len(people),
        "sightings": sum(len(each) for each in rows),
        "content": digest_bytes(content),
    }
    write_document(path, _PeopleDocument, document, sort_keys=True)


def count_people(path: Path, made_of: dict[str, Any]) -> int | None:
    """Number of people in a file that was made of this; None if there is no such file."""
    try:
        document = read_document(path, _PeopleDocument, _REMEDY, CorpusError)
    except CorpusError:  # made again
        return None
    whole = document is not None and document.made_of == made_of and path.with_suffix(".npy").is_file()
    return document.people if document is not None and whole else None


def read_people(path: Path) -> list[Person]:
    """The people in a file.

    Raises:
        CorpusError: if it is absent or damaged.
    """
    document = read_document(path, _PeopleDocument, _REMEDY, CorpusError)
    if document is None:
        raise CorpusError(f"No people of a video in '{path}'. {_REMEDY}")
    shape = document.sightings, _COLUMNS
    rows = read_array(path.with_suffix(".npy"), "<f4", shape, document.content, _REMEDY, CorpusError)
    people = [Person() for _ in range(document.people)]
    for own in np.split(rows, np.flatnonzero(np.diff(rows[:, 1])) + 1) if len(rows) else ():
        number, _, shot, first = (int(value) for value in own[0, :4])
        part = Tracklet(first, own[0, 4:8], own[0, 8:].reshape(5, 2), shot)
        for row in own[1:]:
            part.add(int(row[3]), row[4:8], row[8:].reshape(5, 2))
        people[number].add(part)
    return people


def person_key(face: str, path: Path) -> str:
    """Identifier of one of all people, part of the crops' identity: the number, and the digest of the file.

    Raises:
        MissingFileError: if there is no such file.
    """
    return f"{face} {sha256_file(path)}"
