"""Command `corpus check`: all faults of a corpus in one list, and its content."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.corpus.manifest import PARTITIONS, Manifest, Trial
from cache.errors import AvFusionError, MediaError, MissingFileError, SettingError, ShapeError, counted, plain_error
from cache.names import config_of, load_named
from cache.settings import as_settings
from extract.corpora import CORPORA
from extract.corpora.reading import CorpusFaults, attempt, list_crops, of_trial
from extract.engine.people_numbers import find_moved
from extract.faces.crop_files import CropReader, FolderFiles, ZipFiles, damaged_crop, number_crops, open_crops
from extract.faces.settings import CropConfig
from extract.media.audio import count_samples
from extract.media.pictures import UNREADABLE, decode_picture, why_unreadable
from extract.media.video import read_frames
from extract.words.transcripts import read_words
from pipelines.console.console import progress
from pipelines.console.escaping import printable
from pipelines.project import paths
from pipelines.project.params import CorpusParams

if TYPE_CHECKING:
    from extract.engine.everybody import PeopleFinder

_LISTED_CROPS = 5  # damaged crops of one trial that are named; more are counted


@dataclass(frozen=True)
class CorpusCheck:
    """The result of a check.

    Attributes:
        corpus: name of the reader.
        faults: what must be fixed, one sentence each.
        notes: warnings of the reader, and trials of two partitions that have the same labels.
        rows: counts, one row per partition and one for the whole corpus.
    """

    corpus: str
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]

    def document(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {"corpus": self.corpus, "faults": self.faults, "notes": self.notes, "partitions": self.rows}

    def message(self, root: Path) -> str:
        """All faults, as the text of an error."""
        listed = "\n- ".join(printable(fault, keep="") for fault in self.faults)
        count = f"{len(self.faults)} fault{'s' * (len(self.faults) > 1)}"
        return f"Corpus '{root}', read as {self.corpus}, has {count}:\n- {listed}\nFix them and check it again."


def check_corpus(
    root: Path,
    name: str = "",
    params: CorpusParams | None = None,
    decode: bool = False,
    crops: CropConfig | None = None,
) -> CorpusCheck:
    """Read a corpus folder and all media of its trials.

    Args:
        root: the folder.
        name: name of the corpus; "" takes that of the parameters if they are about this folder, else recognises it.
        params: section `corpus` of params.yaml, if there is one.
        decode: whether to decode every crop, picture and sound, which takes hours for a large corpus.
        crops: how the people of videos are found, where each is a trial; videos are not searched for them.

    Raises:
        UnknownNameError: if there is no such corpus.
        SettingError: if the folder does not look like any corpus, or looks like several.
        MissingFileError: if the folder does not exist or lacks what makes it that corpus.
    """
    if not root.is_dir():
        raise MissingFileError(f"No corpus folder '{root}'. Check the path.")
    about_this = params is not None and bool(params.root) and Path(params.root).expanduser().resolve() == root.resolve()
    if not name:
        name = params.name if params is not None and about_this else recognise(root)
    kind = load_named("corpus", CORPORA, name)
    settings = params.settings if params is not None and about_this and params.name == name else {}
    corpus = kind(as_settings(config_of(CORPORA[name]), settings, f"corpus '{name}'"))
    people = _KnownPeople(crops or CropConfig())
    corpus.find_people = people.find
    with _warnings() as notes:
        try:
            manifest = corpus.read(root)
            faults = []
        except CorpusFaults as error:
            manifest = error.manifest
            faults = list(error.faults)
    notes += people.notes()
    faults += people.faults()
    moved = attempt(faults, find_moved, manifest, paths.PEOPLE) if about_this else None
    notes, faults = [*notes, *(moved.notes if moved else ())], [*faults, *(moved.faults if moved else ())]
    present = {trial.id: _look(manifest, trial, faults) for trial in manifest.trials}
    if decode:
        faults += _decode_all(manifest, frozenset(faults))
    notes += _copies(manifest)
    return CorpusCheck(name, tuple(dict.fromkeys(faults)), tuple(notes), tuple(_count(manifest, present)))


class _KnownPeople:
    """The people of videos that were searched before."""

    def __init__(self, crops: CropConfig) -> None:
        self._crops = crops
        self._unknown: list[Path] = []

    def find(self, name: str, video: Path) -> tuple[int, Path] | None:
        """See `extract.corpora.contract.FindPeople`."""
        found = self._finder().find_known(name, video)
        if found is None:
            self._unknown.append(video)
        return found and (found.people, found.file)

    def notes(self) -> list[str]:
        """What is not checked because nobody has looked yet."""
        if not self._unknown:
            return []
        return [
            f"{counted(len(self._unknown), 'video')} of which nobody knows yet whom they show, e.g. '{self._unknown[0]}', so that the names of "
            "labels and subjects of people are not checked; 'avfusion corpus build' searches them."
        ]

    def faults(self) -> list[str]:
        """What would fail such a search."""
        faults: list[str] = []
        if self._unknown:
            attempt(faults, self._finder().load_identity)
        return faults

    def _finder(self) -> PeopleFinder:
        from extract.engine.everybody import PeopleFinder

        return PeopleFinder(self._crops, paths.PEOPLE, paths.PEOPLE)


def recognise(root: Path) -> str:
    """Name of the corpus that a folder looks like.

    Raises:
        SettingError: if it does not look like any corpus, or looks like several.
    """
    names = [name for name in CORPORA if load_named("corpus", CORPORA, name).recognises(root)]
    if len(names) != 1:
        seen = f"like {' and '.join(names)}" if names else "like no corpus"
        raise SettingError(
            f"Folder '{root}' looks {seen}; expected one of {', '.join(CORPORA)}. Name it with --corpus."
        )
    return names[0]


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect the warnings of the readers instead of showing them."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("extract.corpora")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _look(manifest: Manifest, trial: Trial, faults: list[str]) -> np.ndarray | None:
    """(T,) bool, which frames have a crop; None for a trial without crops. Unreadable media are added to the faults."""
    present = None
    for kind in trial.media:
        path = manifest.root / trial.media[kind]  # not resolved, so that faults read as those of the reader
        try:
            if not path.exists():
                faults.append(f"trial '{trial.id}': no {kind} '{path}'")
            elif kind == "words":
                read_words(path)
            elif kind == "crops":
                present = np.zeros(trial.clock.num_frames, bool)
                present[[number - 1 for number in list_crops(path) if number <= trial.clock.num_frames]] = True
            elif kind == "face":
                _check_picture(path)
        except Exception as error:  # from any library
            faults.append(of_trial(trial.id, plain_error(error)))
    return present


def _check_picture(path: Path) -> None:
    """Raise if a reference picture cannot be decoded."""
    try:
        decode_picture(path.read_bytes())
    except UNREADABLE as error:
        raise MediaError(
            f"Reference picture '{path}' cannot be read ({why_unreadable(error)}), expected a JPEG or PNG. Copy it again."
        ) from error


def _decode_all(manifest: Manifest, known: frozenset[str]) -> list[str]:
    """Faults in decoding the pictures and sounds of all trials, apart from the known ones."""
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress("decode", sum(trial.clock.num_frames for trial in manifest.trials)) as advance,
    ):
        faults = []
        for trial, found in zip(
            manifest.trials, pool.map(lambda trial: list(_decode(manifest, trial, known)), manifest.trials), strict=True
        ):
            faults += [of_trial(trial.id, fault) for fault in found]
            advance(trial.clock.num_frames, trial.id)
        return faults


def _decode(manifest: Manifest, trial: Trial, known: frozenset[str]) -> Iterator[str]:
    """Faults of one trial's media; missing files and videos of the wrong length are reported elsewhere."""
    media = {kind: path for kind in trial.media if (path := manifest.root / trial.media[kind]).exists()}
    if "crops" in media:
        yield from _decode_crops(media["crops"], trial)
    start = f"Trial '{trial.id}' has "
    wrong_length = any(fault.startswith(start) and " video frames;" in fault for fault in known)
    try:
        if "video" in media and not wrong_length:
            deque(read_frames(media["video"], trial.clock, trial.id, wanted=lambda tick: False), maxlen=0)
        if "audio" in media:
            count_samples(media["audio"])
    except Exception as error:  # from any library
        yield plain_error(error)


