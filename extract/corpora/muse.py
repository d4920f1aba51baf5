"""MuSe 2022 to 2024: labels by timestamp, features by the organisers, and a partition of the subjects.

    metadata/partition.csv                  subject and one of train, devel, test
    label_segments/TARGET/SUBJECT.csv       timestamp (milliseconds), value
    feature_segments/FEATURE/SUBJECT.csv    imported by `avfusion cache import --from muse`
    raw_data/videos/SUBJECT.mp4             optional: with it, features can be extracted here

[Christ2022MuSe]. The label clock follows the timestamps, usually one tick every 500 or 250 ms; ticks without a row are
not annotated.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
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
from extract.corpora.file_names import FolderIndex, name_faults, normal, trial_name, visible
from extract.corpora.reading import (
    VIDEO_SUFFIXES,
    attempt,
    check_face,
    finish,
    media_path,
    of_trial,
    probe_videos,
    read_csv,
    report_rates,
)
from extract.faces.tracking import FACES
from extract.media.video import VideoInfo

LABELS, FEATURES, VIDEOS = "label_segments", "feature_segments", "raw_data/videos"
PARTITION_NAMES = {"train": "train", "devel": "validation", "test": "test"}

_ROUNDING_MS = 1.01  # timestamps may be rounded to whole milliseconds
_HIGHEST_RATE = 240  # rows per second; above this, the timestamps must be in seconds
_SHORTEST_SHARE = 0.01  # of a video that labels cover; below this, the timestamps must be in seconds
_FEWEST_TICKS, _MOST_GAPS = 10_000, 1000  # a file may span the first number of ticks, plus the second for each row
_GAP = 1.5  # longer steps, in medians, are gaps

_log = logging.getLogger(__name__)

Series = tuple[NDArray[np.float64], NDArray[np.float64]]  # timestamps (N,) in ms, increasing; values (N,)


@dataclass(frozen=True)
class Config:
    """What to read.

    Attributes:
        targets: folders of `label_segments`, in this order; labels lie in [-1, 1].
        face: whose face to follow in the videos: largest, centre, left or right.
    """

    targets: tuple[str, ...] = ("valence", "arousal")
    face: str = FACES[0]

    def __post_init__(self) -> None:
        check_face(self.face)


class MuSe(Corpus):
    """A MuSe challenge package on disk."""

    config: Config = Config()

    @staticmethod
    def recognises(root: Path) -> bool:
        """Whether a folder looks like this corpus."""
        return (root / LABELS).is_dir() and (root / "metadata" / "partition.csv").is_file()

    def read(self, root: Path) -> Manifest:
        """Read a corpus folder.

        Raises:
            MissingFileError: if the list of partitions or a target's folder does not exist.
            CorpusError: if labels, features or videos are missing or wrong; lists every fault.
        """
        faults: list[str] = []
        partitions = _read_partitions(root / "metadata" / "partition.csv", faults)
        missing = [name for name in self.config.targets if not (root / LABELS / name).is_dir()]
        if missing or not self.config.targets:
            known = ", ".join(path.name for path in visible(root / LABELS) if path.is_dir()) or "none"
            raise MissingFileError(
                f"No labels of {', '.join(missing) or 'any target'} in '{root / LABELS}', only {known}. "
                "Set corpus.settings.targets in params.yaml."
            )
        for target in self.config.targets:
            files = [path for path in visible(root / LABELS / target) if path.suffix.lower() == ".csv"]
            faults += name_faults(root / LABELS / target)
            faults += [
                f"labels '{path}': subject '{trial_name(path)}' has no partition"
                for path in files
                if partitions and trial_name(path) not in partitions
            ]
        faults += name_faults(root / VIDEOS)
        videos = {trial_name(path): path for path in visible(root / VIDEOS) if path.suffix.lower() in VIDEO_SUFFIXES}
        probed = probe_videos(path for name, path in videos.items() if name in partitions)
        report_rates({path.name: info for path, info in probed.items() if isinstance(info, VideoInfo)})
        labels = [FolderIndex(root / LABELS / target) for target in self.config.targets]
        trials = []
        for name, partition in partitions.items():
            try:
                trials.append(self._read_trial(root, name, partition, labels, videos, probed))
            except AvFusionError as error:
                faults.append(of_trial(name, error, "subject"))
        return finish(root, trials, tuple(map(Target, self.config.targets)), faults)

    def _read_trial(
        self,
        root: Path,
        name: str,
        partition: str,
        labels_of: Sequence[FolderIndex],
        videos: Mapping[str, Path],
        probed: Mapping[Path, VideoInfo | AvFusionError],
    ) -> Trial:
        """Read one subject; test subjects may lack values or whole files."""
        paths = [next(iter(index.find(name, (".csv",))), index.folder / f"{name}.csv") for index in labels_of]
        absent = [path for path in paths if not path.exists()]
        if partition != "test" and absent:
            raise CorpusError(f"no labels {' and '.join(repr(str(path)) for path in absent)}.")
        info = probed.get(videos[name]) if name in videos else None
        faults = [str(info)] if isinstance(info, AvFusionError) else []
        found = [attempt(faults, _read_series, path) for path in ([] if absent else paths)]
        series = [one for one in found if one is not None]
        if faults:
            raise CorpusError(" ".join(faults))
        times_ms = series[0][0] if series else _feature_times(root / FEATURES, name)
        for path, (other_ms, _) in zip(paths, series, strict=False):
            if not np.array_equal(other_ms, times_ms):
                raise CorpusError(f"the timestamps of '{path}' and '{paths[0]}' differ, expected the same.")
        clock = infer_clock(times_ms, paths[0])
        media = {}
        if isinstance(info, VideoInfo):
            clock = _cover(name, clock, info, videos[name])
            kinds = ("video", "audio") if info.has_audio else ("video",)
            media = dict.fromkeys(kinds, media_path(videos[name], root))
        labels = _at_ticks(times_ms, [values for _, values in series], clock) if series else None
        if labels is not None and np.isnan(labels).all():
            if partition != "test":
                raise CorpusError(f"'{paths[0]}' holds no values.")
            labels = None
        return Trial(name, name, partition, clock, media, labels, self.config.face)


def _read_partitions(path: Path, faults: list[str]) -> dict[str, str]:
    """Subject → partition, by our names."""
    if not path.is_file():
        raise MissingFileError(
            f"No '{path}'; expected a subject and one of train, devel, test in each line. Check corpus.root."
        )
    lines = [[normal(cell) for cell in line] for line in attempt(faults, read_csv, path) or ()]
    partitions: dict[str, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not any(line):
            continue
        if len(line) < 2 or not line[0] or line[1] not in PARTITION_NAMES:
            faults.append(
                f"'{path}' line {number}: '{','.join(line)}', expected a subject and one of {', '.join(PARTITION_NAMES)}"
            )
        elif line[0] in partitions:
            faults.append(f"'{path}' line {number}: subject '{line[0]}' is listed twice, expected once")
        else:
            partitions[line[0]] = PARTITION_NAMES[line[1]]
    return partitions


def _read_series(path: Path, column: str = "value") -> Series:
    """Timestamps and one column of a file by time; empty values are nan."""
    lines = [line for line in read_csv(path) if any(line)]
    header = lines[0] if lines else []
    if "timestamp" not in header or column not in header or len(lines) < 2:
        raise CorpusError(f"'{path}' starts with '{','.join(header)[:60]}', expected timestamp,{column} and rows.")
    places = header.index("timestamp"), header.index(column)
    rows, wrong = [], []
    for number, line in enumerate(lines[1:], start=2):
        try:
            time, value = (float(line[at] or "nan") for at in places)
        except (ValueError, IndexError):
            time = value = np.nan
        if not np.isfinite(time) or np.isinf(value) or (column == "value" and abs(value) > 1):
            wrong.append(str(number))
        rows.append((time, value))
    if wrong:
        shown = ", ".join(wrong[:20])
        raise CorpusError(
            f"'{path}' lines {shown}: expected milliseconds, and values in [-1, 1] or none. Fix the file."
        )
    table = np.array(rows)[np.argsort([time for time, _ in rows], kind="stable")]
    if (np.diff(table[:, 0]) <= 0).any():
        raise CorpusError(f"'{path}' has two rows with the same timestamp, expected one. Fix the file.")
    return table[:, 0], table[:, 1]


def _feature_times(folder: Path, name: str) -> NDArray[np.float64]:
    """Timestamps of the first feature of a subject that has no labels."""
    for feature in visible(folder):
        for path in FolderIndex(feature).find(name, (".csv",)):
            return _read_series(path, "timestamp")[0]
    raise CorpusError(f"no labels, and no features in '{folder}' to take timestamps from.")


def infer_clock(times_ms: NDArray[np.float64], path: Path) -> FrameClock:
    """Infer the clock that fits all timestamps; there may be gaps.

    Args:
        times_ms: (N,) increasing, milliseconds, possibly rounded to whole ones.
        path: their file, for messages.

    Raises:
        CorpusError: if there is no such clock.
    """
    steps = np.diff(times_ms)
    if not len(steps):
        raise CorpusError(f"'{path}' has 1 timestamp, expected at least 2.")
    step_ms = float(steps[steps < _GAP * np.median(steps)].mean())
    if step_ms < 1000 / _HIGHEST_RATE:
        raise CorpusError(
            f"'{path}' has timestamps in steps of {step_ms:.4g}, expected milliseconds and at most {_HIGHEST_RATE} rows a second. "
            "If they are seconds, multiply them by 1000."
        )
    whole = round(1000 / step_ms)
    usual = [Fraction(whole), Fraction(whole * 1000, 1001)] if whole else []
    rates = [*usual, Fraction(1000 / step_ms).limit_denominator(1000)]
    since = times_ms - times_ms[0]
    misses = [float(np.abs(since - np.rint(since * float(rate) / 1000) * 1000 / float(rate)).max()) for rate in rates]
    best = int(np.argmin(misses))
    if not since[-1] * float(rates[best]) / 1000 <= _FEWEST_TICKS + _MOST_GAPS * len(times_ms):
        raise CorpusError(
            f"the timestamps of '{path}' go from {times_ms[0]:g} to {times_ms[-1]:g} ms in {len(times_ms)} rows, expected at most "
            f"{_MOST_GAPS} ticks for a row. Fix the column 'timestamp' (milliseconds)."
        )
    ticks = np.rint(since * float(rates[best]) / 1000)
    if misses[best] > _ROUNDING_MS or (np.diff(ticks) < 1).any():
        raise CorpusError(
            f"the timestamps of '{path}' do not fit a regular clock: steps of about {step_ms:.1f} ms, one {misses[best]:.1f} ms off. "
            "Fix the column 'timestamp' (milliseconds)."
        )
    return FrameClock(rates[best], int(ticks[-1]) + 1, float(times_ms[0]) / 1000)


def _cover(name: str, clock: FrameClock, info: VideoInfo, path: Path) -> FrameClock:
    """Extend the clock to the end of the video; ticks beyond the labels are not annotated."""
    if clock.start_s + clock.duration_s < _SHORTEST_SHARE * info.duration_s:
        raise CorpusError(
            f"the timestamps end at {1000 * (clock.start_s + clock.duration_s):.4g} ms, but '{path}' lasts {info.duration_s:.4g} s; "
            "expected milliseconds. If they are seconds, multiply them by 1000."
        )
    ticks = round((Fraction(info.duration_s) - Fraction(clock.start_s)) * clock.rate)
    if ticks < clock.num_frames:
        check_length(name, "ticks of video", ticks, clock.num_frames, str(path))
    return FrameClock(clock.rate, max(ticks, clock.num_frames), clock.start_s)


def _at_ticks(
    times_ms: NDArray[np.float64], columns: list[NDArray[np.float64]], clock: FrameClock
) -> NDArray[np.float32]:
    """(T, C) values at their ticks, nan elsewhere and where a target has no value."""
    labels = np.full((clock.num_frames, len(columns)), np.nan, np.float32)
    labels[clock.nearest(times_ms / 1000)] = np.stack(columns, axis=1)
    return labels
