"""Loose media files as trials, each named after its file; a transcript of its name beside it is its words."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from cache.errors import AvFusionError, CorpusError, MissingFileError, SettingError
from cache.manifest import Manifest, Trial
from extract.corpora.reading import TRANSCRIPTS, find_transcript
from extract.sources import media_clock
from extract.tracking import FACES, REFERENCE
from extract.video import first_picture_s
from pipelines.console import warn

SOUND_RATE = Fraction(25)  # frames per second of files without pictures


def refuse_namesakes(media: Sequence[Path]) -> None:
    """Refuse loose files of one name, whose results would be one.

    Raises:
        CorpusError: if two files have the same name.
    """
    names = [path.stem for path in media]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CorpusError(f"Two files are named '{twice[0]}'; a trial is named after its file. Rename one of them.")


@dataclass(frozen=True)
class _LooseManifest(Manifest):
    """Loose files as trials; what one lacks is told as befits a file.

    Attributes:
        files: trial id → the file as it was named.
        unclear: trial id → why nobody can tell which its words are.
    """

    files: dict[str, Path] = field(default_factory=dict)
    unclear: dict[str, str] = field(default_factory=dict)

    def path(self, trial: Trial, kind: str) -> Path:
        if kind in trial.media:
            return super().path(trial, kind)
        file = self.files[trial.id]
        if kind == "words" and trial.id in self.unclear:
            raise CorpusError(self.unclear[trial.id])
        if kind == "words":
            folder, name = shlex.quote(str(file.parent)), shlex.quote(str(file))
            raise MissingFileError(
                f"'{file}' has no words: expected a transcript of its name beside it, with {', '.join(TRANSCRIPTS[:-1])} or {TRANSCRIPTS[-1]}. Run "
                f"'avfusion transcribe --out {folder} {name}'."
            )
        raise MissingFileError(
            f"'{file}' has no {kind}: it is sound only. Leave it out, or use a backbone of sound or words."
        )


def loose_manifest(
    media: Sequence[Path], rate: Fraction | None, face: str = FACES[0]
) -> tuple[Manifest, dict[str, str]]:
    """A manifest of loose files, and why some cannot be read.

    Args:
        media: the files.
        rate: frames per second of those without pictures; None for 25.
        face: whose face is followed: largest, centre, left, right, or the path of a picture.

    Raises:
        CorpusError: if two files have the same name.
        SettingError: if `face` is none of these.
    """
    refuse_namesakes(media)
    person = {} if face in FACES else {"face": Path(face).absolute().as_posix()}
    if person and not Path(face).is_file():
        raise SettingError(f"Face '{face}' is no picture; expected one of {', '.join(FACES)}, or a picture's path.")
    trials, unread, unclear = [], {}, {}
    for path in media:
        words = None
        try:
            clock = media_clock(path, rate or SOUND_RATE)
        except AvFusionError as error:
            unread[path.stem] = str(error)
            continue
        try:
            words = find_transcript(path.absolute().parent, path.stem)
        except AvFusionError as error:
            unclear[path.stem] = str(error)
        place, pictures = path.resolve().as_posix(), first_picture_s(path) is not None
        if rate is not None and pictures and rate != clock.rate:
            warn(f"'{path}' keeps its {float(clock.rate):g} frames/s; --rate is for sound without pictures.")
        kinds = {"audio": place} | ({"video": place, **person} if pictures else {})
        kinds |= {"words": words.as_posix()} if words else {}
        trials.append(Trial(path.stem, path.stem, "", clock, kinds, face=REFERENCE if person else face))
    files = {path.stem: path for path in media}
    return _LooseManifest(Path("/"), tuple(trials), files=files, unclear=unclear), unread