def _decode_crops(path: Path, trial: Trial) -> Iterator[str]:
    reads: list[Callable[[], object]]
    try:
        reader = CropReader(path, trial.clock, trial.id)
        reads = [partial(reader.read, np.array([frame]), 1) for frame in reader.frames]
    except ShapeError as error:  # in the numbers of crops; the pictures may also be damaged
        yield str(error)
        files = open_crops(path)
        reads = [partial(_decode_crop, path, files, at) for at in sorted(number_crops(files.names)[0].values())]
    except AvFusionError as error:
        yield str(error)
        return
    damaged = 0
    for read in reads:
        try:
            read()
        except AvFusionError as error:
            damaged += 1
            if damaged <= _LISTED_CROPS:
                yield str(error)
    if damaged > _LISTED_CROPS:
        yield f"{damaged} of {len(reads)} crops of '{path}' are damaged, of which {_LISTED_CROPS} are named"


def _decode_crop(path: Path, files: FolderFiles | ZipFiles, position: int) -> None:
    """Raise if a crop cannot be decoded."""
    data = files.read(position)
    try:
        decode_picture(data)
    except UNREADABLE as error:
        raise damaged_crop(path, files.names[position], why_unreadable(error)) from error


def _copies(manifest: Manifest) -> Iterator[str]:
    """Trials of different partitions with the same labels: what one learns from the other tests."""
    seen: dict[str, Trial] = {}
    for trial in manifest.trials:
        if trial.partition and trial.labels_digest:
            other = seen.setdefault(trial.labels_digest, trial)
            if other.partition != trial.partition:
                yield (
                    f"Trials '{other.id}' ({other.partition}) and '{trial.id}' ({trial.partition}) have the same labels. If they are "
                    "copies of one recording, figures will be too good: put both in one partition, or leave one out."
                )


