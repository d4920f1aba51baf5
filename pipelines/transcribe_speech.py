"""Recognise what is said: transcripts for trials, or loose files, that come without words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cache.errors import AvFusionError
from cache.manifest import Manifest
from extract.engine import Outcome
from extract.punctuation import open_restorer
from extract.speech import open_recogniser, transcribe
from pipelines import paths
from pipelines.build_corpus import add_transcripts, transcript_path
from pipelines.console import progress
from pipelines.loose_media import refuse_namesakes


def transcribe_project(recogniser: str, punctuation: str, redo: bool = False) -> Outcome:
    """Give every trial of the project's corpus that has sound but no words a transcript under `work/words`.

    The manifest then names the transcripts, so that text backbones read them; transcripts that exist are kept.

    Args:
        recogniser: see `extract.speech.open_recogniser`.
        punctuation: model that restores punctuation, "" for none.
        redo: whether to recognise again what is finished.

    Returns:
        What was recognised, kept or failed.

    Raises:
        AvFusionError: if the recogniser or the punctuation model cannot be opened.
    """
    manifest = Manifest.load(paths.CORPUS)
    lacking = [trial for trial in manifest.trials if "words" not in trial.media and "audio" in trial.media]
    to_do = {
        trial.id: (manifest.path(trial, "audio"), transcript_path(trial))
        for trial in lacking
        if redo or not transcript_path(trial).is_file()
    }
    outcome = _transcribe_all(to_do, recogniser, punctuation)
    outcome.kept += [trial.id for trial in lacking if trial.id not in to_do]
    add_transcripts(manifest).save(paths.CORPUS)
    return outcome


def transcribe_loose(media: Sequence[Path], out: Path, recogniser: str, punctuation: str) -> Outcome:
    """Recognise loose files into `out/<name>.json`.

    Returns:
        What was recognised or failed.

    Raises:
        CorpusError: if two files have the same name.
        AvFusionError: if the recogniser or the punctuation model cannot be opened.
    """
    refuse_namesakes(media)
    return _transcribe_all({path.stem: (path, out / f"{path.stem}.json") for path in media}, recogniser, punctuation)


def _transcribe_all(to_do: Mapping[str, tuple[Path, Path]], recogniser: str, punctuation: str) -> Outcome:
    """Recognise recordings (id → recording, transcript to write); the models are opened where there are any."""
    outcome = Outcome()
    if not to_do:
        return outcome
    hear, restorer = open_recogniser(recogniser), open_restorer(punctuation) if punctuation else None
    with progress("words", len(to_do)) as advance:
        for name, (recording, transcript) in to_do.items():
            try:
                transcribe(recording, transcript, hear, restorer)
                outcome.computed.append(name)
            except AvFusionError as error:
                outcome.failures[name] = str(error)
            advance(1, name)
    return outcome
