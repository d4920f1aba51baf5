"""Your own videos in a plain folder, with a CSV of labels for each.

videos/NAME.mp4|avi|mkv|mov|webm   the recordings; a trial is named after its file; sound files (wav, flac, m4a, mp3, ogg) count too
labels/NAME.csv                    header names the targets; one row per frame, or a column `time` in seconds
subjects.csv                       optional: trial,subject,partition
words/NAME.json|srt|vtt|TextGrid   optional: transcripts with word times
crops/NAME or crops/NAME.zip       optional: face crops 00001.jpg, 00002.jpg, …, used as they are
faces/NAME.jpg|png                 optional: a picture of the person to follow, by trial or by subject
With `face: all`, each person of a video is a trial: labels/NAME#1.csv and so on, see docs/faces.md.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.clock import ALLOWED_DIFFERENCE, FrameClock, check_length
from cache.corpus.manifest import Manifest, Trial
from cache.errors import AvFusionError, CorpusError, MissingFileError, SettingError, WeightsError
from cache.targets import AFFECT, Target
from extract.corpora.contract import Corpus
from extract.corpora.file_names import FolderIndex, name_faults, trial_name, visible
from extract.corpora.folder_tables import Person, read_subjects, read_tables
from extract.corpora.label_tables import LabelTable
from extract.corpora.reading import (
    TRANSCRIPTS,
    VIDEO_SUFFIXES,
    attempt,
    check_face,
    find_transcript,
    finish,
    list_crops,
    media_path,
    of_trial,
    parse_rate,
    probe_videos,
    report_lengths,
    report_rates,
)
from extract.faces.settings import PERSON, REFERENCE
from extract.faces.tracking import ALL, FACES
from extract.media.video import VideoInfo

SOUND_SUFFIXES = (".wav", ".flac", ".m4a", ".mp3", ".ogg", ".opus")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """What to read.

    Attributes:
        targets: label columns to use, in this order, each with its lowest and highest label, as `{arousal: [1, 9]}`; empty:
            all those that most label files have, in [-1, 1].
        face: whose face is followed if there is no picture in `faces`: largest, centre, left or right; all: a trial for each
            person of a video that is seen for `crops.min_seen_s`, named `VIDEO#1`, `VIDEO#2`, … by the time when they are first
            seen, with the labels `labels/VIDEO#1.csv`; 'work/people/VIDEO.people.png' shows who is who.
        rate: frames per second of recordings without pictures.
    """

    targets: dict[str, tuple[float, float]] = field(default_factory=dict)
    face: str = "largest"
    rate: str = "25"

    def __post_init__(self) -> None:
        check_face(self.face, (*FACES, ALL))
        parse_rate(self.rate)
        for name, ends in self.targets.items():
            if len(ends) != 2:
                raise SettingError(
                    f"corpus.settings.targets has {list(ends)} for '{name}', expected its lowest and highest label, as [1, 9]."
                )
        self.declared()

    def declared(self) -> tuple[Target, ...]:
        """The targets of the settings; names of columns are written in small letters.

        Raises:
            SettingError: if a range is not valid.
        """
        return tuple(
            Target(name.lower(), low=float(ends[0]), high=float(ends[1])) for name, ends in self.targets.items()
        )


class Folder(Corpus):
    """A plain folder of videos."""

    config: Config = Config()

    @staticmethod
    def recognises(root: Path) -> bool:
        """Whether a folder looks like this corpus."""
        return (root / "videos").is_dir()

    def read(self, root: Path) -> Manifest:
        """Read a corpus folder; without `subjects.csv` every trial is its own subject, without a partition.

        Raises:
            MissingFileError: if it has no folder `videos`.
            CorpusError: if labels, videos, crops or the list of subjects are missing or wrong; lists every fault.
            SettingError, WeightsError: if what tells people apart is not there.
        """
        faults: list[str] = []
        videos = _find_videos(root / "videos", faults)
        places = {part: FolderIndex(root / part) for part in ("words", "crops", "faces")}
        people, unknown = self._split(videos, places, root, faults) if self.config.face == ALL else ({}, set())
        for path in (root / part for part in ("labels", *places)):
            if path.exists() and not path.is_dir():
                faults.append(f"'{path}' is a file, expected a folder; rename it")
            faults += name_faults(path)
        declared = self.config.declared()
        tables, num_rows = read_tables(root / "labels", videos, declared, faults, people, unknown)
        targets = declared or next((tuple(map(Target, table.columns)) for table in tables.values()), AFFECT)
        subjects = read_subjects(root / "subjects.csv", videos, faults, people, unknown)
        trials = []
        infos = _probe(videos, parse_rate(self.config.rate), faults)
        for name, info in infos.items():
            person = people.get(name)
            subject, partition = subjects.get(name, (person.video if person else name, ""))
            own: list[str] = []
            clock = info.clock.resized(num_rows.get(name) or info.num_frames)
            labels = _label(tables.get(name), targets, clock)
            if num_rows.get(name):
                attempt(own, check_length, name, "video frames", info.num_frames, clock.num_frames, str(videos[name]))
            own += _late_labels(tables.get(name), info, name)
            media = _find_media(
                root, places, (name, subject), videos[name], info, clock, own, person.video if person else name
            )
            faults += [of_trial(name, fault) for fault in own]
            face = REFERENCE if "face" in media else FACES[0] if self.config.face == ALL else self.config.face
            if person is not None:
                face, media = person.face, media | {"people": person.file}
            trials.append(Trial(name, subject, partition, clock, media, labels, face))
            if name not in num_rows and partition in ("train", "validation") and person is None:
                faults.append(f"trial '{name}' of partition {partition} has no labels, expected 'labels/{name}.csv'")
        _report(trials)
        report_rates(infos)
        _report_strays(root / "words", TRANSCRIPTS, videos, "trial")
        _report_strays(
            root / "faces", PICTURE_SUFFIXES, {*videos, *(who for who, _ in subjects.values())}, "trial or subject"
        )
        report_lengths((trial.id, trial.clock.num_frames, infos[trial.id].num_frames) for trial in trials)
        return finish(root, trials, targets, faults)

    def _split(
        self, videos: dict[str, Path], places: Mapping[str, FolderIndex], root: Path, faults: list[str]
    ) -> tuple[dict[str, Person], set[str]]:
        """Replace videos by their people, unless crops or a picture of a face say who is followed.

        Returns:
            The people, and the videos of which nobody knows whom they show.
        """
        if self.find_people is None:
            raise SettingError(
                "A trial for each person needs the people of the videos, which 'avfusion corpus build' finds. Run that."
            )
        given = [
            name
            for name in videos
            if places["crops"].find(name, ("", ".zip")) or places["faces"].find(name, PICTURE_SUFFIXES)
        ]
        people: dict[str, Person] = {}
        unknown: set[str] = set()
        for name, path in list(videos.items()):
            if name in given or path.suffix.lower() in SOUND_SUFFIXES:
                continue
            try:
                found = self.find_people(name, path)
            except (SettingError, WeightsError):  # a fault of no video: told once, and nothing that follows from it
                raise
            except AvFusionError as error:
                faults.append(str(error))
                found = None
            if found is None:
                unknown.add(name)
                continue
            number, file = found
            if not number:
                faults.append(
                    f"'{path}' shows nobody for long enough (crops.min_seen_s), expected a person; move it out of the folder"
                )
            del videos[name]
            for face in (f"{PERSON}{at + 1}" for at in range(number)):
                videos[f"{name}{face}"] = path
                people[f"{name}{face}"] = Person(name, face, Path(os.path.relpath(file, root)).as_posix())
        return people, unknown


def _find_videos(folder: Path, faults: list[str]) -> dict[str, Path]:
    """Videos by name."""
    if not folder.is_dir():
        raise MissingFileError(f"No folder '{folder}'; expected videos there. Check corpus.root in params.yaml.")
    faults += name_faults(folder)
    videos: dict[str, Path] = {}
    for path in visible(folder):
        name = trial_name(path)
        if path.suffix.lower() not in (*VIDEO_SUFFIXES, *SOUND_SUFFIXES):
            known = ", ".join((*VIDEO_SUFFIXES, *SOUND_SUFFIXES))
            faults.append(f"'{path}' is not one of {known}; move it out of the folder")
        elif name in videos:
            faults.append(f"two videos are named '{name}': '{videos[name].name}' and '{path.name}', expected one")
        else:
            videos[name] = path
    return videos


def _probe(videos: Mapping[str, Path], sound_rate: Fraction, faults: list[str]) -> dict[str, VideoInfo]:
    """What the recordings hold; those that cannot be read are faults."""
    probed = probe_videos(videos.values(), sound_rate)
    infos = {}
    for name, path in videos.items():
        info = probed[path]
        if isinstance(info, VideoInfo):
            infos[name] = info
        else:
            faults.append(of_trial(name, info))
    return infos


def _label(table: LabelTable | None, targets: tuple[Target, ...], clock: FrameClock) -> NDArray[np.float32] | None:
    """Labels (T, C): rows by frame are taken as they are, rows by time are interpolated."""
    if table is None:
        return None
    rows = table.select(targets)
    return rows if table.times_s is None else interpolate(table.times_s, rows, clock)


def _late_labels(table: LabelTable | None, info: VideoInfo, name: str) -> list[str]:
    """Report labels by time that extend beyond the video by more than two frames and one step between labels."""
    if table is None or table.times_s is None:
        return []
    end_s = info.duration_s
    last_s = float(table.times_s[-1])
    step_s = float(np.median(np.diff(table.times_s))) if len(table.times_s) > 1 else 0.0
    if last_s <= end_s + max(step_s, ALLOWED_DIFFERENCE / float(info.rate)):
        return []
    return [
        f"Trial '{name}' has labels up to {last_s:.2f} s but {end_s:.2f} s of video. Give the times in seconds, check that the video is whole, or cut the labels."
    ]


def interpolate(times_s: NDArray[np.float64], rows: NDArray[np.float32], clock: FrameClock) -> NDArray[np.float32]:
    """Interpolate labels linearly at the ticks of a clock; nan outside their time range and next to a nan.

    Args:
        times_s: (N,) strictly increasing, seconds from the first picture.
        rows: (N, C).
        clock: T ticks.

    Returns:
        (T, C) float32.
    """
    ticks = clock.times_s()
    ticks = np.where(np.abs(ticks - times_s[-1]) < 1e-6, times_s[-1], ticks)  # rounded times in the file
    columns = [np.interp(ticks, times_s, column, left=np.nan, right=np.nan) for column in rows.T.astype(np.float64)]
    return np.stack(columns, axis=1).astype(np.float32)


def _find_media(
    root: Path,
    places: Mapping[str, FolderIndex],
    whose: tuple[str, str],
    video: Path,
    info: VideoInfo,
    clock: FrameClock,
    faults: list[str],
    heard: str,
) -> dict[str, str]:
    """Find the media of a trial (given by name and subject), including a picture of the face to follow; `heard` names the video."""
    name = whose[0]
    found = ({"video": video} if info.width else {}) | ({"audio": video} if info.has_audio else {})
    words = attempt(faults, find_transcript, places["words"], name)
    if words is None and heard != name:
        words = attempt(faults, find_transcript, places["words"], heard)
    if words is not None:
        found["words"] = words
    crops = attempt(faults, _find_crops, places["crops"], name)
    if crops is not None:
        found["crops"] = crops
        numbers = attempt(faults, list_crops, crops)
        if numbers == []:
            faults.append(f"'{crops}' holds no crops, expected pictures such as '00001.jpg'.")
        elif numbers and numbers[-1] > clock.num_frames:
            attempt(faults, check_length, name, "numbered crops", numbers[-1], clock.num_frames, str(crops))
    picture = next((path for who in whose for path in places["faces"].find(who, PICTURE_SUFFIXES)), None)
    if picture is not None and picture.is_dir():
        faults.append(f"'{picture}' is a folder, expected a picture; remove or rename it")
    elif picture is not None:
        found["face"] = picture
    return {kind: media_path(path, root) for kind, path in found.items()}


def _find_crops(index: FolderIndex, name: str) -> Path | None:
    """Find the crops with this name: a folder of pictures, or a zip of them.

    Raises:
        CorpusError: if there are both, or neither a folder nor a zip.
    """
    folders = index.find(name, ("",))
    archives = index.find(name, (".zip",))
    found = [*folders, *archives]
    if len(found) > 1:
        where = " and ".join(f"'{path}'" for path in found)
        raise CorpusError(f"crops in {where}, expected one. Remove the other.")
    if found and found[0].is_dir() != bool(folders):
        raise CorpusError(
            f"'{found[0]}' holds no crops, expected a folder '{name}' or a zip '{name}.zip'. Unpack it again."
        )
    return found[0] if found else None


def _report_strays(folder: Path, suffixes: tuple[str, ...], names: Iterable[str], whose: str) -> None:
    """Warn about unused files."""
    known = set(names)
    ends = {suffix.lower() for suffix in suffixes}
    strays = [path for path in visible(folder) if trial_name(path) not in known or path.suffix.lower() not in ends]
    if strays:
        count = f"{len(strays)} files in '{folder}' belong to no {whose} and are not used, e.g. '{strays[0].name}'"
        _log.warning("%s; expected a name with one of %s.", count, ", ".join(suffixes))


def _report(trials: list[Trial]) -> None:
    """Warn about trials without labels."""
    bare = [trial.id for trial in trials if trial.labels is None]
    if bare and len(bare) < len(trials):
        _log.warning("%d trials have no labels, e.g. '%s'; they are not used for training.", len(bare), bare[0])
