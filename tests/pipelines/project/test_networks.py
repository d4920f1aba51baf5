"""The seconds of a network's training lie beside it, and not in its runs, which equal trainings leave equal."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.project import networks
from pipelines.project.runs import DOCUMENT


def test_seconds_stay_beside_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    kept = networks.place("d" * 64)
    kept.mkdir(parents=True)
    for name in ("model.json", DOCUMENT):
        (kept / name).write_text(name)
    assert networks.read_seconds("d" * 64) is None
    networks.keep_seconds("d" * 64, 1.23456)
    assert networks.read_seconds("d" * 64) == 1.235
    (kept / ".seconds.vm.1").write_text("1.2")  # of a killed process
    run = tmp_path / "work/models/fused/fold0/seed0"
    networks.name("d" * 64, run)
    assert sorted(path.name for path in run.iterdir()) == ["model.json", DOCUMENT]
    assert networks.is_named("d" * 64, run)
