"""What a digest of code depends on: what runs for a model, and not how it is written down."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fusion.models import MODELS
from pipelines.project.code_digest import Seen, digest_code, digest_folder

ROOT = Path(__file__).parents[3]
Edit = Callable[[str], str]
SEEN: Seen = {}  # spares parsing what most tests leave as it is


@pytest.fixture
def code(tmp_path: Path) -> Path:
    for package in ("cache", "fusion"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def digests(root: Path) -> dict[str, str]:
    return {
        name: digest_code((target.split(":")[0], "fusion.training.trainer"), root, SEEN)
        for name, target in MODELS.items()
    }


def changed(code: Path, name: str, edit: Edit) -> set[str]:
    """Models whose digest another text of a file changes."""
    before, path = digests(code), code / name
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    new = edit(old)
    assert new != old
    path.write_text(new, encoding="utf-8")
    after = digests(code)
    return {name for name in MODELS if before[name] != after[name]}


def test_a_new_model_keeps_every_finished_network(code: Path) -> None:
    assert not changed(code, "fusion/models/newest.py", lambda text: "class Newest: ...\n")
    table = code / "fusion/models/__init__.py"
    assert "MODELS" in table.read_text(encoding="utf-8")
    entry = 'MODELS["newest"] = "fusion.models.newest:Newest"\n'
    assert not changed(code, "fusion/models/__init__.py", lambda text: text + entry)


def test_a_layer_concerns_the_models_that_use_it(code: Path) -> None:
    assert changed(code, "fusion/layers/attention.py", lambda text: text + "\nCHANGED = 1\n") == {
        "cross_modal_attention",
        "self_attention",
    }
    assert changed(code, "fusion/models/rnn.py", lambda text: text + "\nCHANGED = 1\n") == {"rnn"}
    assert changed(code, "fusion/training/fitting.py", lambda text: text + "\nCHANGED = 1\n") == set(MODELS)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: re.sub(r'^"""', '"""Another sentence. ', text, count=1),
        lambda text: re.sub(r'^( +)"""(?=[A-Z])', r'\1"""Another sentence. ', text, flags=re.MULTILINE),
        lambda text: text + "\n# a remark\n",
        lambda text: text.replace("\n\n\n", "\n\n\n\n", 1),
    ],
)
def test_docstrings_comments_and_layout_do_not_count(code: Path, edit: Edit) -> None:
    assert not changed(code, "fusion/training/fitting.py", edit)
    assert not changed(code, "fusion/models/rnn.py", edit)


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_other_versions_of_python_agree(version: str) -> None:
    installed = [
        *Path.home().glob(f".pyenv/versions/{version}*/bin/python"),
        *Path("/usr/bin").glob(f"python{version}"),
    ]
    python = next(map(str, installed), None)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    program = "import pathlib, code_digest as c; print(c.digest_code(('fusion.models.rnn', 'fusion.training.trainer'), pathlib.Path('.')))"
    environment = {"PYTHONPATH": str(ROOT / "pipelines" / "project"), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    done = subprocess.run([python, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == digests(ROOT)["rnn"], done.stderr


def test_a_folder_s_digest_counts_every_file(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    seen = [digest_folder(tmp_path)]
    for name, text in (("a.py", ""), ("a.py", "# now with a comment"), ("inner/b.json", "{}"), ("inner/c.html", "")):
        (tmp_path / name).write_text(text)
        seen.append(digest_folder(tmp_path))
    assert len(set(seen)) == len(seen)
    (tmp_path / "inner/__pycache__").mkdir()
    (tmp_path / "inner/__pycache__/a.pyc").touch()
    assert digest_folder(tmp_path) == seen[-1]
