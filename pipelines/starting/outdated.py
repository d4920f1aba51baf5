"""Which stages of a project `dvc repro` would run, and why, without running or locking anything."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.project import paths
from pipelines.project.corpus_files import find_change, load_files
from pipelines.project.params import Params
from pipelines.project.yaml_files import read_yaml
from pipelines.stages.plan import plan_documents

PIPELINE, LOCK = Path("dvc.yaml"), Path("dvc.lock")
_PLAN = "plan"


def find_outdated(params: Params) -> dict[str, str]:
    """Stage → why it would run, in the order of the pipeline; stage `plan`, which always runs, is left out.

    Contents of outputs are not looked at, only whether they are there.

    Raises:
        AvFusionError: if a file of the project is damaged.
    """
    raw = read_yaml(paths.PARAMS)
    locked = (read_yaml(LOCK) or {}).get("stages", {}) if LOCK.is_file() else {}
    planned = {(paths.PLAN / name).as_posix(): content for name, content in plan_documents(params).items()}
    changed = {paths.CORPUS_FILES.as_posix()} if _corpus_changed() else set()
    found: dict[str, str] = {}
    for name, stage in _stages(params):
        known = locked.get(name)
        outs = [_path(out) for kind in ("outs", "metrics", "plots") for out in stage.get(kind, ())]
        why = "has never run here" if known is None else _why(stage, known, planned, raw, changed)
        if not why and (gone := [out for out in outs if not os.path.lexists(out)]):
            why = f"'{gone[0]}' is missing"
        if why:
            found[name] = why
            changed |= set(outs)
    return found


def _corpus_changed() -> bool:
    known = load_files(paths.CORPUS_FILES)
    return known is not None and find_change(known) is not None


def _stages(params: Params) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The stages of dvc.yaml in its order, which is that of their work; one of each feature set."""
    for name, stage in read_yaml(PIPELINE)["stages"].items():
        if name == _PLAN:
            continue
        for key in params.extract if "foreach" in stage else (None,):
            inner = stage if key is None else _filled(stage["do"], key)
            yield (name if key is None else f"{name}@{key}"), inner


def _filled(stage: Any, key: str) -> Any:
    """A stage with the name of a feature set put in."""
    if isinstance(stage, dict):
        return {_filled(name, key): _filled(value, key) for name, value in stage.items()}
    if isinstance(stage, list):
        return [_filled(value, key) for value in stage]
    return stage.replace("${key}", key) if isinstance(stage, str) else stage


def _path(out: Any) -> str:
    return next(iter(out)) if isinstance(out, dict) else out


def _why(
    stage: Mapping[str, Any], known: Mapping[str, Any], planned: Mapping[str, bytes], raw: Any, changed: set[str]
) -> str:
    """Why a stage would run again, "" if it would not."""
    if known.get("cmd") != stage["cmd"]:
        return "its command has changed"
    then = known.get("params", {}).get(paths.PARAMS.name, {})
    for section in stage.get("params", ()):
        if then.get(section) != raw.get(section):
            return f"section '{section}' of params.yaml has changed"
    digests = {dep["path"]: dep.get("md5") for dep in known.get("deps", ())}
    for dep in stage.get("deps", ()):
        if dep in planned and digests.get(dep) != hashlib.md5(planned[dep], usedforsecurity=False).hexdigest():
            return f"'{dep}' has changed"
        if _touches(dep, sorted(changed)):
            return f"'{dep}' will change"
    return ""


def _touches(dep: str, changed: Sequence[str]) -> bool:
    """Whether a dependency is one of some paths, in one of them, or holds one."""
    return any(dep == path or dep.startswith(f"{path}/") or path.startswith(f"{dep}/") for path in changed)
