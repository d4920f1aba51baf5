"""The comparison is sorted, shows intervals, and reads what older evaluations left."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from math import nan
from pathlib import Path

import pytest

from pipelines.project.params_file import read_params
from pipelines.project.runs import digest_runs, save_run
from pipelines.project.scores import interval
from pipelines.submission.predictions import gather_ensemble

FULL = {"mean": 0.5, "std": 0.01, "best": 0.52, "low": 0.4, "high": 0.6}


def write(folder: Path, name: str, systems: dict) -> None:
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / name).write_text(json.dumps({"partition": "test", "systems": systems}), encoding="utf-8")


def test_systems_of_all_stages_the_best_first(tmp_path: Path, run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "Run 'evaluate-fusion' first" in run("compare").stderr
    middle = {"valence": {**FULL, "mean": 0.4}, "arousal": {**FULL, "mean": 0.6}, "mean": FULL}
    write(tmp_path, "scores.json", {"middle": {"ccc": middle}, "last": {"ccc": {"valence": {"mean": None}}}})
    write(tmp_path, "scores-matrix.json", {"first": {"ccc": {"valence": {"mean": 0.8}, "arousal": {"mean": 0.9}}}})
    rows = json.loads(run("compare", "--json").stdout)
    assert [(row["rank"], row["system"]) for row in rows] == [(1, "first"), (2, "middle"), (3, "last")]
    assert rows[0]["ccc"] == pytest.approx(0.85)
    assert (rows[0]["low"], rows[2]["ccc"]) == (None, None)
    assert (rows[1]["low"], rows[1]["high"], rows[1]["ccc_valence"]) == (0.4, 0.6, 0.4)
    lines = run("compare").stdout.splitlines()
    assert lines[0].split() == ["#", "system", "CCC", "interval", "best", "valence", "arousal", "partition"]
    assert "[0.400, 0.600]" in lines[2]


def test_a_single_trial_has_no_interval() -> None:
    assert interval({"mean": 0.2, "low": 0.2, "high": 0.3}) == "[0.200, 0.300]"
    assert interval({"mean": 0.242, "low": 0.242, "high": 0.242}) == "–"
    assert interval({"mean": 0.2, "low": nan, "high": nan}) == interval({"mean": 0.2}) == "–"


@pytest.mark.parametrize("text", ["{", "[]", '{"systems": {"a": 3}}', '{"systems": {"a": {"ccc": {"mean": null}}}}'])
def test_a_damaged_file_is_refused(project: Path, run: Callable, text: str) -> None:
    (project / "results").mkdir(exist_ok=True)
    (project / "results/scores.json").write_text(text, encoding="utf-8")
    for command in ("compare", "report"):
        result = run(command)
        assert result.exit_code == 1
        assert "'results/scores.json' is damaged" in result.stderr
        assert "Run 'avfusion evaluate' again." in result.stderr
    (project / "results/scores.json").unlink()
    (project / "results/scores-matrix.json").write_text(text, encoding="utf-8")
    assert "Run 'avfusion matrix' again." in run("compare").stderr


def test_the_matrix_is_compared_with_the_systems(project: Path, run: Callable, edit_params: Callable) -> None:
    def shrink(params: dict) -> None:
        matrix = params["matrix"]
        matrix.update(seeds=[0], workers=1, train={"epochs": 1})
        matrix["systems"] = {name: matrix["systems"][name] for name in ("rnn_va", "linear_va")}
        params["fusion"]["systems"] = {"audio": params["fusion"]["systems"]["audio"]}

    edit_params(shrink)
    result = run("matrix", "--json")
    assert result.exit_code == 0, result.output
    assert {row["system"] for row in json.loads(result.stdout)} == {"rnn_va", "linear_va"}
    assert not (project / "work/models").exists()
    assert sorted(path.name for path in (project / "results").iterdir()) == ["scores-matrix.json", "systems-matrix.csv"]
    assert run("train").exit_code == 0
    assert run("evaluate").exit_code == 0
    assert {row["system"] for row in json.loads(run("compare", "--json").stdout)} == {"rnn_va", "linear_va", "audio"}
    edit_params(lambda params: params.pop("matrix"))
    assert "has no section 'matrix'" in run("matrix").stderr
    result = run("matrix", "--if-any")
    assert (result.exit_code, result.stdout) == (0, ""), result.output
    assert "no matrix.yaml: nothing to train" in result.stderr
    assert [path.name for path in (project / "work/matrix").iterdir()] == [".keep"]
    assert (project / "results/systems-matrix.csv").read_text(encoding="utf-8") == "system,target,ccc\n"
    assert {row["system"] for row in json.loads(run("compare", "--json").stdout)} == {"audio"}
    assert run("report").exit_code == 0


def test_no_systems_are_as_no_scores(project: Path, run: Callable) -> None:
    write(project, "scores-matrix.json", {})
    result = run("compare")
    assert (result.exit_code, "Run 'evaluate-fusion' first" in result.stderr) == (1, True)
    write(project, "scores.json", {})
    for command in ("compare", "report"):
        result = run(command)
        assert (result.exit_code, "Run 'evaluate-fusion' first" in result.stderr) == (1, True)


def test_scores_older_than_the_networks_are_told(project: Path, run: Callable) -> None:
    write(project, "scores.json", {"fused": {"ccc": {"mean": {"mean": 0.5}}}})
    path = project / "results/scores.json"
    document = json.loads(path.read_text()) | {"networks": {"fused": digest_runs(project / "work/models", "fused")}}
    path.write_text(json.dumps(document))
    assert "trained again" not in run("compare").stderr
    save_run(project / "work/models/fused/fold0/seed0", "other settings", [{"ccc": 0.5}])
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warning = run("compare").stderr
    assert warning.startswith("Warning: 'results/scores.json' is older than the networks of 'fused'")
    assert warning.endswith("Run 'avfusion evaluate'.\n")


def test_the_matrix_has_every_model() -> None:
    from fusion.models import MODELS

    matrix = read_params(Path(__file__).parents[3] / "params.yaml").matrix
    assert matrix is not None
    assert {system.model for system in matrix.systems.values()} == set(MODELS)


def test_the_matrix_may_have_a_file_of_its_own(project: Path, run: Callable, edit_params: Callable) -> None:
    (project / "matrix.yaml").write_text("systems: {}\nseds: [0]\n", encoding="utf-8")
    assert "section 'matrix' and a file 'matrix.yaml'; expected one of them" in run("plan").stderr
    edit_params(lambda params: params.pop("matrix"))
    assert "'matrix.seds' is" in run("plan").stderr
    (project / "matrix.yaml").write_text("systems: {}\nseeds: [0]\n", encoding="utf-8")
    assert run("plan").exit_code == 0
    assert json.loads((project / "work/plan/matrix.json").read_text())["seeds"] == [0]


def test_one_run_has_no_deviation(project: Path, run: Callable, edit_params: Callable) -> None:
    def shrink(params: dict) -> None:
        params["fusion"].update(seeds=[0], systems={"audio": params["fusion"]["systems"]["audio"]})

    edit_params(shrink)
    assert run("train").exit_code == 0
    text = run("evaluate").stdout
    scores = json.loads((project / "results/scores.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert scores["systems"]["audio"]["ccc"]["mean"]["std"] is None
    assert "ccc_std" not in json.loads((project / "results/metrics/audio.json").read_text(encoding="utf-8"))
    assert run("report").exit_code == 0
    report = (project / "results/report.md").read_text(encoding="utf-8")
    assert "that of one run" in report
    for page in (text, run("compare").stdout, report):
        assert "±" not in page
    lines = (project / "results/systems.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "system,target,ccc"
    assert [line.split(",")[1] for line in lines[1:]] == ["valence", "arousal", "mean"]


@pytest.mark.parametrize("section", ["fusion", "matrix"])
def test_systems_without_a_name_or_modalities_are_refused(
    section: str, project: Path, run: Callable, edit_params: Callable
) -> None:
    edit_params(lambda params: params[section].update(systems={"a": {"model": "rnn", "modalities": {}}}))
    assert f"'{section}.systems.a.modalities' is {{}}, expected at least one" in run("train").stderr
    edit_params(
        lambda params: params[section].update(systems={"a/b": {"model": "rnn", "modalities": {"audio": "conv1d"}}})
    )
    assert "cannot name a folder" in run("train").stderr


def test_figures_after_post_processing_stand_beside_the_raw_ones(
    project: Path, run: Callable, edit_params: Callable
) -> None:
    system = {"model": "linear", "modalities": {"audio": "conv1d"}}
    edit_params(lambda params: params["fusion"].update(seeds=[0], systems={"one": system}))
    edit_params(lambda params: params.update(evaluate={"draws": 10, "partition": "validation"}))
    assert run("train").exit_code == 0
    assert run("evaluate").exit_code == 0
    (raw,) = json.loads(run("compare", "--json").stdout)
    assert "raw" not in raw
    assert "raw CCC" not in run("compare").stdout
    edit_params(lambda params: params["evaluate"].update(postprocess=["savgol", "scale"]))
    assert "1 of 1 networks are trained already" in run("train").stderr, "it was fitted when the network was trained"
    assert run("evaluate").exit_code == 0
    (row,) = json.loads(run("compare", "--json").stdout)
    assert row["raw"] == raw["ccc"]
    assert row["ccc"] > raw["ccc"], "on the trials that it was fitted on"
    assert run("compare").stdout.split()[:5] == ["#", "system", "CCC", "raw", "CCC"]
    assert run("report").exit_code == 0
    report = (project / "results/report.md").read_text(encoding="utf-8")
    assert "Predictions passed savgol, scale, fitted on the validation trials." in report
    assert "Without post-processing:" in report
    (member,) = gather_ensemble(["one"], read_params()).members
    assert member.network.postprocess == ("savgol", "scale"), "what is handed in passes it too"
