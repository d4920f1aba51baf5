"""Stage `corpus`: generate or read a corpus and write its manifest."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from cache.errors import SettingError
from cache.manifest import Manifest, Trial
from cache.names import config_of, encode_trial_id, load_named
from extract.corpora import CORPORA
from pipelines import paths
from pipelines.corpus_files import FILES, look, save_files
from pipelines.params import CorpusParams, from_mapping


def build_corpus(params: CorpusParams, folder: Path) -> Manifest:
    """Write the manifest of the corpus into `folder`; a corpus that can be generated is, into `folder/media`, unless `root` is set.

    Raises:
        UnknownNameError: if there is no such corpus.
        SettingError: if a setting is wrong or the corpus needs a folder and has none.
        CorpusError: with all faults of the corpus at once.
    """
    kind = load_named("corpus", CORPORA, params.name)
    corpus: Any = kind(from_mapping(config_of(kind), params.settings, f"corpus.settings of '{params.name}'"))
    if params.root:
        root = Path(params.root).expanduser()
    elif hasattr(corpus, "generate"):
        root = folder / "media"
        corpus.generate(root)
    else:
        raise SettingError(f"Corpus '{params.name}' needs a folder. Set corpus.root in params.yaml.")
    files = look(params)  # before reading: what changes meanwhile is told as changed
    manifest = add_transcripts(corpus.read(root))
    manifest.save(folder)
    save_files(params.root, files, folder / FILES)
    return manifest


def transcript_path(trial: Trial) -> Path:
    """Where the recognised words of a trial lie."""
    return paths.WORDS / f"{encode_trial_id(trial.id)}.json"


def add_transcripts(manifest: Manifest) -> Manifest:
    """The manifest with recognised transcripts for the trials that have no words of their own."""
    trials = []
    for trial in manifest.trials:
        transcript = transcript_path(trial)
        if "words" not in trial.media and transcript.is_file():
            place = Path(os.path.relpath(transcript.resolve(), manifest.root.resolve())).as_posix()
            trial = replace(trial, media={**trial.media, "words": place})
        trials.append(trial)
    return replace(manifest, trials=tuple(trials))
