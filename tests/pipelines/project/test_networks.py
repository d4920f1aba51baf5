"""The seconds of a network's training lie beside it, and not in its runs, which equal trainings leave equal. Waiting is said once."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import pytest

from pipelines.project import networks, paths
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


def test_who_waits_again_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    paths.NETWORKS.mkdir(parents=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for is_told in (False, True):
            claimed = networks.claim(paths.NETWORKS, "d")
            assert claimed is not None
            threading.Timer(0.3, claimed.release).start()
            networks.wait_for(["d"], is_told)
    (said,) = [str(warning.message) for warning in caught]
    assert said.startswith("Waiting for 1 network of another process; the first one is taken by process ")
    assert "delete" not in said
