"""Starts a project of one's own: a folder with settings and stages, for which an installed avfusion is all it needs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from cache.documents.documents import write_file
from cache.errors import AvFusionError, MissingFileError, StoreError
from cache.names import load_named
from extract.corpora import CORPORA
from pipelines.console.console import warn
from pipelines.project import paths
from pipelines.project.dvc_locks import find_root

CORPUS_FOLDER = Path("media")
"""Where a project expects its corpus if no folder is given."""
FILES = Path(__file__).with_name("files")
PIPELINE = "dvc.yaml"

_CHECKS = {
    "muse": "avfusion corpus build; avfusion cache import ROOT/feature_segments/FEATURE --from muse --name NAME --modality audio",
}
_CHECK = "avfusion corpus check ROOT"
_CONFIG = """[core]
    analytics = false
    autostage = false
{scm}[cache]
    type = "hardlink,symlink"
"""
_NO_SCM = "    no_scm = True\n"
_PLACEHOLDERS = re.compile(r"\b(NAME|VERSION|CORPUS|CHECK|ROOT)\b")


def adapt_pipeline(text: str) -> str:
    """The `dvc.yaml` of this repository for a project elsewhere, which runs the installed command."""
    return text.replace("python -m pipelines ", "avfusion ")


def start_project(folder: Path, corpus: str, root: Path | None, untrained: bool = False) -> list[Path]:
    """Write a project's files, and make its folder a DVC project; with git only where there is git.

    What was interrupted goes on: files that are there already with just this content are kept, as long as one is missing.

    Args:
        folder: of the project; need not exist.
        corpus: name of the corpus, with a file of settings in `files`.
        root: folder of the corpus; by default `media` in the project.
        untrained: whether backbones have random weights.

    Returns:
        The files.

    Raises:
        MissingFileError: if there is no folder `root`.
        StoreError: if the folder lies in another DVC project, or is one with settings of its own, or a file that would be
            written exists.
        AvFusionError: if DVC cannot make it a project.
    """
    if root is not None and not root.is_dir():
        raise MissingFileError(f"There is no folder '{root}', expected the corpus there. Check --root.")
    documents = {folder / name: text for name, text in _documents(folder, corpus, root, untrained).items()}
    _refuse_others(folder, documents)
    if root is not None and not load_named("corpus", CORPORA, corpus).recognises(root):
        warn(
            f"'{root}' does not look like corpus '{corpus}'. 'avfusion corpus check {shlex.quote(str(root))}' says what is missing."
        )
    _make_dvc(folder)
    for path, text in documents.items():
        write_file(path, text.encode())
    return list(documents)


def _documents(folder: Path, corpus: str, root: Path | None, untrained: bool) -> dict[str, str]:
    """File → content."""
    place = str(CORPUS_FOLDER if root is None else _place(folder, root))
    check = _CHECKS.get(corpus, _CHECK).replace("ROOT", shlex.quote(place))
    words = {"NAME": folder.resolve().name, "VERSION": version("avfusion"), "CORPUS": corpus, "CHECK": check}
    settings = _read(f"{corpus}.yaml").replace("ROOT", json.dumps(place, ensure_ascii=False))
    if untrained:
        settings = re.sub(r"weights: \w+", "weights: random", settings)
    ignored = "" if os.path.isabs(place) else f"/{place}\n"
    return {
        paths.PARAMS.name: settings,
        PIPELINE: _read("stages.yaml"),  # under its own name DVC would take it for stages of this repository
        "README.md": _PLACEHOLDERS.sub(lambda found: words.get(found[0], found[0]), _read("README.md")),
        ".gitignore": _read("gitignore") + ignored,
    }


def _read(name: str) -> str:
    return (FILES / name).read_text(encoding="utf-8")


def _place(folder: Path, root: Path) -> Path:
    """The root of the corpus as the project's settings name it: relative only inside of the project."""
    inner, outer = root.resolve(), folder.resolve()
    return inner.relative_to(outer) if inner.is_relative_to(outer) and inner != outer else inner


def _refuse_others(folder: Path, documents: Mapping[Path, str]) -> None:
    """Raise if files would be overwritten, or another DVC project would run the stages."""
    above = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    if not above.is_dir():
        raise StoreError(f"'{above}' is a file, expected a folder. Give another one.")
    present = [path for path in documents if os.path.lexists(path)]
    others = [path for path in present if len(present) == len(documents) or not _has(path, documents[path])]
    if (folder / ".dvc").exists() and not _is_new(folder / ".dvc/config"):
        others.append(folder / ".dvc")
    if others:
        listed = ", ".join(f"'{path}'" for path in others)
        raise StoreError(
            f"{listed} exist{'s' * (len(others) == 1)} already, and nothing was written. Give another folder, or move them away."
        )
    try:
        other = find_root(folder)
    except MissingFileError:
        return
    if other.resolve() != folder.resolve():
        raise StoreError(
            f"'{folder}' lies in the DVC project '{other}', and nothing was written. Give a folder outside of it."
        )


def _has(path: Path, text: str) -> bool:
    """Whether a file has just this content."""
    return path.is_file() and path.read_bytes() == text.encode()


def _is_new(path: Path) -> bool:
    """Whether a configuration of DVC is missing, or as `dvc init` or we leave it."""
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError):
        return False
    return text in ("", f"[core]\n{_NO_SCM}", _CONFIG.format(scm=""), _CONFIG.format(scm=_NO_SCM))


def _make_dvc(folder: Path) -> None:
    """Make a folder a DVC project: of its git repository, of a folder in it, or without one."""
    folder.mkdir(parents=True, exist_ok=True)
    inner = folder.resolve()
    git = next((place for place in (inner, *inner.parents) if (place / ".git").exists()), None)
    flags = ["--no-scm"] if git is None else ["--subdir"] if git != inner else []
    done = None
    if not (folder / ".dvc/config").is_file():  # which a start that was interrupted later has left
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "init", "--quiet", *flags], cwd=folder, capture_output=True, text=True
        )
    if done is not None and done.returncode:
        said = " ".join(done.stderr.split()) or "no message"
        raise AvFusionError(f"DVC could not be set up in '{folder}': {said} Mend that, or give another folder.")
    scm = _NO_SCM if git is None else ""
    write_file(folder / ".dvc/config", _CONFIG.format(scm=scm).encode())
