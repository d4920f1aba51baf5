"""Recognise speech: make transcripts for trials, or loose files, without words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cache.corpus.manifest import Manifest, Trial
from cache.errors import AvFusionError, CorpusError
from cache.names import encode_trial_id
from cache.store.locks import free
from extract.corpora.file_names import FolderIndex, require_text
from extract.corpora.reading import TRANSCRIPTS, find_transcript
from extract.engine.claim_queue import ClaimQueue
from extract.engine.outcome import Outcome, join_outcomes
from extract.speech.punctuation import open_restorer
from extract.speech.recognition import open_recogniser, transcribe
from pipelines.clusters.cluster import Cluster, Seat
from pipelines.clusters.groups import Item
from pipelines.clusters.sharing import share
from pipelines.clusters.worker import Runner
from pipelines.console.console import Told, progress
from pipelines.project import paths
from pipelines.project.loose_media import by_name
from pipelines.stages.corpus import add_transcripts, transcript_path

FAILURES = "words.failures.txt"
"""File that lists failures, beside the transcripts; as `.json` it could be mistaken for one."""


@dataclass(frozen=True)
class Recordings:
    """Recordings to transcribe: the project's trials without words, or loose files.

    Attributes:
        folder: folder of the transcripts.
        places: id → recording, and its transcript in the folder.
        kept: ids of recordings that have another kind of transcript.
        failures: id → why it cannot be transcribed.
        corpus: the manifest that will list the transcripts; None for loose files.
    """

    folder: Path
    places: dict[str, tuple[Path, Path]]
    kept: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    corpus: Manifest | None = None


def find_project() -> Recordings:
    """All trials in the project's corpus with sound but no words of their own; transcripts go to `work/words`."""
    manifest = Manifest.load(paths.CORPUS)
    lacking = [trial for trial in manifest.trials if "audio" in trial.media and not _has_own_words(manifest, trial)]
    places = {trial.id: (manifest.path(trial, "audio"), transcript_path(trial)) for trial in lacking}
    return Recordings(paths.WORDS, places, corpus=manifest)


def _has_own_words(manifest: Manifest, trial: Trial) -> bool:
    return "words" in trial.media and manifest.path(trial, "words") != transcript_path(trial).resolve()


def find_loose(media: Sequence[Path], out: Path, redo: bool = False) -> Recordings:
    """Loose files; transcripts go to `out/<name>.json`. Files that have any kind of transcript there are kept.

    Args:
        media: the files.
        out: folder for the transcripts.
        redo: whether to write `<name>.json` again; a file with another kind of transcript fails.

    Raises:
        CorpusError: if two files have the same name.
    """
    found = Recordings(out, {})
    present = FolderIndex(out)
    for name, path in by_name(media).items():
        transcript = out / f"{name}.json"
        try:
            require_text(path)
            encode_trial_id(name)
            if redo:
                _refuse_other_kinds(present, transcript)
            if find_transcript(present, name) is None or redo:
                found.places[name] = (path, transcript)
            else:
                found.kept.append(name)
        except AvFusionError as error:
            found.failures[name] = str(error)
    return found


def _refuse_other_kinds(present: FolderIndex, transcript: Path) -> None:
    """Raise if there is another kind of transcript: with two of them, a recording's words are ambiguous."""
    places = present.find(transcript.name.removesuffix(".json"), TRANSCRIPTS)
    others = " and ".join(f"'{path}'" for path in places if path != transcript)
    if others:
        raise CorpusError(
            f"There is {others} already; expected no other kind of transcript beside '{transcript}', because two are "
            "ambiguous. Remove or rename it, give another folder with --out, or keep it: run without --redo."
        )


def transcribe_all(
    recordings: Recordings, recogniser: str, punctuation: str, redo: bool = False, cluster: Cluster | None = None
) -> Outcome:
    """Recognise recordings without a transcript, or all.

    Several processes may do this simultaneously and share the work. The models are only opened if there is work to do.

    Args:
        recordings: what to transcribe.
        recogniser: see `extract.speech.recognition.open_recogniser`.
        punctuation: model that restores punctuation, "" for none.
        redo: whether to recognise finished recordings again.
        cluster: does the work, if any.

    Returns:
        The recordings recognised, kept or failed.

    Raises:
        AvFusionError: if the recogniser or the punctuation model cannot be opened.
    """
    outcome = Outcome(kept=list(recordings.kept), failures=dict(recordings.failures))
    left = [
        Item(name, _size(sound), (name, sound, transcript))
        for name, (sound, transcript) in recordings.places.items()
        if redo or not transcript.is_file()
    ]
    names = {item.name for item in left}
    outcome.kept += [name for name in recordings.places if name not in names]
    scribe = _Scribe(recordings.folder, recogniser, punctuation, redo)
    if left and cluster is not None:
        shared = share(cluster, left, scribe, "kilobytes", release=scribe.release)
        outcome = join_outcomes([outcome, *shared.results])
        outcome.failures |= shared.failures
    elif left:
        run = scribe("cpu")
        with progress("words", len(left)) as advance:
            made = run([item.content for item in left], lambda title, size, name: advance(1, name))
        outcome = join_outcomes([outcome, made])
    if recordings.corpus is not None:
        add_transcripts(recordings.corpus).save(paths.CORPUS)
    return outcome


@dataclass(frozen=True)
class _Scribe:
    """Opens the models; see `transcribe_all`."""

    folder: Path
    recogniser: str
    punctuation: str
    redo: bool

    def __call__(self, device: str) -> Runner:
        """Return what transcribes recordings (name, sound, transcript) that no other process works on."""
        hear = open_recogniser(self.recogniser)
        restorer = open_restorer(self.punctuation) if self.punctuation else None
        made_by = {"recogniser": _model_name(self.recogniser), "punctuation": _model_name(self.punctuation)}

        def run(recordings: list[tuple[str, Path, Path]], told: Told) -> Outcome:
            """Transcribe what nobody else does, and tell of each one."""
            outcome = Outcome()
            places = {name: (sound, transcript) for name, sound, transcript in recordings}

            def advance(name: str, was_finished: bool) -> None:
                told("words", _size(places[name][0]), "" if was_finished else name)

            def make(name: str) -> None:
                transcribe(*places[name], hear, restorer, made_by)

            queue = ClaimQueue(self.folder, outcome, "transcripts", advance)
            queue.work(list(places), lambda name: not self.redo and places[name][1].is_file(), make)
            return outcome

        return run

    def release(self, names: list[str], seat: Seat) -> None:
        """Free what a dead worker had claimed."""
        free(self.folder, [encode_trial_id(name) for name in names], seat.node.host, seat.node.pid)


def _size(path: Path) -> int:
    """Kilobytes of a file, at least one."""
    return max(1, path.stat().st_size // 1000) if path.is_file() else 1


def _model_name(wanted: str) -> str:
    """Name of a recogniser or model without its folder, which differs between machines.

    >>> _model_name("vosk:~/models/vosk-model-en-us-0.22/")
    'vosk:vosk-model-en-us-0.22'
    """
    kind, colon, place = wanted.partition(":")
    return f"{kind}:{Path(place).name}" if colon else Path(kind).name if Path(kind).exists() else kind
