"""The rules of the house that a machine can hold: who imports whom, what stays light, what a table lists."""

from __future__ import annotations

import ast
import configparser
import doctest
import importlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from cache.names import summary
from extract.backbones import BACKBONES
from extract.corpora import CORPORA
from fusion.models import MODELS
from fusion.scores import METRICS

ROOT = Path(__file__).parents[1]
PACKAGES = ("cache", "extract", "fusion", "pipelines")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ALLOWED = {
    "cache": {"cache"},
    "extract": {"cache", "extract"},
    "fusion": {"cache", "fusion"},
    "pipelines": set(PACKAGES),
}
ONLY_IN = {
    "zarr": {"cache"},
    "h5py": {"cache"},
    "click": {"pipelines"},
    "yaml": {"pipelines"},
    "rich": {"pipelines"},
    "av": {"extract"},
    "torch": {"extract", "fusion", "pipelines"},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_downwards(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    names = imported(path)
    assert names & set(PACKAGES) <= ALLOWED[package]
    for library, homes in ONLY_IN.items():
        assert library not in names or package in homes, f"{library} belongs to {homes}"


def edges() -> dict[tuple[str, str], str]:
    """(folder, folder) → an import that draws the arrow between them; lazy ones and those of types alone count."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    found = {}
    for name, path in modules.items():
        own = path.parent.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            wanted = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                wanted = [each if each in modules else str(node.module) for each in whole]
            for each in wanted:
                other = modules[each].parent.relative_to(ROOT).as_posix() if each in modules else own
                if other != own:
                    found[own, other] = f"{name} imports {each}"
    return found


def test_arrows_between_folders_run_one_way() -> None:
    arrows = edges()
    left = {folder for arrow in arrows for folder in arrow}
    while free := {folder for folder in left if not any(a == folder and b in left for a, b in arrows)}:
        left -= free
    assert not left, {why for (a, b), why in arrows.items() if a in left and b in left}


def test_nobody_asks_for_the_class_of_an_input() -> None:
    """An input does what its medium needs by itself, so that one from outside works everywhere."""
    rooms = [
        node for path in (ROOT / "extract" / "inputs").glob("*.py") for node in ast.walk(ast.parse(path.read_text()))
    ]
    inputs = {node.name for node in rooms if isinstance(node, ast.ClassDef) and node.name.endswith("Input")}
    assert inputs >= {"Input", "ImageInput", "LogMelInput", "SentenceInput", "WaveInput"}
    for path in [*FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
                assert not inputs & {getattr(each, "id", "") for each in ast.walk(node.args[1])}, (
                    f"{path}:{node.lineno}"
                )


def test_no_room_is_crowded() -> None:
    """Fourteen modules at most, where a folder is not one of a table with a file for each entry."""
    tables = {"extract/backbones", "extract/corpora", "fusion/models", "fusion/scores"}
    rooms = Counter(path.parent.relative_to(ROOT).as_posix() for path in FILES if path.name != "__init__.py")
    assert {room: count for room, count in rooms.items() if count > 14 and room not in tables} == {}


def test_every_room_says_what_lives_there() -> None:
    for folder in {path.parent for path in FILES}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder


@pytest.mark.parametrize(
    "path", [path for path in FILES if ">>>" in path.read_text(encoding="utf-8")], ids=lambda path: path.name
)
def test_examples_in_docstrings_hold(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    results = doctest.testmod(module)
    assert results.attempted
    assert not results.failed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_stay_small_and_documented(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no module docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            length = (node.end_lineno or 0) - node.lineno - (docstring.count("\n") + 1 if docstring else 0)
            assert length <= 60, f"{node.name} has {length} lines"
    assert path.stem not in {"utils", "extract", "cache", "fusion", "pipelines", *sys.stdlib_module_names}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["extract", "--help"],
        ["train", "--help"],
        ["list", "backbones"],
        ["list", "models"],
        ["list", "corpora"],
        ["completion", "bash"],
    ],
)
def test_help_and_lists_do_not_import_torch(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom pipelines.cli.commands import avfusion\n"
        f"avfusion({arguments!r}, standalone_mode=False)\n"
        "assert not {'torch', 'zarr', 'numpy', 'av', 'pydantic', 'numba'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    ("table", "folder"),
    [(BACKBONES, "extract/backbones"), (MODELS, "fusion/models")],
)
def test_table_and_folder_agree(table: dict[str, str], folder: str) -> None:
    files = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__", "contract"}
    assert files == set(table)
    assert list(table) == sorted(table)


def test_every_metric_is_a_file_of_its_own() -> None:
    files = {path.stem for path in (ROOT / "fusion/scores").glob("*.py")}
    assert files == {*METRICS, "__init__", "metric", "losses", "intervals", "summary"}


@pytest.mark.parametrize("target", [*BACKBONES.values(), *MODELS.values(), *CORPORA.values(), *METRICS.values()])
def test_everything_in_a_table_says_what_it_is(target: str) -> None:
    assert len(summary(target)) > 20


def test_every_backbone_and_model_has_a_row_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in (*BACKBONES, *MODELS, *CORPORA):
        assert f"| `{name}` |" in readme, name


def test_every_backbone_has_its_section_of_the_parameters() -> None:
    assert yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["extract"].keys() >= BACKBONES.keys()


def test_an_installation_brings_every_file_of_the_packages() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    packed = {
        path
        for package, patterns in setup["options.package_data"].items()
        for pattern in patterns.split()
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {ROOT / name for name in listed.split() if not name.endswith(".py")} <= packed


def test_no_registry_host_is_named() -> None:
    hosts = ("pypi" + ".org", "files.python" + "hosted.org", "download.py" + "torch.org")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        assert not any(host.encode() in content for host in hosts), name
