"""What all corpus readers share: collect faults, read text and CSV, probe videos, find crops and transcripts."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from cache.clock import ALLOWED_DIFFERENCE
from cache.corpus.manifest import Manifest, Trial
from cache.errors import AvFusionError, CorpusError, MediaError, SettingError, plain_error
from cache.names import encode_trial_id
from cache.targets import Target
from extract.corpora.file_names import FolderIndex
from extract.faces.crop_files import crop_numbers, open_crops
from extract.faces.tracking import FACES
from extract.media.audio import sound_clock
from extract.media.timeline import first_picture_s
from extract.media.video import VideoInfo, probe

T = TypeVar("T")

_log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")
TRANSCRIPTS = (".json", ".srt", ".vtt", ".TextGrid")
SUBJECTS_HEADER = ["trial", "subject", "partition"]
SEPARATORS = {";": "';'", "\t": "tabs"}  # written by spreadsheets instead of commas
_READERS = 4  # videos probed in parallel; disks gain little from more


class CorpusFaults(CorpusError):
    """All faults of a corpus.

    Attributes:
        faults: one sentence each.
        manifest: the trials that could be read nevertheless.
    """

    def __init__(self, faults: Sequence[str], manifest: Manifest) -> None:
        self.faults = tuple(faults)
        self.manifest = manifest
        listed = "\n- ".join(fault.replace("\n", "\\n") for fault in faults)  # a name may contain any character
        count = f"{len(faults)} fault{'s' * (len(faults) > 1)}"
        super().__init__(f"Corpus '{manifest.root}' has {count}:\n- {listed}\nFix them and run again.")


class RowFaults(CorpusError):
    """Faults of a label file that nevertheless has rows.

    Attributes:
        num_rows: its length in frames; 0 if rows are not frames.
        columns: names of its targets; () if the header is faulty.
    """

    def __init__(self, message: str, num_rows: int, columns: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.num_rows, self.columns = num_rows, columns


def of_trial(name: str, fault: object, kind: str = "trial") -> str:
    """Prefix a fault with its trial, unless it names the trial already.

    >>> of_trial("a", "no sound"), of_trial("a", "Trial 'a' has no sound")
    ("trial 'a': no sound", "Trial 'a' has no sound")
    """
    text = str(fault)
    return text if text.startswith(f"Trial '{name}' ") else f"{kind} '{name}': {text}"


def attempt(faults: list[str], function: Callable[..., T], *arguments: Any) -> T | None:
    """Call a function; if it raises one of our errors, add it to the faults and return None."""
    try:
        return function(*arguments)
    except AvFusionError as error:
        faults.append(str(error))
        return None


def read_text(path: Path) -> str:
    """Read the text of a file.

    Raises:
        CorpusError: if it cannot be read or is not UTF-8; names the file and the line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        what = "is a folder" if path.is_dir() else f"cannot be read ({error.strerror})"
        remedy = "Replace it." if path.exists() else "Check the path."
        raise CorpusError(f"'{path}' {what}, expected a text file. {remedy}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CorpusError(f"'{path}' line {line} is not UTF-8, expected UTF-8. Save the file as UTF-8.") from error


def read_csv(path: Path) -> list[list[str]]:
    """Read the lines of a CSV, cells stripped of surrounding spaces.

    Raises:
        CorpusError: if it cannot be read, is not UTF-8, not a CSV, or not separated by commas; names the file.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        lines = [[cell.strip() for cell in line] for line in reader]
    except csv.Error as error:
        raise CorpusError(
            f"'{path}' line {reader.line_num} is not a line of a CSV ({error}), expected cells separated by commas. Fix the file."
        ) from error
    if lines and len(lines[0]) == 1 and (fault := separator_fault(lines[0][0])):
        raise CorpusError(f"'{path}' {fault}. Save the file with commas.")
    return lines


def separator_fault(header: str) -> str:
    """Report a first line whose columns are not separated by commas; "" if there is no fault."""
    found = [name for mark, name in SEPARATORS.items() if mark in header]
    if not found or "," in header:
        return ""
    return f"line 1 is '{header[:60]}', separated by {found[0]}, expected commas"


def finish(root: Path, trials: Iterable[Trial], targets: tuple[Target, ...], faults: list[str]) -> Manifest:
    """Make the manifest of these trials.

    Raises:
        CorpusFaults: if there are faults or no trials; holds the manifest of what could be read.
    """
    named = tuple(trial for trial in trials if attempt(faults, encode_trial_id, trial.id) is not None)
    manifest = Manifest(root, named, targets)
    _report_absent(manifest.trials)
    if not manifest.trials and not faults:
        faults = ["it holds no trials"]
    if faults:
        raise CorpusFaults(faults, manifest)
    return manifest


def _report_absent(trials: Sequence[Trial]) -> None:
    """Warn about media that some trials lack and others have."""
    kinds = {"pictures": ("crops", "video"), "sound": ("audio",), "words": ("words",)}
    for what, media in kinds.items():
        lacking = [trial.id for trial in trials if not any(kind in trial.media for kind in media)]
        if 0 < len(lacking) < len(trials):
            count = f"{len(lacking)} of {len(trials)} trials have no {what}, e.g. '{lacking[0]}'"
            _log.warning(
                "%s; their frames are marked invalid in features of %s, and everything else works.", count, what
            )


def media_path(path: Path, root: Path) -> str:
    """Path of a medium as stored in a manifest: relative to the root if inside it, else absolute.

    >>> media_path(Path("/a/b/c.mp4"), Path("/a"))
    'b/c.mp4'
    """
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.resolve().as_posix()


def probe_videos(paths: Iterable[Path], sound_rate: Fraction | None = None) -> dict[Path, VideoInfo | AvFusionError]:
    """Probe each video: its contents, or why it cannot be read.

    Args:
        paths: the videos.
        sound_rate: frames per second of files with sound only; None to reject these.
    """

    def look(path: Path) -> VideoInfo | AvFusionError:
        """The contents of one video, or the error of reading it."""
        try:
            if sound_rate is not None and first_picture_s(path) is None:
                clock = sound_clock(path, sound_rate)
                return VideoInfo(clock, clock.duration_s, 0, 0, has_audio=True)
            return probe(path)
        except AvFusionError as error:
            return error
        except Exception as error:  # from any library
            return MediaError(f"'{path}' cannot be read: {plain_error(error)}")

    wanted = sorted(set(paths))
    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(wanted, pool.map(look, wanted), strict=True))


def list_crops(path: Path) -> list[int]:
    """Numbers of the crops in a folder or zip, from 1, sorted.

    Raises:
        MediaError: if it is not a complete zip.
        ShapeError: if numbers are 0, beyond any clock, or occur twice.
    """
    return sorted(crop_numbers(path, open_crops(path).names))


def find_crops(index: FolderIndex, name: str) -> Path | None:
    """Find the crops with this name: a folder of pictures, or a zip of them.

    Raises:
        CorpusError: if there are several.
    """
    folders = [path for path in index.find(name, ("",)) if path.is_dir()]
    found = folders or [path for path in index.find(name, (".zip",)) if path.is_file()]
    if len(found) > 1:
        where = " and ".join(f"'{path}'" for path in found)
        raise CorpusError(
            f"{len(found)} sets of crops with one name: {where}, expected 1. Remove or rename the others."
        )
    return found[0] if found else None


def find_transcript(index: FolderIndex, *names: str) -> Path | None:
    """Find the transcript of the first name that has one.

    Raises:
        CorpusError: if that name has several, or it is a folder.
    """
    for name in names:
        found = index.find(name, TRANSCRIPTS)
        if found and found[0].is_dir():
            raise CorpusError(f"'{found[0]}' is a folder, expected a transcript. Remove or rename it.")
        if len(found) > 1:
            where = " and ".join(f"'{path}'" for path in found)
            raise CorpusError(f"{len(found)} transcripts {where}, expected 1. Remove or rename the others.")
        if found:
            return found[0]
    return None


def report_rates(infos: Mapping[str, VideoInfo]) -> None:
    """Warn, once for a corpus, about videos with a variable frame rate."""
    varying = sorted(name for name, info in infos.items() if info.varies)
    if varying:
        example = f"e.g. '{varying[0]}' ({float(infos[varying[0]].rate):.4g} frames/s on average)"
        count = f"{len(varying)} of {len(infos)} videos have a variable frame rate, {example}"
        _log.warning("%s; row or crop i belongs to their i-th picture, at that picture's own time.", count)


def report_lengths(videos: Iterable[tuple[str, int, int]]) -> None:
    """Warn about trials whose video is one or two pictures longer or shorter; a larger difference is a fault.

    Args:
        videos: trial, number of frames, number of pictures in its video.
    """
    off = [name for name, frames, pictures in videos if 0 < abs(pictures - frames) <= ALLOWED_DIFFERENCE]
    if off:
        count = f"{len(off)} trials have one or two labels more or fewer than pictures, e.g. '{off[0]}'"
        _log.warning("%s; the last picture is repeated, or left out.", count)


def check_face(face: str, known: Sequence[str] = FACES) -> None:
    """Check a setting that names a face.

    Raises:
        SettingError: if it is unknown.
    """
    if face not in known:
        raise SettingError(f"Face '{face}'; expected one of {', '.join(known)}. Change corpus.settings.face.")


def parse_rate(text: str) -> Fraction:
    """Parse a frame rate, frames per second.

    Raises:
        SettingError: if it is not a positive number or fraction.
    """
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise SettingError(f"Rate '{text}' is not a frame rate; expected a positive number such as 25 or 30000/1001.")
    return rate
