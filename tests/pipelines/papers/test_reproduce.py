"""Presets hold the papers' settings, tables their figures, and a table is reproduced beside the print."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cache.errors import SettingError
from cache.foreign import sha256_file
from extract.weights.finetuned import read_lineage
from fusion.settings import TrainConfig
from fusion.training.building import build_model
from pipelines.papers.presets import ABSENT, FOLDER, SystemFigure, papers, read_preset, read_table, tables
from pipelines.papers.reproduce import _choose, markdown, reproduce
from pipelines.project.finetuned import find_faults
from pipelines.project.params import CorpusParams, Params
from pipelines.project.runs import read_history

DIMS = {"visual": 512, "audio": 128, "text": 768}
ALL = [(paper, number) for paper in papers() for number in tables(paper)]
WORDS = (Path(__file__).parents[3] / "../shared/papers").resolve()
TEXTS = {
    "karas2022": "karas2022_recurrence_vs_attention",
    "zhang2023": "zhang2023_abaw5_lfan_can",
    "praveen2024": "praveen2024_rcma",
}


def test_every_promised_table_is_here() -> None:
    assert set(ALL) >= {("karas2022", n) for n in "235"} | {("zhang2023", "1"), ("praveen2024", "1")}


@pytest.mark.parametrize("paper", papers())
@pytest.mark.parametrize("narrowed", [False, True])
def test_every_system_can_be_built_and_trained(paper: str, narrowed: bool) -> None:
    preset = read_preset(paper, demo=narrowed)
    for system in [*preset.fusion.systems.values(), *preset.finetune.values()]:
        for config in system.train.networks():
            dims = {modality: DIMS[modality] for modality in system.modalities}
            model = build_model(system.model, dims, config.targets, system.settings)
            assert model.fixed_length in (None, config.window)
        if not narrowed:
            assert set(system.modalities.values()) <= set(preset.extract)
    if not narrowed:
        assert not find_faults(Params(CorpusParams(), preset.fusion, extract=preset.extract, finetune=preset.finetune))


def test_the_papers_own_numbers_are_in_the_presets() -> None:
    karas, zhang, praveen = (read_preset(paper).fusion for paper in ("karas2022", "zhang2023", "praveen2024"))
    tuned = read_preset("karas2022").finetune
    best = tuned["e2e_av_cma"].train
    assert (best.lr, best.weight_decay, best.lambda_mse, best.lambda_ce) == (1e-4, 0.06, 0.18, 0.76)
    assert (best.window, best.batch_size, best.restart_steps, best.optimizer) == (16, 64, 200, "adamw")
    assert tuned["e2e_av_rnn"].train.lr == karas.train.lr == TrainConfig().lr == 2e-4
    assert {(run.release, run.tuned, run.normalise) for name, run in tuned.items() if name.startswith("e2e")} == {
        ("together", ("visual", "audio"), "none")
    }
    can = zhang.systems["can"].train
    assert (can.lr, can.min_lr, can.weight_decay, can.batch_size) == (1e-5, 1e-8, 1e-3, 12)
    assert (can.window, can.hop, can.epochs, can.schedule, len(zhang.seeds)) == (300, 200, 100, "plateau", 15)
    rcma = praveen.systems["rcma"].train
    assert (rcma.lr, rcma.weight_decay, rcma.batch_size, len(rcma.networks())) == (1e-4, 5e-4, 12, 2)


@pytest.mark.parametrize(("paper", "number"), ALL)
def test_tables_name_systems_of_their_preset(paper: str, number: str) -> None:
    table, preset = read_table(paper, number), read_preset(paper)
    assert table.figures()
    for _, _, figure in table.figures():
        assert figure.system in {**preset.fusion.systems, **preset.finetune}
    assert f"Table {number}" in table.source


@pytest.mark.skipif(not WORDS.is_dir(), reason="the papers are not here")
@pytest.mark.parametrize(("paper", "number"), ALL)
def test_tables_are_printed_so(paper: str, number: str) -> None:
    lines = (WORDS / f"{TEXTS[paper]}.txt").read_text(encoding="utf-8").splitlines()
    printed = [[cell.strip() for cell in line.split("\t") if cell.strip()] for line in lines if "\t" in line]
    for row in read_table(paper, number).rows:
        if row.cells:
            assert [cell for cell in row.cells if cell] in printed


def test_parameters_are_those_of_the_paper(run: Callable) -> None:
    """Needs no data, no project and no params.yaml."""
    document = json.loads(run("reproduce", "karas2022", "--table", "5", "--json").stdout)[0]
    rows = {tuple(row["cells"][:2]): row["cells"][2:] for row in document["rows"] if "cells" in row}
    assert len(rows) == 9
    assert [cell["ours"] for cell in rows["E2E-AV-RNN", "Mobile"]] == [75_994, 1_100_698]
    assert [cell["ours"] for cell in rows["E2E-AV-SA", "Mobile"]] == [192_666, 1_217_370]
    assert [cell["ours"] for cell in rows["E2E-AV-CMA", "Mobile"]] == [2_365_722, 3_390_426]
    for cells in rows.values():
        for cell in cells:
            text = cell.get("corrected", cell["paper"])
            unit = {"K": 1e3, "M": 1e6}[text[-1]]
            digits = len(text[:-2].partition(".")[2])
            assert abs(cell["ours"] / unit - float(text[:-2])) < 10**-digits


def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Presets of this test: karas2022 with one epoch, faces replaced by sound, on features that the small project has."""
    document = yaml.safe_load((FOLDER / "karas2022.yaml").read_text(encoding="utf-8"))
    document["demo"]["train"]["epochs"] = document["demo"]["finetune"]["train"]["epochs"] = 1
    document["demo"]["finetune"]["windows"] = 2
    document["demo"]["backbones"]["mobilefacenet"] = "conv1d"  # a tenth of the work
    (tmp_path / "presets/tables").mkdir(parents=True)
    (tmp_path / "presets/karas2022.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    for path in (FOLDER / "tables").glob("karas*"):
        (tmp_path / "presets/tables" / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr("pipelines.papers.presets.FOLDER", tmp_path / "presets")


def weights(project: Path) -> dict[Path, int]:
    """Trained weights that a reproduction named, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in project.glob("work/reproduce/**/*.safetensors")}


def test_a_table_of_backbones_trained_end_to_end(
    project: Path,
    run: Callable,
    edit_params: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """It needs crops, sound and the weights to start from, but no features."""
    shutil.rmtree(project / "features")
    small(monkeypatch, tmp_path_factory.mktemp("presets"))
    result = run("reproduce", "karas2022", "--table", "3", "--corpus", "demo", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)[0]
    assert document["corpus"] == "demo"
    assert document["notes"][0].startswith("Demo corpus: ")
    for row in document["rows"]:
        ours = [cell["ours"] for cell in row["cells"][1:]]
        assert ours[2] == pytest.approx((ours[0] + ours[1]) / 2, abs=2e-3)
    kept = weights(project)
    assert len(kept) == 3 * 3, "two backbones and a fusion model of each row"
    assert not (project / "work/finetuned").exists(), "an output of DVC"
    own = project / "work/reproduce/finetuned/karas2022-e2e_av_rnn-seed0/fold0"
    learned = read_lineage(own / "weights/visual.safetensors", sha256_file(own / "weights/visual.safetensors"))
    assert learned is not None
    assert (learned.backbone, learned.training["how"]["images"]["jitter"]) == ("conv1d", 0.2)
    history = read_history(own / "fusion")
    assert document["rows"][0]["cells"][3]["ours"] == pytest.approx(max(row["ccc"] for row in history), abs=1e-3)
    assert json.loads(run("models", "prune", "--json").stdout) == []
    again = run("reproduce", "karas2022", "--table", "3")
    assert re.search(r"\| E2E-AV-RNN +\| 0\.361 +\| -?0\.\d{3} +\| 0\.551 ", again.stdout)
    assert again.stderr.count("is finished already") == 3
    assert weights(project) == kept, "finished fine-tunings are used again"
    redone = run("reproduce", "karas2022", "--table", "3", "--redo")
    assert (redone.exit_code, "is finished already" in redone.stderr) == (0, False)
    edit_params(lambda params: params["extract"].pop("conv1d"))
    result = run("reproduce", "karas2022", "--table", "3")
    assert (result.exit_code, "Add 'conv1d: {weights: …}' there" in result.stderr) == (1, True), result.output


def test_a_table_of_features(
    project: Path, run: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    small(monkeypatch, tmp_path_factory.mktemp("presets"))
    assert run("reproduce", "karas2022", "--table", "2").exit_code == 0
    kept = weights(project)
    assert len(kept) == 12
    assert run("reproduce", "karas2022", "--table", "2").exit_code == 0
    assert weights(project) == kept, "finished networks are used again"
    (project / "features/receipts/conv1d.json").unlink()
    result = run("reproduce", "karas2022", "--table", "2")
    assert (result.exit_code, "run 'extract-features --backbone conv1d'" in result.stderr) == (1, True)


def test_what_is_missing_is_named_with_its_command(project: Path, run: Callable) -> None:
    result = run("reproduce", "zhang2023", "--table", "1")
    assert "The table needs bert" in result.stderr
    assert "extract-features --backbone bert" in result.stderr
    assert (
        "The project's corpus is 'demo', not 'affwild2'"
        in run("reproduce", "zhang2023", "--table", "1", "--corpus", "affwild2").stderr
    )
    assert "Did you mean 'zhang2023'" in run("reproduce", "zhang202", "--table", "1").stderr
    assert "Unknown table of karas2022 '7'" in run("reproduce", "karas2022", "--table", "7").stderr


def test_the_best_or_the_mean_of_the_seeds() -> None:
    runs = {("a", 0, 0): {"v": 0.1, "w": 0.3}, ("a", 0, 1): {"v": 0.5, "w": 0.1}, ("a", 1, 0): {"v": 0.9, "w": 0.9}}
    assert _choose(SystemFigure("a", "v", 0), runs, "best") == 0.5
    assert _choose(SystemFigure("a", "v", 0), runs, "mean") == pytest.approx(0.3)
    assert _choose(SystemFigure("a", "mean", 0), runs, "best") == pytest.approx(0.3)


def test_a_row_of_the_wrong_width_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small(monkeypatch, tmp_path)
    path = tmp_path / "presets/tables/karas2022-3.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["rows"][0]["cells"].pop()
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(SettingError, match="has 3 cells, expected 4"):
        read_table("karas2022", "3")


def test_markdown_has_a_pair_of_columns_for_each_figure() -> None:
    document = reproduce("karas2022", "5", lambda: pytest.fail("no settings are needed"))
    lines = [line for line in markdown(document).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "28.8 M [meant 28.1 M] | 28,106,961" in markdown(document)
    assert len({len(line) for line in lines}) == 1, "columns of equal width"


def test_a_column_without_figures_of_ours_stands_alone() -> None:
    cells = ["A", {"paper": "0.1", "ours": None}, {"paper": "0.2", "ours": 0.25}]
    document = {"source": "s", "caption": "c", "notes": [], "columns": ["M", "V", "W"], "rows": [{"cells": cells}]}
    assert markdown(document).splitlines()[-3::2] == ["| M | V   | W   | ours  |", "| A | 0.1 | 0.2 | 0.250 |"]


def test_what_a_paper_does_not_print_has_no_figure_of_ours() -> None:
    assert "-" in ABSENT
