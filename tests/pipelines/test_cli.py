"""Commands of stage two, listing, settings, and the generated pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from cache.errors import MissingFileError, SettingError
from pipelines.cli import avfusion
from pipelines.params import FusionParams, from_mapping, read_params, rows
from pipelines.reference import cli_page, params_page

ROOT = Path(__file__).parents[2]
Run = Callable[..., Result]


def test_train_evaluate_report(project: Path, run: Run) -> None:
    trained = json.loads(run("train", "--json").stdout)
    assert [(row["system"], row["seed"]) for row in trained] == [
        (s, k) for s in ("fused", "visual", "audio") for k in (0, 1)
    ]
    again = json.loads(run("train", "--json", "--system", "audio").stdout)
    assert again == trained[4:]
    scores = json.loads(run("evaluate", "--json").stdout)[0]["systems"]
    assert set(scores) == {"fused", "visual", "audio"}
    assert set(scores["fused"]) == {"ccc", "pcc", "rmse"}
    assert scores["fused"]["ccc"]["mean"]["best"] <= 1
    result = run("report")
    assert result.exit_code == 0, result.output
    text = (project / "results/report.md").read_text(encoding="utf-8")
    assert "**Untrained features:** conv1d, mobilefacenet" in text
    for line in text.splitlines():
        if line.startswith("!["):
            picture = project / "results" / line.rpartition("(")[2].rstrip(")")
            assert picture.read_bytes().startswith(b"\x89PNG")


def test_stage_two_says_what_is_missing(project: Path, run: Run) -> None:
    assert "Run 'train-fusion' first" in run("evaluate").stderr
    assert "Run 'evaluate-fusion' first" in run("report").stderr
    (project / "features/audio/conv1d.json").unlink()
    result = run("train")
    assert result.exit_code == 1
    assert "extract-features --backbone conv1d" in result.stderr
    assert run("train", "--system", "fuse").stderr.endswith("Did you mean 'fused'?\n")


def test_training_refuses_a_damaged_store(project: Path, run: Run) -> None:
    chunk = next((project / "features/audio/conv1d.zarr").glob("*/*/c/0/0"))
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
    assert isinstance(run("evaluate", "--debug").exception, MissingFileError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("corpus: {name: demo, colour: 1}", "Unknown setting 'colour'"),
        ("corpus: [1", "is no YAML"),
        ("7", "holds int, expected keys and values"),
        (
            "corpus: {name: 3}\ncrops: {}\nextract: {}\nfusion: {seeds: [0], systems: {}}",
            'should be "str" instead of value "3"',
        ),
    ],
)
def test_wrong_parameter_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingError, match=message):
        read_params(path)


def test_the_projects_own_parameters_are_right() -> None:
    params = read_params(ROOT / "params.yaml")
    assert params.fusion.systems["fused"].modalities == {"visual": "mobilefacenet", "audio": "conv1d"}


def test_numbers_may_be_written_as_yaml_reads_them() -> None:
    built = from_mapping(FusionParams, {"seeds": [1], "systems": {}, "train": {"lr": 1}}, "fusion")
    assert built.train == {"lr": 1}
    assert {name: default for name, default, _ in rows(FusionParams)}["threads"] == "1"


def test_the_generated_pages_are_current() -> None:
    """Run `make docs` when this fails."""
    assert (ROOT / "docs/params.md").read_text(encoding="utf-8") == params_page()
    assert (ROOT / "docs/cli.md").read_text(encoding="utf-8") == cli_page(avfusion)


def test_every_setting_is_documented() -> None:
    assert "|  |" not in params_page()