def _count(manifest: Manifest, crops: dict[str, np.ndarray | None]) -> Iterator[dict[str, Any]]:
    for partition in (*PARTITIONS, "", None):
        trials = [trial for trial in manifest.trials if partition in (None, trial.partition)]
        if trials or partition is None:
            yield {"partition": {"": "none", None: "all"}.get(partition, partition), **_count_trials(trials, crops)}


def _count_trials(trials: list[Trial], crops: dict[str, np.ndarray | None]) -> dict[str, int]:
    """Numbers of trials, subjects and frames, and of frames with labels and with or without a crop."""
    with_crops = [(trial, present) for trial in trials if (present := crops[trial.id]) is not None]
    labelled = {trial.id: _labelled(trial) for trial in trials}
    return {
        "trials": len(trials),
        "subjects": len({trial.subject for trial in trials}),
        "frames": sum(trial.clock.num_frames for trial in trials),
        "labelled_frames": sum(int(labelled[trial.id].sum()) for trial in trials),
        "trials_with_crops": len(with_crops),
        "crops": sum(int(present.sum()) for _, present in with_crops),
        "missing_crops": sum(int((~present).sum()) for _, present in with_crops),
        "labelled_without_crop": sum(int((labelled[trial.id] & ~present).sum()) for trial, present in with_crops),
    }


def _labelled(trial: Trial) -> np.ndarray:
    """(T,) bool, which frames have a label for any target."""
    if trial.labels is None:
        return np.zeros(trial.clock.num_frames, bool)
    return np.asarray(np.isfinite(trial.labels).any(axis=1))
