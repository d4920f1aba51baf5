"""Commands of stage two, listing, settings, and the generated pages."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cache.corpus.folds import load_folds
from cache.corpus.manifest import Manifest
from cache.documents.documents import sign
from cache.errors import MissingFileError
from fusion.training.checkpoint import load
from pipelines.cli import commands as cli
from pipelines.cli.commands import avfusion
from pipelines.cli.reference import PACKAGES, cli_page, names_page, params_page
from pipelines.project.params_file import read_params
from pipelines.project.yaml_files import read_yaml
from pipelines.starting.project import FILES, adapt_pipeline

ROOT = Path(__file__).parents[3]
Run = Callable[..., Result]


def test_train_evaluate_report(project: Path, run: Run) -> None:
    trained = json.loads(run("train", "--json").stdout)
    systems = list(dict.fromkeys(row["system"] for row in trained))
    assert {"fused", "visual", "audio"} <= set(systems)
    assert [(row["system"], row["seed"]) for row in trained] == [(s, k) for s in systems for k in (0, 1)]
    again = json.loads(run("train", "--json", "--system", "audio").stdout)
    assert again == [row for row in trained if row["system"] == "audio"]
    with (project / "results/history.csv").open(encoding="utf-8", newline="") as file:
        epochs = list(csv.DictReader(file))
    assert {row["system"] for row in epochs} == set(systems), "training one system keeps the history of the others"
    document = json.loads(run("evaluate", "--json").stdout)[0]
    assert sign(document) == json.loads((project / "results/scores.json").read_text(encoding="utf-8"))
    scores = document["systems"]
    assert set(scores) == set(systems)
    assert set(scores["fused"]) == {"ccc", "trial_ccc", "pcc", "rmse", "sagr"}
    check_figures(document, project)
    result = run("report")
    assert result.exit_code == 0, result.output
    text = (project / "results/report.md").read_text(encoding="utf-8")
    assert "**Untrained features:** " in text
    assert "mean ± standard deviation of 2 seeds over" in text
    figures = scores["fused"]["ccc"]["mean"]
    assert f" {figures['mean']:.3f} ± {figures['std']:.3f} |" in text, "one trial has no interval"
    for line in text.splitlines():
        if line.startswith("!["):
            picture = project / "results" / line.rpartition("(")[2].rstrip(")")
            assert picture.read_bytes().startswith(b"\x89PNG")


def check_figures(document: dict, project: Path) -> None:
    """The figures of CCC agree with the runs they are made of, and with the small file."""
    small = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in project.glob("results/metrics/*.json")}
    assert set(small) == set(document["systems"])
    for name, scores in document["systems"].items():
        runs = [row["ccc"] for row in document["runs"] if row["system"] == name]
        figures = scores["ccc"]["mean"]
        assert figures["mean"] == pytest.approx(np.mean(runs), abs=1e-4)
        assert figures["std"] == pytest.approx(np.std(runs, ddof=1), abs=1e-4)
        assert figures["best"] == max(runs)
        assert figures["low"] <= figures["mean"] <= figures["high"], "one trial only is drawn again and again"
        assert small[name] == {"ccc": figures["mean"], "ccc_std": figures["std"]}, "columns of `dvc exp show`"


def read_predictions(project: Path, system: str) -> dict[str, np.ndarray]:
    with np.load(project / f"work/predictions/{system}.npz") as archive:
        return {name: archive[name] for name in archive.files}


def keep_one_system(params: dict, **changes: object) -> None:
    params["fusion"]["systems"] = {"fused": {**params["fusion"]["systems"]["fused"], **changes}}


def test_networks_of_single_targets(project: Path, run: Run, edit_params: Callable) -> None:
    edit_params(lambda params: keep_one_system(params, train={"per_target": True, "epochs": 1}))
    rows = json.loads(run("train", "--json").stdout)
    assert [(row["seed"], row["targets"]) for row in rows] == [
        (seed, target) for seed in (0, 1) for target in ("valence", "arousal")
    ]
    assert all(row["ccc_valence"] == "" for row in rows if row["targets"] == "arousal")
    folder = project / "work/models/fused/fold0/seed1"
    assert sorted(path.name for path in folder.iterdir()) == ["arousal", "valence"]
    scores = json.loads(run("evaluate", "--json").stdout)[0]["systems"]["fused"]
    assert list(scores["ccc"]) == ["valence", "arousal", "mean"]
    (trial_id,) = read_predictions(project, "fused")
    members = [load(folder.parent / f"seed{seed}" / "arousal").model for seed in (0, 1)]
    assert [member.targets for member in members] == [("arousal",)] * 2
    assert run("report").exit_code == 0
    assert trial_id


def test_every_fold_is_trained_and_scored_on_its_own_trials(project: Path, run: Run, edit_params: Callable) -> None:
    def change(params: dict) -> None:
        keep_one_system(params)
        params["fusion"]["folds"] = {"kind": "rotated", "number": -1, "count": 2}
        params["evaluate"]["partition"] = "validation"

    edit_params(change)
    rows = json.loads(run("train", "--json").stdout)
    assert [(row["fold"], row["seed"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    folds = load_folds(project / "work/models/folds.json", Manifest.load(project / "work/corpus"))
    assert folds[0].validate == folds[1].train
    document = json.loads(run("evaluate", "--json").stdout)[0]
    assert document["folds"] == [0, 1]
    assert len(document["runs"]) == 4
    assert sorted(read_predictions(project, "fused")) == sorted((*folds[0].validate, *folds[1].validate))
    assert run("report").exit_code == 0
    assert "2 seeds on 2 folds each" in (project / "results/report.md").read_text(encoding="utf-8")
    edit_params(lambda params: params["fusion"]["folds"].update(path="work/models/folds.json", number=1))
    rows = json.loads(run("train", "--json").stdout)
    assert [row["fold"] for row in rows] == [1, 1]
    edit_params(lambda params: params["fusion"]["folds"].update(number=2))
    assert "fusion.folds.number is 2, expected 0 to 0" in run("train").stderr


def test_training_settings_of_a_system(project: Path, run: Run, edit_params: Callable) -> None:
    edit_params(lambda params: keep_one_system(params, train={"epochs": 1, "window": 20, "hop": 10}))
    assert run("train").exit_code == 0
    training = load(project / "work/models/fused/fold0/seed0").training
    assert (training.epochs, training.window, training.hop) == (1, 20, 10)
    edit_params(lambda params: keep_one_system(params, train={"seed": 1}))
    assert "expected in 'fusion.seeds' only" in run("train").stderr


def test_a_system_names_its_modalities_as_it_likes(project: Path, run: Run, edit_params: Callable) -> None:
    edit_params(lambda params: keep_one_system(params, modalities={"face": "mobilefacenet", "voice": "conv1d"}))
    assert run("train").exit_code == 0
    assert load(project / "work/models/fused/fold0/seed0").model.dims.keys() == {"face", "voice"}
    edit_params(lambda params: keep_one_system(params, modalities={"audio": "vggish"}))
    assert "'extract-features --backbone vggish'" in run("train").stderr


def test_features_in_components_and_beyond_the_memory_budget(project: Path, run: Run, edit_params: Callable) -> None:
    edit_params(lambda params: keep_one_system(params, pca={"visual": 3}))
    assert run("train").exit_code == 0
    checkpoint = load(project / "work/models/fused/fold0/seed0")
    assert checkpoint.model.dims["visual"] == 3
    before = run("evaluate", "--json").stdout
    edit_params(lambda params: keep_one_system(params, pca={}))
    plain = run("train", "--json").stdout
    edit_params(lambda params: params["fusion"].update(bank={"memory_gb": 0}))
    assert run("train", "--redo", "--json").stdout == plain
    assert run("evaluate", "--json").stdout != before
    edit_params(lambda params: params["fusion"].update(bank={"memory_gb": -1}, seeds=[0, 0]))
    message = run("train").stderr
    assert "'fusion.bank.memory_gb' is -1.0, expected 0 to" in message
    assert "'fusion.seeds' is [0, 0], expected each seed once" in message


def test_stage_two_says_what_is_missing(project: Path, run: Run) -> None:
    assert "Run 'train-fusion' first" in run("evaluate").stderr
    assert "Run 'evaluate-fusion' first" in run("report").stderr
    (project / "features/receipts/conv1d.json").unlink()
    result = run("train")
    assert result.exit_code == 1
    assert "extract-features --backbone conv1d" in result.stderr
    assert run("train", "--system", "fuse").stderr.endswith("Did you mean 'fused'?\n")


def test_training_refuses_a_damaged_store(project: Path, run: Run) -> None:
    chunk = next((project / "features/conv1d.zarr").glob("*/*/c/0/0"))
    content = bytearray(chunk.read_bytes())
    content[7] ^= 1
    chunk.write_bytes(content)
    result = run("train", "--system", "audio")
    assert result.exit_code == 1
    assert "differ from their digest" in result.stderr


@pytest.mark.parametrize("what", ["backbones", "models", "corpora"])
def test_lists(run: Run, what: str) -> None:
    names = [row["name"] for row in json.loads(run("list", what, "--json").stdout)]
    assert names
    assert all(name in run("list", what).stdout for name in names)


def test_debug_shows_the_traceback(project: Path, run: Run) -> None:
    shown = run("evaluate", "--debug").stderr
    assert shown.startswith("Traceback")
    assert f"{MissingFileError.__name__}: " in shown


def test_the_projects_own_parameters_are_right() -> None:
    params = read_params(ROOT / "params.yaml")
    assert params.fusion.systems["fused"].modalities == {"visual": "mobilefacenet", "audio": "conv1d"}


def test_numbers_with_an_exponent_need_no_point(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("[1e-3, -2E4, 1.5e+2, .5e1, 1e, e3, 12, '1e-3', 3.0]", encoding="utf-8")
    values = [0.001, -20000.0, 150.0, 5.0, "1e", "e3", 12, "1e-3", 3.0]
    assert read_yaml(path) == values
    assert [type(value) for value in read_yaml(path)] == [type(value) for value in values]


def test_a_type_error_names_its_setting_only(project: Path, run: Run, edit_params: Callable) -> None:
    edit_params(lambda params: params["fusion"]["train"].update(lr="fast"))
    result = run("train")
    assert "'fusion.train.lr' is 'fast', expected a number. Change it" in result.stderr
    assert "weight_decay" not in result.stderr


def test_the_generated_pages_are_current() -> None:
    """Run `make docs` when this fails."""
    assert _read(ROOT / "docs/params.md") == params_page()
    assert _read(ROOT / "docs/cli.md") == cli_page(avfusion)
    for package in PACKAGES:
        assert _read(ROOT / f"docs/reference/{package}.md") == names_page(package)
    assert _read(FILES / "stages.yaml") == adapt_pipeline(_read(ROOT / "dvc.yaml"))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_scripts_are_named_beside_their_commands() -> None:
    assert "## `avfusion extract`\n\nAlso as `extract-features`." in cli_page(avfusion)


def test_every_setting_is_documented() -> None:
    assert "|  |" not in params_page()


def test_a_wrong_setting_loses_no_trained_model(project: Path, run: Run, edit_params: Callable) -> None:
    assert run("train", "--system", "audio").exit_code == 0
    before = {path: path.read_bytes() for path in (project / "work/models").rglob("*.safetensors")}
    edit_params(lambda params: params["fusion"]["systems"]["audio"].update(settings={"d_modell": 3}))
    result = run("train", "--system", "audio")
    assert (result.exit_code, "d_modell" in result.stderr) == (1, True)
    assert before == {path: path.read_bytes() for path in (project / "work/models").rglob("*.safetensors")}


def test_evaluation_refuses_models_of_other_settings(project: Path, run: Run, edit_params: Callable) -> None:
    assert run("train").exit_code == 0
    edit_params(lambda params: params["fusion"]["train"].update(lr=0.001))
    result = run("evaluate")
    assert result.exit_code == 1
    assert "was trained with settings other" in result.stderr
    assert run("train").exit_code == 0
    assert run("evaluate").exit_code == 0


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden"])
def test_a_system_cannot_name_another_folder(project: Path, run: Run, edit_params: Callable, name: str) -> None:
    edit_params(lambda params: params["fusion"]["systems"].update({name: params["fusion"]["systems"]["audio"]}))
    result = run("train")
    assert result.exit_code == 1
    assert "cannot name a folder" in result.stderr


def test_looking_at_no_features_is_an_error(run: Run, tmp_path: Path) -> None:
    for command in ("ls", "verify"):
        result = run("cache", command, "--features", tmp_path / "none")
        assert result.exit_code == 1
        assert "No features in" in result.stderr


def test_the_demo_corpus_is_read_where_a_root_is_given(project: Path, run: Run, edit_params: Callable) -> None:
    elsewhere = project / "mine"
    (project / "work/corpus/media").rename(elsewhere)
    labels = next(elsewhere.rglob("Train_Set/*.txt"))
    labels.write_text(labels.read_text() + "0.1,0.1\n" * 5)
    edit_params(lambda params: params["corpus"].update(root=str(elsewhere)))
    result = run("corpus", "build")
    assert result.exit_code == 1
    assert "a difference of 2 is allowed" in result.stderr


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"window_s": "half"}, "extract.conv1d.settings"), ({"window_s": -1}, "expected 0.02 to 10")],
)
def test_wrong_backbone_settings_are_refused_once(
    project: Path, run: Run, edit_params: Callable, settings: dict, text: str
) -> None:
    edit_params(lambda params: params["extract"]["conv1d"].update(settings=settings))
    result = run("extract", "--backbone", "conv1d")
    assert (result.exit_code, result.stderr.count(text)) == (1, 1), result.stderr


def test_scripts_of_their_own_know_both_names_of_help() -> None:
    for command in (cli.extract_features, cli.train_fusion, cli.evaluate_fusion):
        assert CliRunner().invoke(command, ["-h"]).exit_code == 0


@pytest.mark.parametrize(
    ("command", "heavy", "known"),
    [
        (["evaluate", "--system", "nonsense"], "evaluation", "fused"),
        (["finetune", "--run", "nonsense"], "finetuning", "voice"),
    ],
)
def test_unknown_names_are_refused_before_torch_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], heavy: str, known: str
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, f"pipelines.stages.{heavy}", None)  # an import of it fails
    result = CliRunner().invoke(avfusion, command)
    assert (result.exit_code, "'nonsense'" in result.output, known in result.output) == (1, True, True)
