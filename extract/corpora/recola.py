"""RECOLA: spontaneous French dialogues of two, rated by six people every 40 ms [Ringeval2013RECOLA].

    RECOLA-Annotation/emotional_behaviour/TARGET/P16.csv     time; FM1; FM2; … (seconds, every 0.04; one column per rater)
    RECOLA-Audio-recordings/P16.wav                          any folder below the root that holds files of these names
    RECOLA-Video-recordings/P16.mp4                          optional

or as AVEC 2016 handed it out, with its partitions:

    ratings_gold_standard/TARGET/train_1.arff                time and gold standard; also dev_1, and test_1 without ratings
    recordings_audio/train_1.wav

The label is the mean of the raters, or their gold standard. Row i belongs to tick i of a clock of 25 Hz. A trial is one
person; partitions of the first layout are made by folds.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock, check_length
from cache.corpus.manifest import Manifest, Trial
from cache.errors import AvFusionError, CorpusError, MissingFileError
from cache.targets import Target
from extract.corpora.contract import Corpus
from extract.corpora.file_names import name_faults, trial_name, visible
from extract.corpora.reading import (
    VIDEO_SUFFIXES,
    attempt,
    check_face,
    finish,
    media_path,
    of_trial,
    probe_videos,
    read_text,
)
from extract.faces.tracking import FACES
from extract.media.video import VideoInfo

RATE = Fraction(25)
RATERS, GOLD = "RECOLA-Annotation/emotional_behaviour", "ratings_gold_standard"
PARTITIONS = {"train": "train", "dev": "validation", "test": "test"}
SOUND_SUFFIXES = (".wav", ".flac")

_ROUNDING_S = 0.001


@dataclass(frozen=True)
class Config:
    """What to read.

    Attributes:
        targets: folders of ratings, in this order; ratings lie in [-1, 1].
        face: whose face to follow in the videos: largest, centre, left or right.
    """

    targets: tuple[str, ...] = ("valence", "arousal")
    face: str = FACES[0]

    def __post_init__(self) -> None:
        check_face(self.face)


class Recola(Corpus):
    """RECOLA on disk, as published or as of AVEC 2016."""

    config: Config = Config()

    @staticmethod
    def recognises(root: Path) -> bool:
        """Whether a folder looks like this corpus."""
        return (root / RATERS).is_dir() or (root / GOLD).is_dir()

    def read(self, root: Path) -> Manifest:
        """Read a corpus folder.

        Raises:
            MissingFileError: if a target has no folder of ratings.
            CorpusError: if ratings or media are missing or wrong; lists every fault.
        """
        gold = not (root / RATERS).is_dir()
        folders = [root / (GOLD if gold else RATERS) / target for target in self.config.targets]
        if absent := [str(folder) for folder in folders if not folder.is_dir()]:
            raise MissingFileError(
                f"No ratings in '{absent[0]}'; expected a folder for each of {', '.join(self.config.targets)}. Check corpus.root, "
                "or set corpus.settings.targets in params.yaml."
            )
        faults = [fault for folder in folders for fault in name_faults(folder)]
        suffix, read = (".arff", _read_gold) if gold else (".csv", _read_raters)
        rated = {trial_name(path) for folder in folders for path in visible(folder) if path.suffix.lower() == suffix}
        sounds, videos = _find_media(root, SOUND_SUFFIXES), _find_media(root, VIDEO_SUFFIXES)
        names = rated | {name for name in sounds if gold and name.startswith("test_")}
        probed = probe_videos(path for name, path in videos.items() if name in names)
        trials = []
        for name in sorted(names):
            files = [folder / f"{name}{suffix}" for folder in folders]
            labels = _read_labels(name, files, read, faults) if name in rated else None
            if labels is None and name in rated:
                continue
            try:
                trials.append(self._make(root, name, gold, labels, sounds.get(name), videos.get(name), probed))
            except AvFusionError as error:
                faults.append(of_trial(name, error))
        return finish(root, trials, tuple(map(Target, self.config.targets)), faults)

    def _make(
        self,
        root: Path,
        name: str,
        gold: bool,
        labels: NDArray[np.float32] | None,
        sound: Path | None,
        video: Path | None,
        probed: dict[Path, VideoInfo | AvFusionError],
    ) -> Trial:
        info = probed.get(video) if video else None
        if isinstance(info, AvFusionError):
            raise info
        if labels is None:
            assert sound is not None
            info = info or next(iter(probe_videos([sound], RATE).values()))
            if isinstance(info, AvFusionError):
                raise info
        num_frames = (
            round(info.duration_s * RATE) if labels is None and info else len(labels) if labels is not None else 0
        )
        media = {} if sound is None else {"audio": media_path(sound, root)}
        if video is not None and isinstance(info, VideoInfo) and info.height:
            if info.rate != RATE:
                raise CorpusError(f"'{video}' has {float(info.rate):.3f} frames/s, expected {RATE} as the ratings.")
            check_length(name, "video frames", info.clock.num_frames, num_frames, str(video))
            media |= {"video": media_path(video, root)}
            media |= {"audio": media_path(video, root)} if info.has_audio and sound is None else {}
        if not media:
            raise CorpusError(f"no sound and no video named '{name}' below '{root}', expected one of them.")
        partition = PARTITIONS.get(name.partition("_")[0], "") if gold else ""
        return Trial(name, name, partition, FrameClock(RATE, num_frames), media, labels, self.config.face)


def _find_media(root: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Name → the first file of these kinds anywhere below the root."""
    files = sorted(
        path for path in root.rglob("*") if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )
    return {trial_name(path): path for path in reversed(files)}


