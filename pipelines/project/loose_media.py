"""Loose media files as trials, each named after its file; its words are the transcript beside it with the same name."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from cache.corpus.manifest import Manifest, Trial
from cache.documents.documents import Document, read_document, write_document
from cache.errors import AvFusionError, CorpusError, MissingFileError, SettingError, WeightsError, plain_error
from cache.foreign import sha256_file
from cache.names import encode_trial_id
from extract.corpora.file_names import FolderIndex, printable, require_text, trial_name
from extract.corpora.reading import TRANSCRIPTS, find_transcript
from extract.engine.everybody import PeopleFinder
from extract.engine.one_file import SOUND_RATE, trial_of_file
from extract.faces.settings import REFERENCE
from extract.faces.tracking import ALL, FACES
from pipelines.console.console import note, warn

_KNOWN = "media.digests.txt"  # trial → sha256 of its file; not mistaken for a transcript, as `.json` would be


class _Contents(Document):
    """Trial → sha256 of the file that its features in a folder were made from."""

    files: dict[str, str]


def by_name(media: Sequence[Path]) -> dict[str, Path]:
    """Name of the trial → file; a file that is given twice counts once, also where its path is written differently.

    Raises:
        CorpusError: if two files have the same name.
    """
    files: dict[str, Path] = {}
    for path in media:
        name = printable(Path(trial_name(path)))
        first = files.setdefault(name, path)
        if first.resolve() != path.resolve():
            raise CorpusError(
                f"Two files are named '{name}', '{first}' and '{path}'; a trial is named after its file. Rename one of them, or give "
                "each another --out."
            )
    return files


def name_clashes(manifest: Manifest, out: Path) -> dict[str, str]:
    """Trials whose name in `out` belongs to a different file, and why they cannot replace it."""
    known = _read(out)
    found = {}
    for trial in manifest.trials:
        path = manifest.path(trial, "audio")
        if trial.id in known and known[trial.id] != sha256_file(path):
            found[trial.id] = (
                f"'{out}' has features named '{trial.id}' of a file other than '{path}'. Rename it, give another --out, or "
                "replace them with --redo."
            )
    return found


def save_digests(manifest: Manifest, trial_ids: Sequence[str], out: Path) -> None:
    """Save the digests of the files that the features of these trials in `out` came from."""
    digests = {trial_id: sha256_file(manifest.path(manifest.trial(trial_id), "audio")) for trial_id in trial_ids}
    write_document(out / _KNOWN, _Contents, {"files": _read(out) | digests}, sort_keys=True)


def _read(out: Path) -> dict[str, str]:
    found = read_document(out / _KNOWN, _Contents, "Delete it; nothing else is lost.")
    return {} if found is None else found.files


@dataclass(frozen=True)
class _LooseManifest(Manifest):
    """Loose files as trials; error messages name the file.

    Attributes:
        files: trial id → the file as it was named.
        unclear: trial id → why its words are ambiguous.
    """

    files: dict[str, Path] = field(default_factory=dict)
    unclear: dict[str, str] = field(default_factory=dict)

    def path(self, trial: Trial, kind: str) -> Path:
        """Where a trial's medium is.

        Raises:
            MissingFileError: if the file has no such medium.
            CorpusError: if it has several transcripts.
        """
        if kind in trial.media:
            return super().path(trial, kind)
        file = self.files[trial.id]
        if kind == "words" and trial.id in self.unclear:
            raise CorpusError(self.unclear[trial.id])
        if kind == "words":
            folder = shlex.quote(str(file.parent))
            name = shlex.quote(str(file))
            raise MissingFileError(
                f"'{file}' has no words; expected a transcript with the same name beside it, ending in {', '.join(TRANSCRIPTS[:-1])} or "
                f"{TRANSCRIPTS[-1]}. Run 'avfusion transcribe --out {folder} {name}'."
            )
        raise MissingFileError(
            f"'{file}' has no {kind}, only sound. Leave it out, or use a backbone for sound or words."
        )


def loose_manifest(
    media: Sequence[Path], rate: Fraction | None, face: str = FACES[0]
) -> tuple[Manifest, dict[str, str]]:
    """A manifest of loose files, and why some cannot be read.

    Args:
        media: the files.
        rate: frames per second of files without pictures; None for 25.
        face: which face to follow: largest, centre, left, right, the path of a picture of the person, or all, see `each_person`.

    Raises:
        CorpusError: if two files have the same name.
        SettingError: if `face` is none of these.
    """
    person = {} if face in (*FACES, ALL) else {"face": Path(face).absolute().as_posix()}
    if person and not Path(face).is_file():
        raise SettingError(
            f"Face '{face}' is not a picture; expected one of {', '.join((*FACES, ALL))}, or a picture's path."
        )
    trials, unread, unclear = [], {}, {}
    files = by_name(media)
    folders: dict[Path, FolderIndex] = {}
    for name, path in files.items():
        words, folder = None, path.absolute().parent
        try:
            require_text(path.absolute())
            encode_trial_id(name)
            trial = trial_of_file(name, path, rate or SOUND_RATE)
        except Exception as error:  # whatever library it is of
            unread[name] = plain_error(error)
            continue
        try:
            if folder not in folders:
                folders[folder] = FolderIndex(folder)
            words = find_transcript(folders[folder], name)
        except AvFusionError as error:
            unclear[name] = str(error)
        pictures = "video" in trial.media
        if rate is not None and pictures and rate != trial.clock.rate:
            warn(f"'{path}' keeps its {trial.clock.rate_hz:g} frames/s; --rate is for sound without pictures.")
        kinds = trial.media | (person if pictures else {}) | ({"words": words.as_posix()} if words else {})
        trials.append(replace(trial, media=kinds, face=REFERENCE if person else face))
    return _LooseManifest(Path("/"), tuple(trials), files=files, unclear=unclear), unread


def each_person(manifest: Manifest, finder: PeopleFinder, search: bool = True) -> tuple[Manifest, dict[str, str]]:
    """Replace every trial of face "all" by one for each person of its video, `VIDEO#1` being the first one seen.

    Args:
        manifest: of loose files.
        finder: finds the people.
        search: whether to search videos of which nobody knows whom they show; otherwise these stay one trial, with a remark.

    Returns:
        The manifest, and why some videos give no trials.

    Raises:
        CorpusError: if a person's trial has the name of another file.
        SettingError, WeightsError: if what tells people apart is not there.
    """
    assert isinstance(manifest, _LooseManifest)
    trials, failures, files = [], {}, dict(manifest.files)
    for trial in manifest.trials:
        if trial.face != ALL or "video" not in trial.media:
            trials.append(replace(trial, face=FACES[0]) if trial.face == ALL else trial)
            continue
        try:
            video = manifest.path(trial, "video")
            found = finder.find(trial.id, video) if search else finder.find_known(trial.id, video)
        except (SettingError, WeightsError):  # a fault of no video: told once
            raise
        except Exception as error:  # whatever library it is of
            failures[trial.id] = plain_error(error)
            continue
        if found is None:
            note(
                f"'{files[trial.id]}' was not searched for people yet, so it counts as one trial; each person will be one."
            )
            trials.append(trial)
            continue
        if not found.people:
            least = f"{finder.config.min_seen_s:g} s"
            failures[trial.id] = f"Nobody is seen for {least} in '{files[trial.id]}'. Check the file, or name a --face."
        people = found.trials(trial)
        trials += people
        files |= dict.fromkeys((person.id for person in people), files[trial.id])
    return replace(manifest, trials=tuple(trials), files=files), failures
