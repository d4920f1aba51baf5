"""Stage `corpus`: generate or read a corpus and write its manifest."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cache.corpus.manifest import Manifest, Trial
from cache.errors import AvFusionError, SettingError, StoreError
from cache.names import config_of, encode_trial_id, load_named
from cache.settings import as_settings
from cache.store.locks import claim, holder, wait_for_any
from extract.corpora import CORPORA
from extract.corpora.contract import Corpus, FindPeople
from extract.corpora.reading import CorpusFaults
from extract.engine.people_numbers import find_moved, save_numbers
from extract.faces.settings import CropConfig
from pipelines.console.console import warn
from pipelines.project import paths
from pipelines.project.corpus_files import FILES, load_files, look, save_files
from pipelines.project.params import CorpusParams

_CLAIM = "build"
_PATIENCE_S = 3600.0  # how long to wait for another process that builds the corpus


def build_corpus(params: CorpusParams, folder: Path, crops: CropConfig | None = None) -> Manifest:
    """Write the manifest of the corpus into `folder`. Without a `root`, the corpus is first generated into `folder/media`.

    Where it has a trial for each person of a video, they are found first, as `crops` says, and kept in `people` beside `folder` with
    a contact sheet of each video. One process builds at a time; a process that waited for another one uses its result if settings and files are the same.

    Raises:
        UnknownNameError: if there is no such corpus.
        SettingError: if a setting is wrong or the corpus needs a folder and has none.
        CorpusError: with all faults of the corpus.
        StoreError: if another process does not finish building within an hour.
    """
    kind = load_named("corpus", CORPORA, params.name)
    corpus: Corpus = kind(as_settings(config_of(CORPORA[params.name]), params.settings, f"corpus '{params.name}'"))
    if not params.root and not corpus.generated:
        raise SettingError(f"Corpus '{params.name}' needs a folder. Set corpus.root in params.yaml.")
    with _claimed(folder) as waited:
        files = look(params)  # before reading, so that a file that changes in the meantime counts as changed
        known = load_files(folder / FILES) if waited else None
        if known is not None and known.is_of(params) and known.files == files:
            return Manifest.load(folder)
        root = Path(params.root).expanduser() if params.root else folder / "media"
        if not params.root:
            _generate(corpus, root)
        people = folder.with_name(paths.PEOPLE.name)
        corpus.find_people = _people_finder(crops or CropConfig(), people)
        manifest = add_transcripts(replace(_read(corpus, root, folder, people), root=Path(params.root or root)))
        manifest.save(folder)
        paths.leave_folder(people)
        save_numbers(manifest, people)
        save_files(params, files, folder / FILES)
    return manifest


def _read(corpus: Corpus, root: Path, folder: Path, people: Path) -> Manifest:
    """Read a corpus; labels of people whose numbers mean somebody else than before are faults as well."""
    faults: list[str] = []
    try:
        manifest = corpus.read(root)
    except CorpusFaults as error:
        manifest, faults = error.manifest, list(error.faults)
    before = None
    with suppress(AvFusionError):  # there is none, or it is damaged
        before = Manifest.load(folder)
    moved = find_moved(manifest, people, before)
    for note in moved.notes:
        warn(note)
    if faults or moved.faults:
        raise CorpusFaults([*faults, *moved.faults], manifest)
    return manifest


def _people_finder(crops: CropConfig, folder: Path) -> FindPeople:
    """What finds the people of a video; loads its networks, which takes seconds, when it is first used."""
    finders: list[Any] = []

    def find(name: str, video: Path) -> tuple[int, Path]:
        from extract.engine.everybody import PeopleFinder

        if not finders:
            finders.append(PeopleFinder(crops, folder, folder))
        found = finders[0].find(name, video)
        return found.people, found.file

    return find


def _generate(corpus: Corpus, root: Path) -> None:
    """Generate a corpus; errors of a media library do not say where, so they are given the path."""
    try:
        corpus.generate(root)
    except OSError as error:
        if isinstance(error, AvFusionError):
            raise
        raise StoreError(
            f"The corpus cannot be generated in '{root}' ({error}). Check the folder, its permissions and the free space."
        ) from error


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Be the only process that builds into a folder; yields true if that took waiting, raises if it took too long."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(folder.parent, os.W_OK):  # a read-only place is fine if nothing has changed
        yield False
        return
    taken = claim(folder, _CLAIM)
    if waited := taken is None:
        warnings.warn(f"Waiting for another process that builds the corpus, {holder(folder, _CLAIM)}.", stacklevel=4)
    while taken is None:
        if not wait_for_any(folder, [_CLAIM], _PATIENCE_S):
            raise StoreError(f"The corpus in '{folder}' is {holder(folder, _CLAIM) or 'still taken'}. Then run again.")
        taken = claim(folder, _CLAIM)
    with taken:
        yield waited


def transcript_path(trial: Trial) -> Path:
    """Path of a trial's recognised words."""
    return paths.WORDS / f"{encode_trial_id(trial.id)}.json"


def add_transcripts(manifest: Manifest) -> Manifest:
    """The manifest with recognised transcripts for trials without words of their own."""
    paths.leave_folder(paths.WORDS)
    trials = []
    for trial in manifest.trials:
        transcript = transcript_path(trial)
        if "words" not in trial.media and transcript.is_file():
            place = Path(os.path.relpath(transcript, manifest.root.expanduser())).as_posix()
            trial = replace(trial, media={**trial.media, "words": place})
        trials.append(trial)
    return replace(manifest, trials=tuple(trials))
