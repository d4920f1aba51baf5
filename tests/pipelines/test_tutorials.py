"""The tutorials work as they stand: every command of each is run, on generated videos and with random weights."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from cache.corpus.manifest import Manifest
from pipelines.cli.commands import avfusion
from pipelines.project.params import EvaluateParams
from pipelines.project.params_file import read_params
from pipelines.starting.outdated import find_outdated

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs/tutorials"
BIN = Path(sys.executable).parent
TEST_LIST = "names_of_videos_in_each_test_set/Valence_Arousal_Estimation_Challenge_test_set_release.txt"
"""The organisers' list of the test partition."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BIN / "avfusion").is_file(), reason="avfusion is not installed beside this Python"),
]


def commands(name: str) -> Iterator[list[str]]:
    """The words of every command of a tutorial."""
    text = (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S):
        yield from map(shlex.split, block.splitlines())


def dvc(*arguments: str) -> str:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(BIN / "dvc"), *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def repro_here(*arguments: str) -> None:
    """What `dvc repro` runs the first time, in this process, which takes a third of the time."""
    assert arguments == ("repro",)
    extracted = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["extract"]
    for stage in yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"].values():
        for key in extracted if "do" in stage else ("",):
            run(stage.get("do", stage)["cmd"].replace("${key}", key).split()[1:])


def run(arguments: list[str]) -> None:
    result: Result = CliRunner().invoke(avfusion, arguments)
    accepted = (0, 1) if arguments == ["doctor"] else (0,)  # a full disk is not this test's
    assert result.exit_code in accepted, (arguments, result.output)


def follow(
    name: str, replaced: dict[str, str], monkeypatch: pytest.MonkeyPatch, repro: Callable[..., object] = dvc
) -> None:
    """Run a tutorial; words are replaced where it has an example's."""
    for words in commands(name):
        script, *arguments = [replaced.get(word, word) for word in words]
        if script == "cd":
            monkeypatch.chdir(arguments[0])
            shrink(Path("params.yaml"))
            continue
        assert script in ("avfusion", "dvc")
        if script == "dvc":
            repro(*arguments)
        else:
            run(arguments)


def shrink(path: Path) -> None:
    """Leave one system, which is trained once, on random weights."""
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section in params["extract"].values():
        section["weights"] = "random"
    systems = {"fused": params["fusion"]["systems"]["fused"]}
    params["fusion"].update(seeds=[0], folds={"number": 0}, workers=1, systems=systems)
    params["fusion"]["train"]["epochs"] = 2
    path.write_text(yaml.safe_dump(params), encoding="utf-8")


def test_own_videos(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = sorted(path.stem for path in (media / "videos").iterdir())
    follow("own-videos", {"../my-videos/videos/anna-1.mp4": f"../my-videos/videos/{names[0]}.mp4"}, monkeypatch)
    assert "1 system on partition `validation`" in Path("results/report.md").read_text(encoding="utf-8")
    assert json.loads(Path("results/scores.json").read_text())["systems"].keys() == {"fused"}
    with Path(f"answers/{names[0]}.csv").open(newline="") as file:
        assert float(next(csv.DictReader(file))["valence"]) == pytest.approx(0, abs=1)
    assert re.findall("Running stage '(.*)'", dvc("repro")) == ["plan"]
    dvc("plots", "show", "results/history.csv")
    assert_outdated_stages_are_known()


def assert_outdated_stages_are_known() -> None:
    """Those that a change would run again, with the first reason; nothing is written to find out."""
    params = read_params()
    assert find_outdated(params) == {}
    changed = find_outdated(replace(params, crops=replace(params.crops, size=96)))
    assert list(changed) == [
        *("crops", "finetune", "extract@mobilefacenet", "extract@vggish"),
        *("train", "evaluate", "matrix", "report"),
    ]
    assert changed["crops"] == "'work/plan/crops.json' has changed"
    assert changed["train"] == "'features/receipts' will change"
    assert list(find_outdated(replace(params, evaluate=EvaluateParams(draws=10)))) == ["evaluate", "matrix", "report"]
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("epochs: 2", "epochs: 3"), encoding="utf-8")
    assert list(find_outdated(read_params())) == ["train", "evaluate", "report"]
    Path("params.yaml").write_text(text, encoding="utf-8")
    Path("results/report.md").unlink()
    assert find_outdated(params) == {"report": "'results/report.md' is missing"}


def test_aff_wild2(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(finished / "work/corpus/media", tmp_path / "affwild2")
    manifest = Manifest.load(finished / "work/corpus")
    (held_out,) = [trial.id for trial in manifest.trials if trial.partition == "test"]
    (tmp_path / "affwild2" / TEST_LIST).parent.mkdir()
    (tmp_path / "affwild2" / TEST_LIST).write_text(f"{held_out}\n")
    rows = [f"{held_out}/{number + 1:05d}.jpg,0,0\n" for number in range(20)]
    (tmp_path / "SAMPLE.txt").write_text("image_location,valence,arousal\n" + "".join(rows))
    monkeypatch.chdir(tmp_path)
    follow("aff-wild2", {}, monkeypatch, repro_here)
    assert "1 system on partition" in Path("results/report.md").read_text(encoding="utf-8")
    written = Path("predictions.txt").read_text().splitlines()
    assert [line.partition(",")[0] for line in written[1:]] == [row.partition(",")[0] for row in rows]


def test_applying_a_model(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that has nothing but the model and the video."""
    place = tmp_path / "elsewhere"
    shutil.copytree(trained / "work/models/fused", place / "fused")
    shutil.copy(next((trained / "work/corpus/media").rglob("*.mp4")), place / "video.mp4")
    monkeypatch.chdir(place)
    follow("apply-a-model", {}, monkeypatch)
    assert {path.name for path in (place / "answers").iterdir()} >= {"video.csv", "video.eaf"}
    assert (place / "curves.png").stat().st_size
    assert (place / "shown.mp4").stat().st_size
    program = re.findall(r"```python\n(.*?)```", (TUTORIALS / "apply-a-model.md").read_text(encoding="utf-8"), re.S)
    found: dict = {}
    exec(program[0], found)
    assert len(found["table"]["valence"]) > 20


def test_every_tutorial_has_a_test() -> None:
    assert {path.stem for path in TUTORIALS.iterdir()} == {"own-videos", "aff-wild2", "apply-a-model"}
    assert all(list(commands(path.stem)) for path in TUTORIALS.iterdir())
