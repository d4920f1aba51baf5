"""The examples run as they stand."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_read_features(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("read_features").main("features/receipts/mobilefacenet.json")
    assert capsys.readouterr().out.count("frames, ") == 3


def test_train_one_model(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load("train_one_model").main(epochs=2) <= 1
    assert "epoch 1: loss" in capsys.readouterr().out


def test_embed_pictures() -> None:
    assert load("embed_pictures").main() == (2, 512)


def test_examples_stay_short() -> None:
    assert all(path.read_text(encoding="utf-8").count("\n") < 60 for path in EXAMPLES.glob("*.py"))
