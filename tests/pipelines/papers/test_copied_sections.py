"""Sections that docs/finetuning.md shows, or says to copy from presets, are valid in params.yaml as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from pipelines.papers.presets import FOLDER, read_preset
from pipelines.project.params_file import read_params

PAGE = Path(__file__).parents[3] / "docs/finetuning.md"


def section(text: str, name: str, indent: str = "") -> str:
    """The lines of a section of a YAML file."""
    (found,) = re.findall(rf"^{indent}{name}:.*?\n(?=^{indent[2:]}\S|\Z)", text, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.mark.parametrize("paper", ["zhang2023", "praveen2024"])
def test_gradual_unfreezing_can_be_copied(paper: str, tmp_path: Path) -> None:
    text = (FOLDER / f"{paper}.yaml").read_text(encoding="utf-8")
    fusion = {key: value for key, value in yaml.safe_load(text)["fusion"].items() if key in ("folds", "train")}
    path = tmp_path / "params.yaml"
    own = yaml.safe_dump({"corpus": {"name": "affwild2"}, "fusion": {"seeds": [0], "systems": {}, **fusion}})
    path.write_text(own + section(text, "extract") + section(text, "finetune"), encoding="utf-8")
    preset, found = read_preset(paper), read_params(path).finetune
    assert found == preset.finetune
    for run in found.values():
        assert (run.release, run.tuned, run.images.flip) == ("gradual", ("visual", "audio"), 0.5)
        assert (run.train.window, run.train.hop, run.train.batch_size, run.train.schedule) == (300, 200, 12, "plateau")
        assert len(run.train.networks()) == 1
    assert {run.train.targets for run in found.values()} == {("valence",), ("arousal",)}


def test_the_page_s_section_is_valid(tmp_path: Path) -> None:
    shown = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "params.yaml"
    path.write_text(f"corpus: {{}}\nfusion: {{seeds: [0], systems: {{}}}}\n{shown[0]}", encoding="utf-8")
    assert set(read_params(path).finetune) == {"emotion"}
    copied = section((FOLDER / "karas2022.yaml").read_text(encoding="utf-8"), "pretrain_conv1d", "  ")
    whole = re.sub(r"^  pretrain_conv1d: .*\n", lambda _: copied, shown[1], flags=re.MULTILINE)
    path.write_text(f"fusion: {{seeds: [0], systems: {{}}}}\n{whole}", encoding="utf-8")
    assert read_params(path).finetune["pretrain_conv1d"].train.lambda_ce == 0
