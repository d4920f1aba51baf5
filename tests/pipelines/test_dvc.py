"""The DVC pipeline end to end, in a repository of its own, on a small demo corpus; and in a colleague's clone of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DVC = Path(sys.executable).with_name("dvc")
ODD = "Ä.b-1_"  # a legal name of a feature set


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DVC.is_file(), reason="dvc is not installed beside this Python"),
]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose pipeline ran once; committed, and pushed to a remote beside it."""
    folder = tmp_path_factory.mktemp("dvc") / "first"
    copied = (
        "cache",
        "extract",
        "fusion",
        "pipelines",
        ".dvc/config",
        ".dvc/.gitignore",
        ".dvcignore",
        ".gitignore",
        "dvc.yaml",
        "params.yaml",
        "matrix.yaml",
    )
    for name in copied:
        source, place = ROOT / name, folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, place)
    change(
        folder,
        lambda p: p["corpus"].update(settings={"num_trials": 3, "num_subjects": 3, "min_s": 2.0, "max_s": 2.5}),
    )
    change(folder, choose_sets)
    change(folder, shrink_training)
    change(folder, shrink_finetuning)
    change(folder, shrink_matrix, "matrix.yaml")
    git(folder, "init", "-q")
    dvc(folder, "remote", "add", "-q", "-d", "shared", str(folder.with_name("remote")))
    assert stages(repro(folder)) > {"finetune", "extract@mobilefacenet", "extract@conv1d_tuned", f"extract@{ODD}"}
    assert (folder / f"features/receipts/{ODD}.json").is_file()
    assert not stages(repro(folder))
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    dvc(folder, "push", "-q")
    return folder


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def another_disk(folder: Path) -> Path:
    """A folder that hard links cannot reach from here, where this machine has one."""
    shared = Path("/dev/shm")
    if shared.is_dir() and os.access(shared, os.W_OK) and shared.stat().st_dev != folder.stat().st_dev:
        return Path(tempfile.mkdtemp(prefix="avfusion-test-", dir=shared))
    return Path(tempfile.mkdtemp(dir=folder.parent))


@pytest.mark.parametrize("kept", ["hard links", "another disk"])
def test_a_colleague_computes_nothing(repository: Path, tmp_path: Path, kept: str) -> None:
    clone, cache = tmp_path / "clone", another_disk(tmp_path)
    try:
        git(tmp_path, "clone", "-q", str(repository), str(clone))
        if kept == "another disk":
            dvc(clone, "config", "--local", "cache.dir", str(cache))
            dvc(clone, "config", "--local", "cache.type", "symlink")
        dvc(clone, "pull", "-q")
        chunk = next((clone / "features/conv1d.zarr").rglob("c/0/0"))
        assert chunk.is_symlink() if kept == "another disk" else chunk.stat().st_nlink == 2
        assert not git(clone, "status", "--short")
        assert not stages(repro(clone))
        assert not git(clone, "status", "--short")
        if kept == "another disk":
            assert_going_back_is_free(clone)
        assert_whole(cache if kept == "another disk" else clone / ".dvc/cache")
    finally:
        shutil.rmtree(cache)
    assert_whole(repository.with_name("remote"))


@pytest.mark.parametrize("extract", [None, {}, {ODD: {"weights": "random"}, "b": {"weights": "random"}}])
def test_every_feature_set_is_a_stage(tmp_path: Path, extract: dict | None) -> None:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({} if extract is None else {"extract": extract}))
    dvc(tmp_path, "init", "-q", "--no-scm")
    listed = dvc(tmp_path, "stage", "list", "--name-only").stdout.splitlines()
    assert {name for name in listed if name.startswith("extract")} == {f"extract@{name}" for name in extract or ()}


def assert_going_back_is_free(clone: Path) -> None:
    """Other settings of extraction and training are computed; the ones from before are all there."""
    locked = yaml.safe_load((clone / "dvc.lock").read_text())["stages"]
    change(clone, lambda p: set_window(p, 0.25))
    change(clone, lambda p: p["fusion"]["train"].update(epochs=1))
    row = next(line.split() for line in repro(clone, "train").splitlines() if line.startswith("conv1d "))
    assert row[2:4] == ["3", "0"]  # computed, kept
    git(clone, "checkout", "-q", "params.yaml")
    back = dvc(clone, "repro", "evaluate")
    row = next(line.split() for line in back.stdout.splitlines() if line.startswith("conv1d "))
    assert row[2:4] == ["0", "3"]
    assert "4 of 4 networks are trained already" in back.stderr
    assert yaml.safe_load((clone / "dvc.lock").read_text())["stages"]["evaluate"]["outs"] == locked["evaluate"]["outs"]


