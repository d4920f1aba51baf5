"""The comparison is sorted, shows intervals, and reads what older evaluations left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

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
    assert lines[0].split() == ["#", "system", "CCC", "interval", "best", "valence", "arousal"]
    assert "[0.400, 0.600]" in lines[2]


def test_a_damaged_file_is_refused(tmp_path: Path, run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/scores.json").write_text("{", encoding="utf-8")
    result = run("compare")
    assert result.exit_code == 1
    assert "is damaged" in result.stderr
