"""The public names of each package, and the examples of docs/api.md as they stand there."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import open_receipt
from cache.errors import CorpusError, MissingFileError, SettingError, ShapeError
from cache.targets import Target
from extract import embed
from fusion import Bank
from pipelines import predict

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("package", ["cache", "extract", "fusion", "pipelines"])
def test_public_names_exist_and_are_on_the_page(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name).__doc__
    (row,) = re.findall(rf"^\| `{package}` \| (.*) \|$", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == set(module.__all__)
    with pytest.raises(
        AttributeError, match=rf"no public name '{module.__all__[0]}x'.*Did you mean '{module.__all__[0]}'"
    ):
        getattr(module, f"{module.__all__[0]}x")


def run(example: str, **given: Any) -> dict[str, Any]:
    assert len(ast.parse(example).body) <= 5
    names = dict(given)
    exec(compile(example, "docs/api.md", "exec"), names)
    return names


def test_embeddings_of_a_video(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, receipt = open_receipt(finished / "features/receipts/mobilefacenet.json")
    trial_id = max(receipt.trials)  # the first one has a label more than pictures, as happens in Aff-Wild2
    shutil.copy(next((finished / "work/corpus/media").rglob(f"{trial_id}.mp4")), tmp_path / "video.mp4")
    monkeypatch.chdir(tmp_path)
    face = run(EXAMPLES[0])["face"]
    extracted, valid = store.read(trial_id)
    assert np.array_equal(face.valid, valid)
    np.testing.assert_allclose(face.embeddings, extracted.astype(np.float32), atol=2e-3)  # the store has float16
    assert np.all(face.embeddings[~face.valid] == 0)
    assert np.allclose(np.diff(face.times_s), face.times_s[1])
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]


def test_a_model_from_arrays() -> None:
    rng = np.random.default_rng(0)
    labels = {name: rng.uniform(-1, 1, (60, 2)) for name in "abc"}
    mixing = rng.normal(size=(2, 8))
    rows = {name: own @ mixing for name, own in labels.items()} | {"d": rng.uniform(-1, 1, (40, 2)) @ mixing}
    labels["a"][3] = np.nan
    rows["b"][5] = np.nan
    names = run(EXAMPLES[1], rows=rows, labels=labels)
    assert names["prediction"].values.shape == (40, 2)
    assert names["prediction"].targets == ("valence", "arousal")
    assert not names["bank"].valid["face"][65]
    assert names["bank"].valid["face"][:65].all()


@pytest.mark.parametrize(
    ("rows", "labels", "said"),
    [
        (
            {"face": {"a": (5, 3)}, "voice": {"a": (4, 2)}},
            {},
            r"'voice' of trial 'a' has shape \(4, 2\), expected \(5, 2\)",
        ),
        ({"face": {"a": (5, 3)}, "voice": {"b": (5, 2)}}, {}, "'voice' lacks trial 'a', which the first modality has"),
        ({"face": {"a": (5, 3), "b": (5, 4)}}, {}, r"'face' of trial 'b' has shape \(5, 4\), expected \(5, 3\)"),
        ({"face": {"a": (5, 3)}}, {"a": (5, 1)}, r"labels of trial 'a' has shape \(5, 1\), expected \(5, 2\)"),
        ({"face": {"a": (5, 3)}}, {"x": (5, 2)}, "labels of trial 'x': the first modality lacks this trial"),
        (
            {"face": {"a": (5,)}},
            {},
            r"'face' of trial 'a' is of type float64 and shape \(5,\), expected numbers of shape",
        ),
        ({"face": {"a": (0, 3)}}, {}, r"'face' of trial 'a' .* shape \(0, 3\), expected .* at least one of each"),
    ],
)
def test_arrays_that_do_not_fit(rows: dict, labels: dict, said: str) -> None:
    made = {modality: {name: np.zeros(shape) for name, shape in own.items()} for modality, own in rows.items()}
    with pytest.raises(ShapeError, match=said):
        Bank.from_arrays(made, {name: np.zeros(shape) for name, shape in labels.items()})


@pytest.mark.parametrize("rows", [np.full((2, 3), "x"), np.ones((2, 3), complex), [[1, 2], [None, 3]]])
def test_arrays_that_are_no_numbers(rows: object) -> None:
    with pytest.raises(ShapeError, match=r"'face' of trial 'a' is of type .*, expected numbers"):
        Bank.from_arrays({"face": {"a": rows}})  # type: ignore[dict-item]


@pytest.mark.parametrize("value", [np.inf, 1e300])
def test_infinite_arrays(value: float) -> None:
    rows = np.ones((5, 3))
    rows[3, 1] = value
    with pytest.raises(SettingError, match="has infinite values in 1 frames, the first is 3"):
        Bank.from_arrays({"face": {"a": rows}})


def test_embed_says_what_a_file_lacks(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(32_000))
    with pytest.raises(MissingFileError, match=r"a\.wav' has no video, which 'mobilefacenet' reads. Give another file"):
        embed(tmp_path / "a.wav", "mobilefacenet")


def test_labels_of_arrays_lie_in_the_ranges_of_their_targets() -> None:
    rows, labels = {"face": {"a": np.zeros((3, 2))}}, {"a": np.array([[0.0], [np.nan], [7]])}
    with pytest.raises(
        CorpusError, match=r"'a' has 1 label of 'joy' outside \[-1, 1\], the first is 7 in frame 2\. Declare"
    ):
        Bank.from_arrays(rows, labels, (Target("joy"),))
    found = Bank.from_arrays(rows, labels, (Target("joy", low=0, high=10),)).labels[:3, 0]
    np.testing.assert_allclose(found, [-1, np.nan, 0.4], atol=1e-6)


def test_predict_takes_one_video() -> None:
    with pytest.raises(
        SettingError, match=r"predict takes one video, not a list.*\[predict\(video, run\) for video in videos\]"
    ):
        predict(["a.mp4", "b.mp4"], "run")  # type: ignore[arg-type]