def assert_whole(cache: Path) -> None:
    """Every object that DVC keeps has the content that its name promises: nobody wrote through a link."""
    objects = [path for path in (cache / "files/md5").rglob("*") if path.is_file()]
    assert len(objects) > 50
    for path in objects:
        found = hashlib.md5(path.read_bytes()).hexdigest()
        assert found == (path.parent.name + path.name).removesuffix(".dir"), path


def test_changes_run_what_they_concern(repository: Path) -> None:
    receipt = repository / "features/receipts/conv1d.json"
    before = receipt.read_bytes()

    change(repository, lambda p: p["fusion"]["train"].update(epochs=1))
    assert would_run(repository) == {"train"}
    change(repository, lambda p: p["fusion"]["train"].update(epochs=2))
    assert not would_run(repository)

    with (repository / "extract/backbones/conv1d.py").open("a", encoding="utf-8") as file:
        file.write("\nEDITED = True\n")
    assert {stage for stage in would_run(repository) if "@" in stage} == {"extract@conv1d", "extract@conv1d_tuned"}
    assert "extract@conv1d" in stages(repro(repository, "extract@conv1d"))
    assert receipt.read_bytes() == before
    assert {stage for stage in would_run(repository) if "@" in stage} == {"extract@conv1d_tuned"}

    change(repository, lambda p: set_window(p, 0.25))
    repro(repository, "extract@conv1d")
    assert receipt.read_bytes() != before
    assert would_run(repository) >= {"train", "matrix"}
    change(repository, lambda p: set_window(p, 0.5))
    back = repro(repository, "extract@conv1d")
    assert json.loads(receipt.read_text()) == json.loads(before)
    row = next(line.split() for line in back.splitlines() if line.startswith("conv1d "))
    assert row[2:4] == ["0", "3"], back  # computed, kept

    shutil.copytree(repository / "work/corpus/media", repository / "own")
    change(repository, lambda p: p["corpus"].update(root="own", settings={}))
    assert stages(repro(repository, "corpus")) == {"corpus"}
    assert not stages(repro(repository, "corpus"))
    labels = next((repository / "own").rglob("*_Set/*.txt"))
    lines = labels.read_text(encoding="utf-8").splitlines()
    labels.write_text("\n".join([lines[0], "0.5,0.25", *lines[2:]]) + "\n", encoding="utf-8")
    assert stages(repro(repository, "corpus")) == {"corpus"}


def set_window(params: dict, seconds: float) -> None:
    """The window of `conv1d`, frozen and fine-tuned, which have to be the same."""
    for name in ("conv1d", "conv1d_tuned"):
        params["extract"][name]["settings"] = {"window_s": seconds}


def choose_sets(params: dict) -> None:
    """Leave one set that no system reads, and have one of an odd name; the library that is imported anyway computes all."""
    for name in ("resnet50", "vggish", "bert"):
        del params["extract"][name]
    for section in params["extract"].values():
        section.pop("runtime", None)
    params["extract"][ODD] = {"backbone": "vggish", "weights": "random"}


def shrink_training(params: dict) -> None:
    fusion = params["fusion"]
    fusion["seeds"], fusion["workers"] = [0], 1
    fusion["train"] = {**fusion.get("train", {}), "epochs": 2}
    for system in fusion["systems"].values():
        if "epochs" in system.get("train", {}):
            system["train"]["epochs"] = 1


def shrink_finetuning(params: dict) -> None:
    """Keep that of `conv1d`, with one step."""
    params["finetune"] = {"voice": {**params["finetune"]["voice"], "windows": 4}}
    params["finetune"]["voice"]["train"].update(epochs=1, batch_size=4, dilation=1)
    del params["extract"]["mobilefacenet_tuned"]
    for name in ("visual_tuned", "fused_tuned"):
        del params["fusion"]["systems"][name]


def shrink_matrix(matrix: dict) -> None:
    matrix["seeds"], matrix["workers"], matrix["train"]["epochs"] = [0], 1, 1
    matrix["systems"] = {name: matrix["systems"][name] for name in ("rnn_va", "linear_va")}


def change(folder: Path, edit: object, name: str = "params.yaml") -> None:
    path = folder / name
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    edit(params)  # type: ignore[operator]
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{DVC.parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run([str(DVC), *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def repro(folder: Path, *targets: str) -> str:
    return dvc(folder, "repro", *targets).stdout


def would_run(folder: Path) -> set[str]:
    """What `dvc repro` would run first after a change; what these leave decides about the stages that follow them."""
    repro(folder, "plan")
    return stages(repro(folder, "--dry"))


def stages(output: str) -> set[str]:
    """Stages that ran, but the one that looks at the corpus's files every time."""
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")} - {"plan"}
