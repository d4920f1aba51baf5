"""Aff-Wild2 with the annotations of any ABAW edition, valence-arousal track, from crops, videos or both.

[Kollias2019]. The authors release it under a signed agreement; we never do. Point `corpus.root` at the folder that you
unpacked everything into, in any order and depth. Row i of an annotation is frame i of the video and crop `i + 1`; crops
are found by number, never by position. Crops that come with the corpus are used as they are; without them, faces are
detected in the videos.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from cache.clock import FrameClock, check_length
from cache.corpus.manifest import Manifest, Trial
from cache.errors import AvFusionError, CorpusError, counted
from cache.targets import AFFECT
from extract.corpora.affwild2_folders import (
    PARTITION_FOLDERS,
    VIDEO_SUFFIXES,
    Folders,
    find_folders,
    given_folders,
    index_videos,
)
from extract.corpora.annotations import read_annotation, split_side
from extract.corpora.contract import Corpus
from extract.corpora.file_names import FolderIndex, name_faults, normal, trial_name, visible
from extract.corpora.reading import (
    RowFaults,
    attempt,
    check_face,
    find_crops,
    find_transcript,
    finish,
    list_crops,
    media_path,
    of_trial,
    parse_rate,
    probe_videos,
    read_text,
    report_lengths,
    report_rates,
)
from extract.faces.crop_files import crop_numbers, open_crops
from extract.faces.tracking import FACES
from extract.media.video import VideoInfo

_OTHER = {"left": "right", "right": "left"}
_FAR = 100_000  # frames, 55 minutes: a crop numbered above this, and above
_SPARSE = 1_000  # times the number of crops, is misnamed
_NAMED_RATE = re.compile(r"\d+-(\d+)-\d+x\d+(?:\D.*)?")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """Where the parts are, if not under the root; paths are absolute or relative to the root.

    Attributes:
        crops: folders of crops, in any order; empty: every folder named cropped_aligned….
        videos: folders of videos; empty: every folder named batch1, batch2, ….
        annotations: folder that holds Train_Set and Validation_Set; empty: that of the newest edition.
        test_list: file that lists the trials of the test partition; empty: found by its name.
        use_crops: false to detect faces in the videos even if there are crops.
        rate: frames per second of trials that have neither a video nor a rate in their name (sound needs it, crops do not).
        face: whose face to follow if the trial's name gives no side: largest, centre, left or right.
    """

    crops: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    annotations: str = ""
    test_list: str = ""
    use_crops: bool = True
    rate: str = "30"
    face: str = FACES[0]

    def __post_init__(self) -> None:
        check_face(self.face)
        parse_rate(self.rate)


@dataclass
class _Found:
    """What is known of one trial before its files are opened."""

    name: str
    partition: str
    annotation: Path | None
    video_name: str
    face: str
    video: Path | None = None
    crops: Path | None = None
    last_crop: int = 0
    num_crops: int = 0


class AffWild2(Corpus):
    """Aff-Wild2 on disk."""

    config: Config = Config()

    @staticmethod
    def recognises(root: Path) -> bool:
        """Whether a folder looks like this corpus."""
        return root.is_dir() and not (root / "subjects.csv").exists() and bool(find_folders(root).annotations)

    def read(self, root: Path) -> Manifest:
        """Read a corpus folder.

        Raises:
            MissingFileError: if the folder, or one named in the settings, does not exist.
            CorpusError: if names, labels, crops or videos are missing or wrong; lists every fault.
        """
        folders = self._folders(root)
        faults: list[str] = []
        entries = _list_trials(root, folders, faults)
        videos = index_videos(folders.videos, faults)
        found = [_identify(name, partition, path, videos, entries) for name, (partition, path) in entries.items()]
        crops = [FolderIndex(folder) for folder in folders.crops]
        for item in found:
            _find_media(item, folders, crops, videos, faults)
        probed = probe_videos(item.video for item in found if item.video is not None)
        words = FolderIndex(root / "words")
        trials = [trial for item in found if (trial := self._read_trial(root, item, probed, words, faults)) is not None]
        if not folders.test_lists:
            _report_unlisted(sorted(videos.keys() - {item.video_name for item in found}))
        _report(trials, bool(folders.videos))
        report_rates({path.name: info for path, info in probed.items() if isinstance(info, VideoInfo)})
        infos = {item.name: probed[item.video] for item in found if item.video is not None}
        report_lengths(
            (trial.id, trial.clock.num_frames, info.num_frames)
            for trial in trials
            if isinstance(info := infos.get(trial.id), VideoInfo)
        )
        return finish(root, trials, AFFECT, faults)

    def _folders(self, root: Path) -> Folders:
        found = find_folders(root)
        config = self.config
        crops = given_folders(root, config.crops) if config.crops else found.crops
        return Folders(
            crops if config.use_crops else (),
            given_folders(root, config.videos) if config.videos else found.videos,
            given_folders(root, [config.annotations]) if config.annotations else found.annotations,
            given_folders(root, [config.test_list]) if config.test_list else found.test_lists,
        )

    def _read_trial(
        self,
        root: Path,
        item: _Found,
        probed: Mapping[Path, VideoInfo | AvFusionError],
        transcripts: FolderIndex,
        faults: list[str],
    ) -> Trial | None:
        """Read one trial as far as possible and add its faults to the list; None if not even its length is known."""
        own: list[str] = []
        info = probed.get(item.video) if item.video else None
        if isinstance(info, AvFusionError):
            own.append(str(info))
            info = None
        labels = None
        num_rows = 0
        if item.annotation is not None:
            try:
                labels = read_annotation(item.annotation)
                num_rows = len(labels)
            except AvFusionError as error:
                own.append(str(error))
                num_rows = error.num_rows if isinstance(error, RowFaults) else 0
        words = attempt(own, find_transcript, transcripts, item.name, item.video_name)
        clock = self._clock(item, info, num_rows, own)
        faults += [of_trial(item.name, fault) for fault in own]
        if clock is None:
            return None
        video = None if info is None else item.video
        sound = video if info is not None and info.has_audio else None
        found = {"video": video, "audio": sound, "crops": item.crops, "words": words}
        media = {kind: media_path(path, root) for kind, path in found.items() if path is not None}
        face = self.config.face if item.face == FACES[0] else item.face
        return Trial(item.name, item.video_name, item.partition, clock, media, labels, face)

    def _clock(self, item: _Found, info: VideoInfo | None, num_rows: int, faults: list[str]) -> FrameClock | None:
        """One tick per label row; without labels, one per picture of the video, or else up to the last crop."""
        num_frames = num_rows or (info.num_frames if info is not None else 0)
        if not num_frames and item.last_crop > max(_FAR, _SPARSE * item.num_crops):
            faults.append(_far_crop(item))
            return None
        num_frames = num_frames or item.last_crop
        if not num_frames:
            return None  # already reported as a fault
        counts = [("video frames", info.num_frames, item.video)] if info is not None else []
        if item.last_crop > num_frames:
            counts.append(("numbered crops", item.last_crop, item.crops))
        for what, found, path in counts:
            attempt(faults, check_length, item.name, what, found, num_frames, str(path))
        if info is not None:
            return info.clock.resized(num_frames)
        return FrameClock(self._named_rate(item.video_name), num_frames)

    def _named_rate(self, video_name: str) -> Fraction:
        match = _NAMED_RATE.fullmatch(video_name)
        return Fraction(match[1]) if match and int(match[1]) else parse_rate(self.config.rate)


def _list_trials(root: Path, folders: Folders, faults: list[str]) -> dict[str, tuple[str, Path | None]]:
    """Trial → partition and annotation file, by name."""
    places: dict[str, list[tuple[str, Path | None]]] = {}
    if len(folders.annotations) != 1:
        seen = "; ".join(f"'{path}'" for path in folders.annotations) or "none"
        faults.append(
            f"annotations in {seen}, expected one folder '<N>th ABAW Annotations/VA_Estimation_Challenge' or 'VA_Set' under "
            f"'{root}', or corpus.settings.annotations in params.yaml"
        )
    for folder in folders.annotations[:1]:
        for path, partition in _annotation_files(folder, faults):
            places.setdefault(trial_name(path), []).append((partition, path))
    if len(folders.test_lists) > 1:
        seen = "; ".join(f"'{path}'" for path in folders.test_lists)
        faults.append(f"test lists {seen}, expected one; name it in corpus.settings.test_list in params.yaml")
    for path in folders.test_lists[:1]:
        for name in _read_test_list(path, faults):
            places.setdefault(name, []).append(("test", None))
    for name, several in sorted(places.items()):
        if len(several) > 1:
            where = " and in ".join(partition for partition, _ in several)
            faults.append(f"trial '{name}' is in {where}, expected one partition")
    return {name: several[0] for name, several in sorted(places.items())}


def _annotation_files(folder: Path, faults: list[str]) -> list[tuple[Path, str]]:
    """List the annotation files of all partitions; having none is a fault."""
    found = []
    for inner in visible(folder):
        kind = inner.name.lower().replace(" ", "_")
        partition = PARTITION_FOLDERS.get(kind)
        files = [path for path in visible(inner) if path.suffix.lower() == ".txt"]
        if partition:
            found += [(path, partition) for path in files]
            faults += name_faults(inner)
        elif kind == "test_set" and files:
            _log.warning(
                "Labels in '%s' are not used: the test partition is given by a list of names, without labels.", inner
            )
    missing = {"train", "validation"} - {partition for _, partition in found}
    if missing:
        names = ", ".join(sorted(missing))
        faults.append(f"no annotations of {names} in '{folder}', expected Train_Set and Validation_Set with text files")
    return found


def _read_test_list(path: Path, faults: list[str]) -> list[str]:
    try:
        lines = [normal(line.strip()) for line in read_text(path).splitlines()]
    except CorpusError as error:
        faults.append(f"test list {error}")
        return []
    counts = Counter(line for line in lines if line)
    faults += [f"'{path}' names '{name}' {count} times" for name, count in counts.items() if count > 1]
    if not counts:
        faults.append(f"test list '{path}' is empty, expected one trial a line")
    return list(counts)


def _identify(
    name: str, partition: str, annotation: Path | None, videos: Mapping[str, object], names: Mapping[str, object]
) -> _Found:
    """Find the video that a trial belongs to and which of its faces is meant.

    A video with exactly the trial's name is its video. Otherwise a side at the END of the name is removed. Where only one
    of two people has a side in the name, the trial without is the person on the other side.
    """
    video_name, face = (name, "largest") if name in videos else split_side(name)
    sides = [side for side in _OTHER if f"{name}_{side}" in names and f"{name}_{side}" not in videos]
    if face == "largest" and len(sides) == 1:
        face = _OTHER[sides[0]]
    return _Found(name, partition, annotation, video_name, face)


def _find_media(
    item: _Found,
    folders: Folders,
    crops: Sequence[FolderIndex],
    videos: Mapping[str, Sequence[Path]],
    faults: list[str],
) -> None:
    """Fill in video and crops of a trial, or add their faults to the list."""
    if folders.videos:
        several = videos.get(item.video_name, ())
        if len(several) != 1:
            where = " and ".join(f"'{path}'" for path in several or folders.videos)
            wanted = " or ".join(f"'{item.video_name}{suffix}'" for suffix in VIDEO_SUFFIXES)
            faults.append(f"trial '{item.name}': {len(several)} videos {wanted} in {where}, expected 1")
        else:
            item.video = several[0]
    if folders.crops:
        try:
            item.crops, item.last_crop, item.num_crops = _find_crops(item.name, crops)
        except AvFusionError as error:
            faults.append(of_trial(item.name, error))
    if not folders.videos and not folders.crops:
        faults.append(
            f"trial '{item.name}' has neither crops nor a video; expected folders cropped_aligned or batch1, batch2"
        )


def _find_crops(name: str, folders: Sequence[FolderIndex]) -> tuple[Path, int, int]:
    """Find the crops with this name, their last number and their count; the same crops may lie in two folders."""
    places = [place for index in folders if (place := find_crops(index, name)) is not None]
    numbers = [list_crops(place) for place in places]
    if not places:
        where = " or ".join(f"'{index.folder}'" for index in folders)
        raise CorpusError(f"no crops '{name}' in {where}. Unpack them, or set corpus.settings.use_crops to false.")
    if any(other != numbers[0] for other in numbers[1:]):
        where = " and ".join(f"'{place}'" for place in places)
        raise CorpusError(f"different crops in {where}. Remove one of them.")
    if not numbers[0]:
        raise CorpusError(f"'{places[0]}' holds no crops, expected pictures such as '00001.jpg'. Unpack it again.")
    return places[0], numbers[0][-1], len(numbers[0])


def _far_crop(item: _Found) -> str:
    """Describe the fault of a trial whose last crop has an implausibly high number."""
    assert item.crops is not None
    names = open_crops(item.crops).names
    name = names[crop_numbers(item.crops, names)[item.last_crop]]
    return (
        f"crop '{name}' of '{item.crops}' would make it {item.last_crop} frames long, with {item.num_crops} crops in all; expected "
        f"at most {_SPARSE} frames per crop if neither labels nor a video give the length. Remove or rename '{name}', or add the video"
    )


def _report_unlisted(names: Sequence[str]) -> None:
    """Warn about videos of no trial where nothing says which of them are for test."""
    if names:
        _log.warning(
            "Left out for want of an annotation: %s, e.g. '%s'. The test partition's are named by the organisers' list: put it beside "
            "the annotations, or name it in corpus.settings.test_list.",
            counted(len(names), "video"),
            names[0],
        )


def _report(trials: Sequence[Trial], with_videos: bool) -> None:
    """Warn about things that are not faults but worth knowing."""
    if trials and not with_videos:
        _log.warning(
            "There are no videos, so there is no sound; frame rates come from the names or the settings, and trials without "
            "labels end with their last crop."
        )
    homes: dict[str, set[str]] = {}
    for trial in trials:
        homes.setdefault(trial.subject, set()).add(trial.partition)
    for subject, partitions in homes.items():
        if len(partitions) > 1:
            _log.warning("People of video '%s' are in the partitions %s.", subject, " and ".join(sorted(partitions)))
