"""The DVC pipeline end to end, in a repository of its own, on a small demo corpus."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DVC = Path(sys.executable).with_name("dvc")


@pytest.mark.slow
@pytest.mark.skipif(not DVC.is_file(), reason="dvc is not installed beside this Python")
def test_dvc_repro_end_to_end(tmp_path: Path) -> None:
    for name in ("cache", "extract", "fusion", "pipelines", ".dvc/config", ".dvcignore", "dvc.yaml", "params.yaml"):
        source, place = ROOT / name, tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, place)
    change(
        tmp_path,
        lambda p: p["corpus"].update(settings={"num_trials": 3, "num_subjects": 3, "min_s": 2.0, "max_s": 2.5}),
    )
    change(tmp_path, shrink_training)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)

    first = repro(tmp_path)
    assert "Running stage 'extract@mobilefacenet'" in first
    assert (tmp_path / "results/report.md").is_file()
    assert not stages(repro(tmp_path))
    receipt = tmp_path / "features/audio/conv1d.json"
    before = receipt.read_bytes()

    change(tmp_path, lambda p: p["fusion"]["train"].update(epochs=1))
    again = stages(repro(tmp_path))
    assert again >= {"train", "evaluate", "report"}
    assert "matrix" not in again
    assert not stages(repro(tmp_path))

    with (tmp_path / "extract/backbones/conv1d.py").open("a", encoding="utf-8") as file:
        file.write("\n# edited\n")
    assert [stage for stage in stages(repro(tmp_path)) if stage.startswith("extract")] == ["extract@conv1d"]
    assert receipt.read_bytes() == before

    change(tmp_path, lambda p: p["extract"]["conv1d"].update(settings={"window_s": 0.25}))
    repro(tmp_path, "extract@conv1d")
    assert receipt.read_bytes() != before
    assert stages(repro(tmp_path, "--dry")) >= {"train", "matrix"}
    change(tmp_path, lambda p: p["extract"]["conv1d"].pop("settings"))
    back = repro(tmp_path, "extract@conv1d")
    assert json.loads(receipt.read_text()) == json.loads(before)
    assert not stages(repro(tmp_path))
    row = next(line.split() for line in back.splitlines() if line.startswith("conv1d "))
    assert row[2:4] == ["0", "3"], back  # computed, kept

    shutil.copytree(tmp_path / "work/corpus/media", tmp_path / "own")
    change(tmp_path, lambda p: p["corpus"].update(root="own", settings={}))
    assert stages(repro(tmp_path, "corpus")) == {"corpus"}
    assert not stages(repro(tmp_path, "corpus"))
    labels = next((tmp_path / "own").rglob("*_Set/*.txt"))
    lines = labels.read_text(encoding="utf-8").splitlines()
    labels.write_text("\n".join([lines[0], "0.5,0.25", *lines[2:]]) + "\n", encoding="utf-8")
    assert stages(repro(tmp_path, "corpus")) == {"corpus"}


def shrink_training(params: dict) -> None:
    fusion = params["fusion"]
    fusion["seeds"] = [0]
    fusion["train"] = {**fusion.get("train", {}), "epochs": 2}
    for system in fusion["systems"].values():
        if "epochs" in system.get("train", {}):
            system["train"]["epochs"] = 1
    matrix = params["matrix"]
    matrix["seeds"], matrix["workers"], matrix["train"]["epochs"] = [0], 1, 1
    matrix["systems"] = {name: matrix["systems"][name] for name in ("rnn_va", "linear_vat")}


def change(folder: Path, edit: object) -> None:
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    edit(params)  # type: ignore[operator]
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def repro(folder: Path, *targets: str) -> str:
    environment = {**os.environ, "PATH": f"{DVC.parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run([str(DVC), "repro", *targets], cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def stages(output: str) -> set[str]:
    """Stages that ran, but the one that looks at the corpus's files every time."""
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")} - {"plan"}
