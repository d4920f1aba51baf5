"""Labels of any number and range, through the commands: they train as in [-1, 1], and come out in their own unit."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import Result
from matplotlib.figure import Figure

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.targets import Target, from_unit
from pipelines.report.figures import draw_trial

RATE, SECONDS, FRAMES = 16_000, 2, 50
PARTS = {"a": "train", "b": "train", "c": "train", "d": "validation", "e": "validation", "f": "test", "g": "test"}

Ranges = dict[str, tuple[float, float]]


def write_corpus(root: Path, ranges: Ranges) -> None:
    """Sounds that are as loud as their first target is high; of some frames single targets are not annotated."""
    rng = np.random.default_rng(0)
    for folder in ("videos", "labels"):
        (root / folder).mkdir(parents=True)
    targets = [Target(name, low=low, high=high) for name, (low, high) in ranges.items()]
    for name in PARTS:
        unit = np.clip(np.tanh(rng.normal(0, 0.4, (FRAMES, 3)).cumsum(axis=0)), -0.99, 0.99)[:, : len(ranges)]
        loud = np.repeat(1.2 + unit[:, 0], RATE * SECONDS // FRAMES) * rng.normal(0, 3000, RATE * SECONDS)
        with wave.open(str(root / f"videos/{name}.wav"), "wb") as sound:
            sound.setparams((1, 2, RATE, 0, "NONE", ""))
            sound.writeframes(np.clip(loud, -32768, 32767).astype("<i2").tobytes())
        cells = [[f"{value:.6f}" for value in row] for row in from_unit(unit, targets)]
        if name in "ad":
            for frame in range(10):
                cells[frame][frame % len(ranges)] = ""
        lines = [",".join(ranges), *(",".join(row) for row in cells)]
        (root / f"labels/{name}.csv").write_text("\n".join(lines) + "\n")
    rows = [f"{name},{name},{part}" for name, part in PARTS.items()]
    (root / "subjects.csv").write_text("\n".join(["trial,subject,partition", *rows]) + "\n")


def run_project(folder: Path, ranges: Ranges, run: Callable[..., Result], model: str) -> dict[str, dict]:
    """Everything from the corpus to the report in a folder; metric → target → figures."""
    write_corpus(folder / "mine", ranges)
    params = {
        "corpus": {"name": "folder", "root": "mine", "settings": {"targets": {k: list(v) for k, v in ranges.items()}}},
        "extract": {"conv1d": {"weights": "random", "settings": {"window_s": 0.1}}},
        "fusion": {
            "seeds": [0],
            "systems": {"sound": {"model": model, "modalities": {"audio": "conv1d"}}},
            "train": {"targets": list(ranges), "epochs": 1},
        },
        "evaluate": {"draws": 20},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    for command in (["corpus", "build"], ["extract", "--backbone", "conv1d"], ["train"], ["evaluate"], ["report"]):
        result = run(*command)
        assert result.exit_code == 0, result.output
    document = json.loads((folder / "results/scores.json").read_text())
    return dict(document["systems"]["sound"])


@pytest.mark.parametrize("model", ["linear", "rnn"])
@pytest.mark.parametrize(
    "ranges",
    [{"pain": (0, 10)}, {"valence": (1, 9), "arousal": (1, 9), "dominance": (0, 100)}],
    ids=["one", "three"],
)
def test_other_ranges_are_the_same_training_in_another_unit(
    ranges: Ranges, model: str, tmp_path: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, predictions = [], []
    for name, own in (("unit", dict.fromkeys(ranges, (-1, 1))), ("own", ranges)):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        figures.append(run_project(folder, own, run, model))
        with np.load(folder / "work/predictions/sound.npz") as archive:
            predictions.append({trial: archive[trial] for trial in archive})
    assert Manifest.load(tmp_path / "own/work/corpus").names == tuple(ranges)
    targets = [Target(name, low=low, high=high) for name, (low, high) in ranges.items()]
    for trial, values in predictions[0].items():
        np.testing.assert_allclose(predictions[1][trial], from_unit(values, targets), atol=0.01, rtol=1e-3)
    for target in targets:
        for metric in ("ccc", "pcc", "sagr"):
            assert figures[1][metric][target.name]["mean"] == pytest.approx(
                figures[0][metric][target.name]["mean"], abs=0.01
            )
        assert figures[1]["rmse"][target.name]["mean"] == pytest.approx(
            figures[0]["rmse"][target.name]["mean"] * target.half, rel=0.02
        )
    assert model == "rnn" or figures[1]["ccc"][targets[0].name]["mean"] > 0.5, "it learns"


def test_labels_that_leave_their_range_are_refused_with_file_row_value_and_remedy(
    tmp_path: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "mine", {"pain": (0, 10)})
    corpus = {"name": "folder", "root": "mine"}
    fusion: dict[str, object] = {"seeds": [0], "systems": {}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"corpus": corpus, "fusion": fusion}))
    refused = run("corpus", "build")
    assert refused.exit_code == 1
    label = (tmp_path / "mine/labels/b.csv").read_text().splitlines()[1]
    for part in ("labels/b.csv", "line 2", f"'{label}'", "pain within [-1, 1]", "corpus.settings.targets: {"):
        assert part in refused.stderr


def test_plots_have_the_axes_of_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float]] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: object, **options: object) -> None:
        seen.extend(panel.get_ylim() for panel in figure.axes)
        save(figure, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", keep)
    targets = (Target("arousal", low=1, high=9), Target("valence"))
    labels = np.array([[1, -1], [9, 1]], np.float32)
    trial = Trial("a", "a", "test", FrameClock(Fraction(25), 2), {}, labels)
    draw_trial(trial, {"sound": labels}, targets, tmp_path / "a.png")
    assert seen == [pytest.approx((0.8, 9.2)), pytest.approx((-1.05, 1.05))]
