"""Recognise what is said: transcripts for trials, or loose files, that come without words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cache.errors import AvFusionError, CorpusError
from cache.manifest import Manifest, Trial
from cache.names import encode_trial_id
from extract.claim_queue import ClaimQueue
from extract.corpora.file_names import FolderIndex, require_text
from extract.corpora.reading import TRANSCRIPTS, find_transcript
from extract.outcome import Outcome
from extract.punctuation import open_restorer
from extract.speech import open_recogniser, transcribe
from pipelines import paths
from pipelines.build_corpus import add_transcripts, transcript_path
from pipelines.console import progress
from pipelines.loose_media import by_name

FAILURES = "words.failures.txt"
"""List of failed files among transcripts; with `.json` it could be the transcript of a recording of that name."""


def transcribe_project(recogniser: str, punctuation: str, redo: bool = False) -> Outcome:
    """Give every trial of the project's corpus that has sound but no words of its own a transcript under `work/words`.

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
    lacking = [trial for trial in manifest.trials if "audio" in trial.media and not _has_own_words(manifest, trial)]
    jobs = {trial.id: (manifest.path(trial, "audio"), transcript_path(trial)) for trial in lacking}
    outcome = _transcribe_all(paths.WORDS, jobs, recogniser, punctuation, redo)
    add_transcripts(manifest).save(paths.CORPUS)
    return outcome


def _has_own_words(manifest: Manifest, trial: Trial) -> bool:
    return "words" in trial.media and manifest.path(trial, "words") != transcript_path(trial).resolve()


def transcribe_loose(
    media: Sequence[Path], out: Path, recogniser: str, punctuation: str, redo: bool = False
) -> Outcome:
    """Recognise loose files into `out/<name>.json`; transcripts of their names that lie there, of any kind, are kept.

    Args:
        media: the files.
        out: folder for the transcripts.
        recogniser: see `extract.speech.open_recogniser`.
        punctuation: model that restores punctuation, "" for none.
        redo: whether to write `<name>.json` anew; a file that has a transcript of another kind fails.

    Returns:
        What was recognised, kept or failed.

    Raises:
        CorpusError: if two files have the same name.
        AvFusionError: if the recogniser or the punctuation model cannot be opened.
    """
    to_do: dict[str, tuple[Path, Path]] = {}
    kept, failures = [], {}
    present = FolderIndex(out)
    for name, path in by_name(media).items():
        transcript = out / f"{name}.json"
        try:
            require_text(path)
            encode_trial_id(name)
            if redo:
                _refuse_other_kinds(present, transcript)
            if find_transcript(present, name) is None or redo:
                to_do[name] = (path, transcript)
            else:
                kept.append(name)
        except AvFusionError as error:
            failures[name] = str(error)
    outcome = _transcribe_all(out, to_do, recogniser, punctuation, redo)
    outcome.kept += kept
    outcome.failures |= failures
    return outcome


def _refuse_other_kinds(present: FolderIndex, transcript: Path) -> None:
    """Refuse to write a transcript beside one of another kind: a recording with two has no words.

    Raises:
        CorpusError: naming those that are there.
    """
    places = present.find(transcript.name.removesuffix(".json"), TRANSCRIPTS)
    others = " and ".join(f"'{path}'" for path in places if path != transcript)
    if others:
        raise CorpusError(
            f"There is {others} already; expected no transcript of another kind beside '{transcript}', since one of two "
            "cannot be chosen. Remove or rename it, give another folder with --out, or keep it: run without --redo."
        )


def _transcribe_all(
    folder: Path, jobs: Mapping[str, tuple[Path, Path]], recogniser: str, punctuation: str, redo: bool
) -> Outcome:
    """Recognise recordings (id → recording, transcript to write in the folder) that have no transcript yet, or all.

    Several processes may do this at once: they share the work. The models are opened if there is any.
    """
    outcome = Outcome()

    def is_finished(trial_id: str) -> bool:
        return not redo and jobs[trial_id][1].is_file()

    if all(map(is_finished, jobs)):
        outcome.kept += jobs
        return outcome
    hear, restorer = open_recogniser(recogniser), open_restorer(punctuation) if punctuation else None

    made_by = {"recogniser": _model_name(recogniser), "punctuation": _model_name(punctuation)}

    def make(trial_id: str) -> None:
        transcribe(*jobs[trial_id], hear, restorer, made_by)

    with progress("words", len(jobs)) as advance:
        queue = ClaimQueue(folder, outcome, "transcripts", lambda trial_id: advance(1, trial_id))
        queue.work(list(jobs), is_finished, make)
    return outcome


def _model_name(wanted: str) -> str:
    """A recogniser or a model without the folders that differ between machines.

    >>> _model_name("vosk:~/models/vosk-model-en-us-0.22/")
    'vosk:vosk-model-en-us-0.22'
    """
    kind, colon, place = wanted.partition(":")
    return f"{kind}:{Path(place).name}" if colon else Path(kind).name if Path(kind).exists() else kind
