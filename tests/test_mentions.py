"""Every command and option that a message, a docstring or a page names exists, and every file and module of a page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pipelines.cli.commands import avfusion, evaluate_fusion, extract_features, train_fusion, tune_fusion

ROOT = Path(__file__).parents[1]
SCRIPTS = {
    "avfusion": avfusion,
    "python -m pipelines": avfusion,
    "extract-features": extract_features,
    "train-fusion": train_fusion,
    "tune-fusion": tune_fusion,
    "evaluate-fusion": evaluate_fusion,
}
FILES = sorted(
    [
        *(path for package in ("cache", "extract", "fusion", "pipelines") for path in (ROOT / package).rglob("*.py")),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "dvc.yaml", "params.yaml")),
    ]
)
PAGES = [path for path in FILES if path.suffix == ".md" and path.name not in ("params.md", "cli.md")]
SETTINGS = (ROOT / "docs/params.md").read_text(encoding="utf-8")
# A command begins a line or a quotation, or follows another one.
MENTION = re.compile(rf"(?:^\s*|[`'\"]|; |\$ |&& )({'|'.join(SCRIPTS)})(?= )([^`'\"#;\n]*)", re.M)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*\b")
PLACEHOLDER = re.compile(r"[{<\[%$(@…]")
FOREIGN = {
    "dask": {"--host", "--memory-limit", "--nthreads", "--nworkers", "--port"},
    "dvc": {"--no-scm", "--only-changed", "--subdir"},
    "git": {"--porcelain", "--untracked-files"},
    "pip": {
        "--constraint",
        "--disable-pip-version-check",
        "--editable",
        "--force-reinstall",
        "--quiet",
    },
    "pytest": {"--dist", "--import-mode"},
    "ruff": {"--check"},
    "slurm": {"--array", "--cpus-per-task", "--time"},
    "zensical": {"--clean", "--strict"},
    "benchmarks": {"--repeats"},
}


def options_of(command: click.Command) -> set[str]:
    own = {"--help"} | {name for option in command.params if isinstance(option, click.Option) for name in option.opts}
    children = command.commands.values() if isinstance(command, click.Group) else ()
    return own.union(*(options_of(child) for child in children))


def mentions(text: str) -> Iterator[tuple[str, str]]:
    """Scripts and what follows them."""
    for found in MENTION.finditer(text.replace("\\\n", " ")):
        yield found[1], found[2]


def fault(script: str, rest: str) -> str:
    """What is wrong with a command line, "" if nothing."""
    command: click.Command = SCRIPTS[script]
    words = rest.split()
    while isinstance(command, click.Group):
        name = words.pop(0) if words else ""
        if not name or name.startswith("-") or PLACEHOLDER.match(name):
            break
        names = name.rstrip(".,:)").split("|")
        unknown = [one for one in names if one not in command.commands]
        if unknown:
            return f"no command '{unknown[0]}'"
        command = command.commands[names[-1]]
    unknown = sorted(set(OPTION.findall(rest)) - options_of(command))
    return f"no option '{unknown[0]}'" if unknown else ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_and_options_that_a_text_names_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    faults = [f"{script}{rest}: {found}" for script, rest in mentions(text) if (found := fault(script, rest))]
    known = options_of(avfusion).union(*FOREIGN.values())
    faults += [f"no command has {option}" for option in sorted(set(OPTION.findall(text)) - known)]
    assert not faults


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_modules_that_a_page_names_exist(path: Path) -> None:
    named = re.findall(r"`([\w./-]+)`", path.read_text(encoding="utf-8"))
    files = [name for name in named if name.endswith(".py")]
    modules = [name for name in named if re.match(r"(cache|extract|fusion|pipelines)\.\w", name)]
    faults = [name for name in files if not (ROOT / name).is_file() and not list(ROOT.glob(f"tests/cache/**/{name}"))]
    assert faults + [name for name in modules if not exists(name.split("."))] == []


def exists(parts: list[str]) -> bool:
    """Whether this is a module or folder, a name in one, or a setting of params.yaml."""
    if (ROOT.joinpath(*parts)).is_dir() or (ROOT.joinpath(*parts).with_suffix(".py")).is_file():
        return True
    module = ROOT.joinpath(*parts[:-1]).with_suffix(".py")
    if module.is_file():
        return (
            re.search(rf"^(def|class) {parts[-1]}\b|^{parts[-1]}\b", module.read_text(encoding="utf-8"), re.M)
            is not None
        )
    return f"## {'.'.join(parts[:2])}" in SETTINGS or f"| `{'.'.join(parts[1:])}` |" in SETTINGS


def test_the_collection_finds_what_is_there_and_refuses_what_is_not() -> None:
    found = [mention for path in FILES for mention in mentions(path.read_text(encoding="utf-8"))]
    assert len(found) > 60
    assert {script for script, _ in found} == set(SCRIPTS)
    assert list(mentions("Run 'avfusion corpus chekc DIR' again.")) == [("avfusion", " corpus chekc DIR")]
    assert fault("avfusion", " corpus chekc DIR") == "no command 'chekc'"
    assert fault("avfusion", " models ls|prune") == ""
    assert fault("avfusion", " models ls|remove") == "no command 'remove'"
    assert fault("extract-features", " --backbone x --bacth-size 3") == "no option '--bacth-size'"
