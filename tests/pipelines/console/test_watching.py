"""What people see of a fine-tuning, on a terminal and in a log."""

from __future__ import annotations

import io
import re
import sys

import pytest
import torch

from fusion.training.fitting import EpochRecord
from pipelines.console.watching import Shown


def record(epoch: int, score: float) -> EpochRecord:
    return EpochRecord(epoch, 0.5, {"valence": score, "arousal": score + 0.1}, score, 1e-3, True)


def test_a_log_has_one_line_per_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    tracked = []
    with Shown("faces fold 0", 6, lambda epoch, figures: tracked.append((epoch, figures["ccc"]))) as watch:
        watch.restore([0.15])
        for epoch, score in ((1, 0.125), (2, 0.25), (3, 0.2)):
            for _ in range(12):
                watch.step(epoch, 12, torch.tensor(0.75))
            watch.epoch(record(epoch, score))
        watch.stop(2)
    assert tracked == [(0, 0.15), (1, 0.125), (2, 0.25), (3, 0.2)]
    begun, resumed, *lines = capsys.readouterr().err.splitlines()
    assert begun == "faces fold 0: begins, 6 epochs at most."
    assert resumed == "faces fold 0: goes on after 1 of them, trained before."
    assert len(lines) == 4
    told = "faces fold 0: epoch {} (of 6), loss 0.500, CCC valence {}, arousal {}, mean {}, best {} in epoch {}, "
    values = [(1, "0.125", "0.225", "0.125", "0.150", 0), (2, "0.250", "0.350", "0.250", "0.250", 2),
              (3, "0.200", "0.300", "0.200", "0.250", 2)]  # fmt: skip
    for line, each in zip(lines, values, strict=False):
        assert re.fullmatch(re.escape(told.format(*each)) + r"\d+\.\d s", line), line
    assert lines[3] == "faces fold 0: stopped 2 epochs early; none since epoch 2 had a better CCC than its 0.250."


def test_a_terminal_has_a_bar_that_advances_with_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown, read = Terminal(), []
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")

    class Loss(torch.Tensor):
        def __float__(self) -> float:
            read.append(1)
            return 0.75

    with Shown("faces fold 0", 4) as watch:
        for epoch in (1, 2):
            for _ in range(25):
                watch.step(epoch, 25, torch.zeros(()).as_subclass(Loss))
            watch.epoch(record(epoch, 0.25))
        watch.step(3, 25, torch.zeros(()).as_subclass(Loss))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert re.search(r"fine-tuning [━╸╺ ]+ +76/100 .*faces fold 0 loss 0.750 CCC 0.250 \(best 0.250\)", text)
    assert "epoch" not in text
    assert len(read) == 3 + 3 + 1, "the device is waited for in every tenth step only"
