"""Stage `plan`, which every `dvc repro` runs: what the other stages depend on beside their code and each other.

DVC itself knows files and whole sections of params.yaml. Here stands, a small file each, what changes a stage and
nothing else: the sections that may be absent, which features any system reads, and what lies in the corpus's folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cache.documents import write_file
from cache.feature_sets import find_set
from cache.names import constant
from cache.places import LocalFolder, Where, open_folder, replace_suffix, split_place
from cache.receipt import save_unread
from extract.backbones import BACKBONES
from pipelines import paths
from pipelines.console import note
from pipelines.corpus_files import look_again
from pipelines.params import Params


def plan_stages(params: Params, features: Where = paths.FEATURES) -> None:
    """Write `work/plan` and `work/corpus-files.json`; files whose content stays are not touched."""
    look_again(params.corpus, paths.CORPUS_FILES)
    documents: dict[str, Any] = {"crops": asdict(params.crops), "evaluate": asdict(params.evaluate)}
    documents["matrix"] = None if params.matrix is None else asdict(params.matrix)
    for name in BACKBONES:
        section = params.extract.get(name)
        documents[name] = {"read": is_read(params, name), "settings": None if section is None else asdict(section)}
    documents["imported"] = _digest_imported(params, features)
    for name, document in documents.items():
        text = json.dumps(document, indent=1, sort_keys=True, default=str) + "\n"
        write_file(paths.PLAN / f"{name}.json", text.encode())


def is_read(params: Params, name: str) -> bool:
    """Whether a system of params.yaml reads these features."""
    return name in _features(params)


def leave_unread(names: Sequence[str], params: Params, features: Where = paths.FEATURES) -> tuple[str, ...]:
    """The backbones that a system of params.yaml reads; the others get a receipt that says so, whatever their store holds."""
    read = []
    for name in names:
        if is_read(params, name):
            read.append(name)
            continue
        note(f"No system of params.yaml reads '{name}': it is not extracted.")
        receipt = paths.receipt_path(features, constant(BACKBONES[name], "modality"), name)
        save_unread(receipt)
        store = open_folder(replace_suffix(receipt, ".zarr"))
        if isinstance(store, LocalFolder):
            paths.leave_folder(store.path)
    return tuple(read)


def _features(params: Params) -> set[str]:
    """Names of all feature sets that systems read."""
    systems = [*params.fusion.systems.values(), *(params.matrix.systems.values() if params.matrix else ())]
    return {name for system in systems for name in system.modalities.values()}


def _digest_imported(params: Params, features: Where) -> dict[str, str]:
    """Digest of the receipt of each set of features that systems read and no backbone makes."""
    digests = {}
    for name in sorted(_features(params)):
        if name not in BACKBONES:
            folder, file = split_place(find_set(features, name).receipt)
            digests[name] = hashlib.sha256(folder.read(file) or b"").hexdigest()
    return digests
