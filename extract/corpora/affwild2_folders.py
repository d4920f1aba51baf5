"""Find the parts of Aff-Wild2, because every edition names and nests its folders differently."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.errors import CorpusError, MissingFileError
from extract.corpora.file_names import require_text, trial_name, visible

PARTITION_FOLDERS = {"train_set": "train", "training_set": "train", "validation_set": "validation"}
VIDEO_SUFFIXES = (".mp4", ".avi")
TEST_LISTS = "names_of_videos_in_each_test_set"

_DEPTH = 4  # levels of folders below the root that are searched
_EDITION = re.compile(r"(\d+)(?:st|nd|rd|th)[ _]ABAW[ _]Annotations", re.IGNORECASE)
_TRACKS = ("va_estimation_challenge", "va_set")
_TEST_LIST = re.compile(r"valence_arousal.*test_set.*\.txt", re.IGNORECASE)


@dataclass(frozen=True)
class Folders:
    """The folders found, each list sorted by path.

    Attributes:
        crops: folders with one folder (or zip) of crops per trial.
        videos: folders with videos.
        annotations: folders with a folder per partition, those of the newest edition only.
        test_lists: files that name the trials of the test partition.
    """

    crops: tuple[Path, ...]
    videos: tuple[Path, ...]
    annotations: tuple[Path, ...]
    test_lists: tuple[Path, ...]


def find_folders(root: Path) -> Folders:
    """Search a folder for the parts of Aff-Wild2 by their names.

    Raises:
        MissingFileError: if there is no such folder.
    """
    if not root.is_dir():
        raise MissingFileError(f"No corpus folder '{root}'. Check corpus.root in params.yaml.")
    found: dict[str, list[Path]] = {"crops": [], "videos": [], "annotations": [], "tests": []}
    level = [root]
    for _ in range(_DEPTH):
        level = [inner for folder in level for inner in _sort_in(folder, found)]
    newest = max(map(_edition, found["annotations"]), default=0)
    annotations = [path for path in found["annotations"] if _edition(path) == newest]
    lists = [path for folder in found["tests"] for path in visible(folder) if _TEST_LIST.fullmatch(path.name)]
    return Folders(*(tuple(sorted(group)) for group in (found["crops"], found["videos"], annotations, lists)))


def given_folders(root: Path, paths: Sequence[str]) -> tuple[Path, ...]:
    """Folders or files named in settings, absolute or relative to the root; sorted, so that their order has no effect.

    Raises:
        MissingFileError: if one does not exist.
    """
    places = sorted({root / Path(path).expanduser() for path in paths})
    missing = [f"'{path}'" for path in places if not path.exists()]
    if missing:
        raise MissingFileError(f"No {', '.join(missing)}. Check corpus.settings in params.yaml.")
    return tuple(places)


def _sort_in(folder: Path, found: dict[str, list[Path]]) -> list[Path]:
    """Sort the folders inside a folder by kind; returns those to search further."""
    further = []
    for path in visible(folder):
        name = path.name.lower()
        if not path.is_dir():
            continue
        if name.startswith("cropped_aligned"):
            found["crops"] += _crop_folders(path)
        elif re.fullmatch(r"batch[ _]?\d+", name):
            found["videos"].append(path)
        elif name in _TRACKS:
            found["annotations"].append(path)
        elif name.startswith(TEST_LISTS):
            found["tests"].append(path)
        else:
            further.append(path)
    return further


def _crop_folders(path: Path) -> list[Path]:
    """The folder itself, or the folders of its kind inside: archives unpack into a folder of the same name."""
    inner = [child for child in visible(path) if child.is_dir() and child.name.lower().startswith("cropped_aligned")]
    own = any(child not in inner for child in visible(path))
    return [place for child in inner for place in _crop_folders(child)] + [path] * (own or not inner)


def _edition(path: Path) -> int:
    """Number of the edition in a path; 0 for those of 2020 and 2021, which have none."""
    numbers = [int(match[1]) for part in path.parts if (match := _EDITION.fullmatch(part))]
    return numbers[-1] if numbers else 0


def index_videos(folders: Sequence[Path], faults: list[str]) -> dict[str, list[Path]]:
    """Videos by name, wherever they lie in these folders."""
    index: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file():
                try:
                    require_text(path)
                except CorpusError as error:
                    faults.append(str(error))
                    continue
                index.setdefault(trial_name(path), []).append(path)
    return index
