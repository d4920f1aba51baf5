"""Whether the numbers of people mean whom they meant when the corpus was built before, so that no labels are taken for somebody else.

Changed settings of crops may give other numbers: of who is seen for long enough, `VIDEO#2` may be who was `VIDEO#3`. What the corpus was built with is
kept beside the people, in `numbers.json`: digests of each video and of the labels of each of its people, and the file with these. Videos that are not there for
a while, or not split into people, are remembered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest, Trial
from cache.documents.documents import Document, Part, digest_bytes, read_document, write_document
from cache.errors import AvFusionError, CorpusError, list_faults
from cache.names import encode_trial_id
from extract.faces.detection import overlaps
from extract.faces.people import Person, read_made_of, read_people
from extract.faces.settings import PERSON

VERSION = 1
NUMBERS = "numbers.json"
_REMEDY = "Remove it, look at the contact sheets, and check that all labels are of the right person."
_LISTED = 5  # videos in a sentence
_LOOKS = 200  # sightings of a person that are compared
_SAME_FACE = 0.5  # intersection over union
_SHARE = 0.2  # of the sightings that make somebody another person, or one of two


class _VideoPart(Part):
    video: str
    people: str
    labels: dict[str, str]


class _NumbersDocument(Document):
    version: Literal[1]
    videos: dict[str, _VideoPart]


class Moved(NamedTuple):
    """What is to be said of numbers that mean somebody else than before.

    Attributes:
        notes: a sentence for each video.
        faults: a sentence for each one's labels that may be of somebody else.
    """

    notes: list[str]
    faults: list[str]


def find_moved(manifest: Manifest, folder: Path, before: Manifest | None = None) -> Moved:
    """Compare the people of a corpus with those that it was built with before.

    Labels are refused where a number means somebody else, unless they are those that this person had before, under the name of then. Nothing needs
    to be confirmed: labels that are moved away, and put back after the corpus was built without them, were looked at.

    Args:
        manifest: the new one.
        folder: of the people.
        before: the manifest that was built before; used where the folder does not know.

    Raises:
        CorpusError: if what the folder knows is damaged.
    """
    known = _read(folder)
    if known is None:
        known = _numbers_of(before) if before is not None else {}
    now = _numbers_of(manifest)
    moved = Moved([], [])
    replaced = []
    for video, trials in _by_video(manifest).items():
        name = video if video in known else _other_name(now[video].video, known, now)
        if name is None or known[name].people == now[video].people:
            continue
        file = manifest.path(trials[0], "people")
        sheet = file.with_name(f"{encode_trial_id(video)}.people.png")
        if known[name].video and known[name].video != now[video].video:
            replaced.append(f"'{video}' (see '{sheet}')")
        _compare(trials, name, known[name], file, sheet, moved)
    if replaced:
        moved.notes.append(
            f"Videos that are not the same as before: {list_faults(replaced, _LISTED)}. People are compared by their places only, "
            "so look whether their numbers still mean the same."
        )
    return moved


def _compare(trials: Sequence[Trial], name: str, known: _VideoPart, file: Path, sheet: Path, moved: Moved) -> None:
    """Add what is to be said of one video, of which `known` is what it was built with, under this name."""
    video = trials[0].id.removesuffix(trials[0].face)
    labelled = [trial for trial in trials if trial.labels is not None]
    people = _people_before(file.with_name(known.people))
    if people is None:
        moved.notes.append(f"The people with which '{video}' was built before are lost. See '{sheet}'.")
        moved.faults.extend(
            f"the labels of '{trial.id}' may be of somebody else, since the people of before are lost; '{sheet}' shows who is who. Move the labels "
            "of people out of the folder, build, and put those back that are right"
            for trial in labelled
        )
        return
    was = _who_was(read_people(file), people)
    changes = {}
    for trial in trials:
        number = int(trial.face.removeprefix(PERSON))
        olds = was[number - 1]
        if olds == [trial.face] or (not olds and number > len(people)):
            continue
        names = " and ".join(f"{name}{old}" for old in olds) or "nobody who had a number"
        changes[trial.id] = f"{trial.id} is now who was {names}"
        allowed = known.labels.get(olds[0]) if len(olds) == 1 else None
        if trial.labels is not None and _digest(trial) != allowed:
            moved.faults.append(
                f"the labels of '{trial.id}' may be of somebody else, since {changes[trial.id]}; '{sheet}' shows who is who. Give each person's labels "
                "the new name; or move them out of the folder, build, and put those back that are right"
            )
    if changes:
        moved.notes.append(
            f"People of '{video}' have other numbers than before: {', '.join(changes.values())}. See '{sheet}'."
        )


def _other_name(content: str, known: Mapping[str, _VideoPart], now: Mapping[str, _VideoPart]) -> str | None:
    """The name that a video had before, by its content."""
    return next((name for name, part in known.items() if part.video == content and name not in now), None)


def save_numbers(manifest: Manifest, folder: Path) -> None:
    """Keep what a corpus is built with, and what others were built with before; nothing where no video has a trial for each person.

    Raises:
        CorpusError: if what the folder knows is damaged.
    """
    videos = {**(_read(folder) or {}), **_numbers_of(manifest)}
    if videos:
        document = {"version": VERSION, "videos": {name: part.model_dump() for name, part in videos.items()}}
        write_document(folder / NUMBERS, _NumbersDocument, document, sort_keys=True)


def _read(folder: Path) -> dict[str, _VideoPart] | None:
    document = read_document(folder / NUMBERS, _NumbersDocument, _REMEDY, CorpusError)
    return None if document is None else document.videos


def _numbers_of(manifest: Manifest) -> dict[str, _VideoPart]:
    return {
        video: _VideoPart(
            video=_digest_of_video(manifest.path(trials[0], "people")),
            people=manifest.path(trials[0], "people").name,
            labels={trial.face: _digest(trial) for trial in trials if trial.labels is not None},
        )
        for video, trials in _by_video(manifest).items()
    }


def _by_video(manifest: Manifest) -> dict[str, list[Trial]]:
    """The trials of people by the name of their video."""
    videos: dict[str, list[Trial]] = {}
    for trial in manifest.trials:
        if trial.face.startswith(PERSON):
            videos.setdefault(trial.id.removesuffix(trial.face), []).append(trial)
    return videos


def _digest_of_video(people: Path) -> str:
    """That of which people in a file were found; "" if they are lost."""
    with suppress(AvFusionError):
        return str(read_made_of(people).get("video", ""))
    return ""


def _digest(trial: Trial) -> str:
    return digest_bytes(np.asarray(trial.labels, "<f4").tobytes())


def _people_before(path: Path) -> list[Person] | None:
    """The people of before; None if they are lost: then a number may have meant anybody."""
    with suppress(AvFusionError):
        return read_people(path)
    return None


def _who_was(people: Sequence[Person], before: Sequence[Person]) -> list[list[str]]:
    """For each person the numbers, as "#1", of those who were seen in the same places at the same times, who is seen most first."""
    looks = [_look(person) for person in people]
    seen: dict[int, list[tuple[int, NDArray[np.float32]]]] = {frame: [] for each in looks for frame, _ in each}
    for number, person in enumerate(before):
        for frame, box in _sightings(person):
            if frame in seen:
                seen[frame].append((number, box))
    found = []
    for each in looks:
        counts = np.zeros(len(before))
        for frame, box in each:
            for number, other in seen[frame]:
                counts[number] += overlaps(box[None], other[None])[0, 0] >= _SAME_FACE
        order = np.argsort(-counts, kind="stable").tolist()
        found.append([f"{PERSON}{number + 1}" for number in order if counts[number] >= _SHARE * len(each)])
    return found


def _sightings(person: Person) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Every frame that shows a person, and the box (4,)."""
    for part in person.tracklets:
        yield from zip(part.frames, part.boxes(), strict=True)


def _look(person: Person) -> list[tuple[int, NDArray[np.float32]]]:
    """Some of the sightings, evenly spaced."""
    sights = list(_sightings(person))
    return [sights[at] for at in np.unique(np.linspace(0, len(sights) - 1, _LOOKS).astype(int)).tolist()]
