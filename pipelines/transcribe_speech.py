"""Recognise what is said: transcripts for trials, or loose files, that come without words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cache.errors import AvFusionError
from cache.manifest import Manifest
from extract.engine import Outcome
from extract.punctuation import open_restorer
from extract.speech import transcribe
from pipelines import paths
from pipelines.build_corpus import add_transcripts, transcript_path
from pipelines.console import progress
from pipelines.extract_features import refuse_namesakes


def transcribe_project(recogniser: str, punctuation: str, redo: bool = False) -> Outcome:
    """Give every trial of the project's corpus that has sound but no words a transcript under `work/words`.

    The manifest then names the transcripts, so that text backbones read them; transcripts that exist are kept.

    Args:
        recogniser: see `extract.speech.recognise`.
        punctuation: model that restores punctuation, "" for none.
        redo: whether to recognise again what is finished.

    Returns:
        What was recognised, kept or failed.

    Raises:
        AvFusionError: if the recogniser or the punctuation model cannot be opened.
    """
    manifest = Manifest.load(paths.CORPUS)
    lacking = [trial for trial in manifest.trials if "words" not in trial.media and "audio" in trial.media]
    outcome, restorer = Outcome(), open_restorer(punctuation) if punctuation else None
    with progress("words", len(lacking)) as advance:
        for trial in lacking:
            transcript = transcript_path(trial)
            try:
                if redo or not transcript.is_file():
                    transcribe(manifest.path(trial, "audio"), transcript, recogniser, restorer)
                    outcome.computed.append(trial.id)
                else:
                    outcome.kept.append(trial.id)
            except AvFusionError as error:
                outcome.failures[trial.id] = str(error)
            advance(1, trial.id)
    add_transcripts(manifest).save(paths.CORPUS)
    return outcome


def transcribe_loose(media: Sequence[Path], out: Path, recogniser: str, punctuation: str) -> Outcome:
    """Recognise loose files into `out/<name>.json`.

    Returns:
        What was recognised or failed.

    Raises:
        CorpusError: if two files have the same name.
        AvFusionError: if the punctuation model cannot be opened.
    """
    refuse_namesakes(media)
    outcome, restorer = Outcome(), open_restorer(punctuation) if punctuation else None
    with progress("words", len(media)) as advance:
        for path in media:
            try:
                transcribe(path, out / f"{path.stem}.json", recogniser, restorer)
                outcome.computed.append(path.stem)
            except AvFusionError as error:
                outcome.failures[path.stem] = str(error)
            advance(1, path.stem)
    return outcome
