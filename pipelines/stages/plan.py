"""Stage `plan`, part of every `dvc repro`: what the other stages depend on apart from their code and each other.

DVC itself only knows files and whole sections of params.yaml. This stage writes a small file for each thing that a stage depends on:
sections that may be missing, which feature sets are read by any system, how and by which backbone each is
made, the files in the corpus's folder, and the code, wherever it is installed (`work/plan/code`). Of a backbone's code only its
own file counts (and `extract/inputs`, in dvc.yaml): other code does not change features unless a number in these files is increased.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cache.documents.documents import write_file
from cache.foreign import sha256_file
from cache.names import source_of
from cache.places.folders import LocalFolder, Where, is_file, open_folder
from cache.store.feature_sets import find_set, locate_set
from cache.store.receipt import save_unread
from extract.backbones import BACKBONES
from extract.faces.tracking import ALL
from pipelines.console.console import note
from pipelines.project import paths
from pipelines.project.code_digest import digest_file, digest_folder
from pipelines.project.corpus_files import look_again
from pipelines.project.finetuned import asks_for_finetuned
from pipelines.project.params import Params
from pipelines.project.runs import ROOT, digest_finetuning

CODE = ("extract/corpora", "extract/faces", "extract/inputs", "extract/media", "fusion", "pipelines/report")
"""Folders of code that stages depend on, each by `work/plan/code/FOLDER.json`."""
PLOTS = "pipelines/report/plots"
"""Folder of templates for `dvc plots`, which looks for them in the project: in `work/plan/plots`."""


def plan_stages(params: Params) -> None:
    """Write `work/plan` and `work/corpus-files.json`; unchanged files are not touched."""
    look_again(params.corpus, paths.CORPUS_FILES)
    files = plan_documents(params)
    for path in set(paths.PLAN.rglob("*.json")) - {paths.PLAN / name for name in files}:
        path.unlink()
    for name, content in files.items():
        write_file(paths.PLAN / name, content)


def plan_documents(params: Params) -> dict[str, bytes]:
    """Every file of `work/plan`: its path in there, and its content."""
    documents: dict[str, Any] = {"crops": asdict(params.crops), "evaluate": asdict(params.evaluate)}
    documents["people"] = _plan_people(params)
    documents["matrix"] = None if params.matrix is None else asdict(params.matrix)
    documents["finetune"] = _plan_finetuning(params)
    for name, section in params.extract.items():
        code = digest_file(source_of(BACKBONES[section.backbone]))
        documents[f"extract/{name}"] = {"read": params.reads(name), "settings": section.plan(), "code": code}
    documents |= {f"code/{folder}": digest_folder(ROOT / folder) for folder in CODE}
    files = {f"{name}.json": _encode(document) for name, document in documents.items()}
    return files | {f"plots/{path.name}": path.read_bytes() for path in (ROOT / PLOTS).glob("*.json")}


def _encode(document: Any) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True, default=str) + "\n").encode()


def _plan_people(params: Params) -> dict[str, Any] | None:
    """What stage `corpus` depends on where it has a trial for each person of a video: how these are found."""
    if getattr(params.corpus.settings, "face", "") != ALL:
        return None
    return {"crops": asdict(params.crops), "code": digest_folder(ROOT / "extract/faces")}


def _plan_finetuning(params: Params) -> dict[str, Any]:
    """What stage `finetune` depends on: its section, the feature sets that it starts from, the folds, and its code."""
    started = {name for run in params.finetune.values() for name in run.modalities.values()}
    return {
        "finetune": {name: asdict(run) for name, run in params.finetune.items()},
        "extract": {name: params.extract[name].plan() for name in sorted(started & params.extract.keys())},
        "imported": _digest_imported(started - params.extract.keys()),
        "asked": sorted(name for name, section in params.extract.items() if asks_for_finetuned(section.weights)),
        "folds": asdict(params.fusion.folds),
        "code": {name: digest_finetuning(run.model) for name, run in params.finetune.items()},
    }


def _digest_imported(names: Iterable[str]) -> dict[str, str]:
    """Digests of the receipts of imported feature sets, which no stage makes; "" where there is none yet."""
    receipts = {name: find_set(paths.FEATURES, name).receipt for name in sorted(names)}
    return {name: sha256_file(Path(str(path))) if is_file(path) else "" for name, path in receipts.items()}


def leave_unread(names: Sequence[str], params: Params, features: Where = paths.FEATURES) -> tuple[str, ...]:
    """The feature sets that a system reads; the others get a receipt that says that they are not."""
    read = []
    for name in params.feature_sets(names):
        if params.reads(name):
            read.append(name)
            continue
        note(f"No system of params.yaml reads '{name}': it is not extracted.")
        place = locate_set(features, name)
        save_unread(place.receipt)
        store = open_folder(place.store)
        if isinstance(store, LocalFolder):
            paths.leave_folder(store.path)
    return tuple(read)
