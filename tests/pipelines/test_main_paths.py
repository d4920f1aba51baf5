"""The whole pipeline of dvc.yaml, stage by stage, on each kind of corpus that a user brings."""

from __future__ import annotations

import json
import shlex
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml
from click.testing import Result

from cache.corpus.manifest import Manifest, Trial
from cache.store.receipt import is_unread, open_receipt

ROOT = Path(__file__).parents[2]
Run = Callable[..., Result]
SYSTEMS = {
    "fused": {"model": "rnn", "modalities": {"visual": "mobilefacenet", "audio": "conv1d"}},
    "linear": {"model": "linear", "modalities": {"audio": "conv1d"}},
}


def stages(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Name, arguments of the command and outputs of every stage, in order."""
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
        for key in yaml.safe_load((folder / "params.yaml").read_text())["extract"] if "foreach" in stage else ("",):
            done = json.loads(json.dumps(stage.get("do", stage)).replace("${key}", key))
            outs = [*done.get("outs", ()), *done.get("metrics", ()), *done.get("plots", ())]
            paths = [out if isinstance(out, str) else next(iter(out)) for out in outs]
            yield f"{name}@{key}".rstrip("@"), shlex.split(done["cmd"])[3:], paths


def run_all(folder: Path, run: Run) -> dict[str, Result]:
    """Run every stage, each of which has to end well and leave its outputs."""
    results = {}
    for name, arguments, outs in stages(folder):
        results[name] = run(*arguments)
        assert results[name].exit_code == 0, (name, results[name].output)
        for out in outs:
            assert (folder / out).exists(), f"output '{out}' of stage '{name}' does not exist"
    return results


def remove_sound(path: Path) -> None:
    """The same video without its sound."""
    silent = path.with_name(f"silent{path.suffix}")
    with av.open(str(path)) as source, av.open(str(silent), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    silent.replace(path)


@pytest.fixture
def demo(project: Path) -> Manifest:
    """The trials of a small demo corpus; features, crops and corpus of the project are gone."""
    manifest = Manifest.load(project / "work/corpus")
    shutil.move(project / "work", project / "old")
    shutil.rmtree(project / "features")
    root = project / "old" / "corpus" / "media"
    return Manifest(root, manifest.trials, manifest.targets)


def set_corpus(project: Path, name: str, root: str, partition: str = "validation", **settings: Any) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    params["corpus"] = {"name": name, "root": root, "settings": settings}
    params["fusion"] = {"seeds": [0], "systems": SYSTEMS, "train": {"epochs": 1, "window": 30, "hop": 30}}
    params["evaluate"] = {"partition": partition, "draws": 10}
    for optional in ("crops", "matrix"):
        params.pop(optional, None)
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def old_crops(project: Path, trial: Trial) -> Path:
    return next((project / "old" / "crops").glob(f"*/{trial.id}.zip"))


def check(project: Path, lacking: str = "") -> None:
    """Every frame has its row; a trial without sound has no valid one."""
    for modality, name in (("visual", "mobilefacenet"), ("audio", "conv1d")):
        store, receipt = open_receipt(project / f"features/receipts/{name}.json")
        for trial in Manifest.load(project / "work/corpus").trials:
            assert trial.id in receipt.trials
            valid = store.read(trial.id).valid
            assert valid.any() == (modality == "visual" or trial.id != lacking), trial.id
    assert is_unread(project / "features/receipts/vggish.json")
    scores = json.loads((project / "results/scores.json").read_text())
    assert set(scores["systems"]) == set(SYSTEMS)
    assert (project / "results/report.md").read_text().startswith("# Report")


@pytest.mark.slow
@pytest.mark.parametrize("own_crops", [True, False])
def test_affwild2(project: Path, demo: Manifest, run: Run, own_crops: bool) -> None:
    root = demo.root.rename(project / "affwild2")
    (root / "subjects.csv").unlink()
    silent = next(trial for trial in demo.trials if trial.partition == "validation")
    if own_crops:
        for trial in demo.trials:
            with zipfile.ZipFile(old_crops(project, trial)) as archive:
                archive.extractall(root / "cropped_aligned" / trial.id)
        remove_sound(root / silent.media["video"])
    set_corpus(project, "affwild2", "affwild2")
    results = run_all(project, run)
    if own_crops:
        assert not list((project / "work/crops").rglob("*.zip"))
        assert "1 of 2 trials have no sound" in run("corpus", "check", "affwild2").stderr
        assert "1 of 2 trials" in results["extract@conv1d"].stderr
    check(project, silent.id if own_crops else "")
    again = run_all(project, run)
    assert "computed" in again["extract@conv1d"].stdout


@pytest.mark.slow
def test_folder(project: Path, demo: Manifest, run: Run) -> None:
    root = project / "mine"
    for part in ("videos", "labels", "crops"):
        (root / part).mkdir(parents=True)
    lines = ["trial,subject,partition"]
    for trial, partition in zip(demo.trials, ("train", "validation", "test"), strict=True):
        shutil.copy(demo.path(trial, "video"), root / "videos" / f"{trial.id}.mp4")
        shutil.copy(old_crops(project, trial), root / "crops")
        lines.append(f"{trial.id},{trial.subject},{partition}")
        labels = np.linspace(-0.5, 0.5, trial.clock.num_frames)
        rows = "".join(f"{value:.4f},{-value:.4f}\n" for value in labels)
        (root / "labels" / f"{trial.id}.csv").write_text(f"valence,arousal\n{rows}")
    (root / "subjects.csv").write_text("\n".join(lines) + "\n")
    remove_sound(root / "videos" / f"{demo.trials[1].id}.mp4")
    set_corpus(project, "folder", "mine", "test")
    run_all(project, run)
    check(project, demo.trials[1].id)


@pytest.mark.slow
def test_muse(project: Path, demo: Manifest, run: Run) -> None:
    root = project / "muse"
    (root / "raw_data/videos").mkdir(parents=True)
    (root / "metadata").mkdir()
    lines = ["Id,Partition"]
    for trial, partition in zip(demo.trials, ("train", "devel", "test"), strict=True):
        shutil.copy(demo.path(trial, "video"), root / "raw_data/videos" / f"{trial.id}.mp4")
        lines.append(f"{trial.id},{partition}")
        for target in ("valence", "arousal"):
            (root / "label_segments" / target).mkdir(parents=True, exist_ok=True)
            rows = "".join(
                f"{time},{time / 4000 - 0.2:.3f}\n" for time in range(0, int(trial.clock.duration_s * 1000), 250)
            )
            (root / "label_segments" / target / f"{trial.id}.csv").write_text(f"timestamp,value\n{rows}")
    (root / "metadata/partition.csv").write_text("\n".join(lines) + "\n")
    set_corpus(project, "muse", "muse")
    run_all(project, run)
    check(project)