Read = Callable[[Path], NDArray[np.float64]]


def _read_labels(name: str, files: Iterable[Path], read: Read, faults: list[str]) -> NDArray[np.float32] | None:
    """(T, C) ratings of a trial; None, and a fault, where a target has none or their lengths differ."""
    columns = {path: attempt(faults, read, path) for path in files}
    found = {path: column for path, column in columns.items() if column is not None}
    if len(found) < len(columns):
        return None
    if len({len(column) for column in found.values()}) > 1:
        lengths = ", ".join(f"{len(column)} in '{path}'" for path, column in found.items())
        faults.append(of_trial(name, f"ratings of different length: {lengths}"))
        return None
    return np.stack(list(found.values()), axis=1).astype(np.float32)


def _read_raters(path: Path) -> NDArray[np.float64]:
    """(T,) mean of all raters; of those who rated, where a cell is empty."""
    lines = list(csv.reader(io.StringIO(read_text(path)), delimiter=";"))
    header = [cell.strip() for cell in lines[0]] if lines else []
    if len(header) < 2 or header[0].lower() != "time":
        raise CorpusError(
            f"'{path}' starts with '{';'.join(header)[:60]}', expected time;FM1;… separated by semicolons."
        )
    ratings = _check(path, lines[1:], first=2, width=len(header))
    known = np.isfinite(ratings).sum(axis=1)
    return np.where(known > 0, np.nansum(ratings, axis=1) / np.maximum(known, 1), np.nan)


def _read_gold(path: Path) -> NDArray[np.float64]:
    """(T,) gold standard: the last attribute, by the one whose name has "time" in it."""
    lines = read_text(path).splitlines()
    names = [line.split()[1].strip("'\"").lower() for line in lines if line.lower().startswith("@attribute")]
    start = next((number for number, line in enumerate(lines, 1) if line.strip().lower() == "@data"), None)
    times = [place for place, name in enumerate(names) if "time" in name]
    if start is None or len(times) != 1 or times[0] == len(names) - 1:
        raise CorpusError(f"'{path}' is not a gold standard; expected an ARFF with a time and, last, a value.")
    rows = [
        [line.split(",")[times[0]], line.split(",")[-1]] for line in lines[start:] if line.count(",") == len(names) - 1
    ]
    return _check(path, rows, first=start + 1, width=2)[:, 0]


def _check(path: Path, rows: list[list[str]], first: int, width: int) -> NDArray[np.float64]:
    """(T, N) values of rows that start with their time; `first` is the number of the first one's line."""
    faults, table = [], []
    for tick, row in enumerate(row for row in rows if any(row)):
        try:
            time, *values = (float(cell.strip() or "nan") for cell in row)
        except ValueError:
            time, values = np.nan, []
        good = len(values) == width - 1 and not any(abs(value) > 1 for value in values)
        if not good or not abs(time - tick / float(RATE)) <= _ROUNDING_S:
            faults.append(f"line {first + tick} is '{';'.join(row)[:60]}'")
        table.append(values)
    if faults or not table:
        shown = "; ".join(faults[:5]) or "it has no rows"
        raise CorpusError(
            f"'{path}': {shown}{f'; and {len(faults) - 5} more' if len(faults) > 5 else ''}; expected a time every 0.04 s from 0 and "
            f"{width - 1} values in [-1, 1] or none. Fix the file."
        )
    return np.array(table)
