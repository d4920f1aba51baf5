"""What `avfusion doctor` says of a machine and a project, and when it is an error."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipelines.starting import doctor

Run = Callable[..., Result]


def findings(result: Result) -> dict[tuple[str, str], dict]:
    return {(row["area"], row["name"]): row for row in json.loads(result.stdout)}


def test_outside_of_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AVFUSION_WEIGHTS", str(tmp_path))
    result = run("doctor", "--json")
    assert result.exit_code == 0, result.output
    found = findings(result)
    assert {area for area, _ in found} == {"versions", "devices", "codecs", "weights", "disk"}
    assert found["versions", "torch"]["state"] == found["codecs", "h264"]["state"] == "ok"
    assert "written at" in found["disk", "."]["found"]
    missing = found["weights", "mobilefacenet foamliu"]
    assert (missing["state"], str(tmp_path / "foamliu.pt") in missing["remedy"]) == ("note", True)
    (tmp_path / "foamliu.pt").touch()
    assert findings(run("doctor", "--json"))["weights", "mobilefacenet foamliu"]["state"] == "ok"


def test_what_is_needed_and_missing(
    project: Path, monkeypatch: pytest.MonkeyPatch, run: Run, edit_params: Callable
) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "" if name in ("zarr", "praatio") else version(name))
    monkeypatch.setattr(doctor, "CODECS", {"h263000": doctor.MISSING, "h264": doctor.MISSING})
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage(10**6))
    edit_params(lambda params: params["extract"]["mobilefacenet"].update(weights="xuexingyu24"))
    edit_params(lambda params: params["extract"]["conv1d"].update(weights="own/weights.pt"))
    result = run("doctor", "--json")
    assert result.exit_code == 1
    found = {key: row for key, row in findings(result).items() if row["state"] == "missing"}
    assert list(found) == [
        ("versions", "zarr"),
        ("codecs", "h263000"),
        ("weights", "mobilefacenet xuexingyu24"),
        ("weights", "conv1d own/weights.pt"),
        ("disk", "features"),
    ]
    assert all(row["remedy"] for row in found.values())
    said = run("doctor")
    assert said.exit_code == 1
    assert "  missing zarr                     not installed\n          Run 'pip install zarr'" in said.stdout
    assert max(map(len, said.stdout.partition("weights\n")[0].splitlines())) < 120


def test_a_corpus_that_is_not_there(project: Path, run: Run, edit_params: Callable[..., None]) -> None:
    edit_params(lambda params: params["corpus"].update(name="folder", root="nowhere", settings={}))
    result = run("doctor", "--json")
    (found,) = [row for row in json.loads(result.stdout) if row["name"] == "corpus" and row["state"] == "missing"]
    assert (result.exit_code, found["found"]) == (1, "there is no folder 'nowhere'")
    edit_params(lambda params: params["corpus"].update(name="muse", root=""))
    assert "Set corpus.root in params.yaml" in run("doctor").stdout


def test_weights_that_are_not_here_are_said_before_any_stage_wants_them(
    project: Path, run: Run, edit_params: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVFUSION_WEIGHTS", str(project / "weights"))
    edit_params(lambda params: params["extract"]["mobilefacenet"].update(weights="foamliu"))
    assert run("plan").stderr == ""  # its features are there
    Path("features/receipts/mobilefacenet.json").unlink()
    said = run("plan").stderr
    assert (
        "Weights 'foamliu' of feature set 'mobilefacenet': are downloaded at first use. Without a network, put" in said
    )
    (project / "weights").mkdir()
    (project / "weights/foamliu.pt").touch()
    assert run("plan").stderr == ""


def test_faulty_settings_are_a_finding(project: Path, run: Run) -> None:
    (project / "params.yaml").write_text("corpus: {nam: demo}\n", encoding="utf-8")
    result = run("doctor", "--json")
    assert result.exit_code == 1
    assert "'corpus.nam'" in findings(result)["project", "settings"]["remedy"]


def test_cards_are_listed_where_there_is_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    card = namedtuple("card", "name total_memory")
    monkeypatch.setattr(doctor, "has_driver", lambda: True)
    monkeypatch.setattr(doctor, "_cards", lambda: [card("A", 16e9), card("B", 8e9)])
    assert [(found.name, found.found) for found in doctor._devices()][1:] == [
        ("cuda:0", "A, 16 GB of memory"),
        ("cuda:1", "B, 8.0 GB of memory"),
    ]


def test_torch_is_not_imported_for_a_project_without_weights_of_others(project: Path) -> None:
    """It takes seconds, and half of the time that the doctor takes."""
    program = (
        "import sys\nfrom pipelines.starting import doctor\nfrom pipelines.project.params_file import read_params\n"
        "doctor.has_driver = lambda: False\nassert list(doctor.examine_machine(read_params(), in_project=True))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=project, check=True, timeout=60)
