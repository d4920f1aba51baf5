"""Pictures of a search, and that figures drawn afterwards look as if there had been none."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest
from PIL import Image

from pipelines.search.pictures import draw_coordinates, draw_importance
from pipelines.search.records import FINISHED, Trial
from pipelines.search.spaces import Choice, Range


def test_pictures_leave_no_style_behind(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")
    domains = {
        "train.lr": Choice((0.1, 0.2, 0.3)),
        "settings.d_model": Choice((8, 16, 32, 64)),
        "settings.n_layers": Range(1, 4),
    }
    trials = [
        Trial(
            "parameters",
            number,
            {"train.lr": lr, "settings.d_model": width, "settings.n_layers": 1 + number % 4},
            FINISHED,
            ccc=lr + width / 100,
        )
        for number, (lr, width) in enumerate((lr, width) for lr in (0.1, 0.2, 0.3) for width in (8, 16, 32, 64))
    ]
    before = dict(matplotlib.rcParams)
    for draw in (draw_coordinates, draw_importance):
        draw(trials, domains, tmp_path / f"{draw.__name__}.png")
        with Image.open(tmp_path / f"{draw.__name__}.png") as picture:
            assert min(picture.size) > 100
    changed = {name for name, value in matplotlib.rcParams.items() if before[name] != value}
    assert changed <= {"backend"}
