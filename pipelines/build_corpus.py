"""Stage `corpus`: generate or read a corpus and write its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cache.errors import SettingError
from cache.manifest import Manifest
from cache.names import config_of, load_named
from extract.corpora import CORPORA
from pipelines.params import CorpusParams, from_mapping


def build_corpus(params: CorpusParams, folder: Path) -> Manifest:
    """Write the manifest of the corpus into `folder`; a corpus that is generated goes into `folder/media` first.

    Raises:
        UnknownNameError: if there is no such corpus.
        SettingError: if a setting is wrong or the corpus needs a folder and has none.
        CorpusError: with all faults of the corpus at once.
    """
    kind = load_named("corpus", CORPORA, params.name)
    corpus: Any = kind(from_mapping(config_of(kind), params.settings, f"corpus.settings of '{params.name}'"))
    if hasattr(corpus, "generate"):
        root = folder / "media"
        corpus.generate(root)
    elif params.root:
        root = Path(params.root).expanduser()
    else:
        raise SettingError(f"Corpus '{params.name}' needs a folder. Set corpus.root in params.yaml.")
    manifest: Manifest = corpus.read(root)
    manifest.save(folder)
    return manifest
