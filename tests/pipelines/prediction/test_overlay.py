"""Pictures of a prediction: the box is around the face, the point is where its values are, at the moment of the picture."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from cache.clock import FrameClock
from cache.targets import AFFECT
from extract.faces.detection import TEMPLATE
from extract.faces.linking import Tracklet
from extract.faces.tracking import Track
from pipelines.prediction.answers import Answer
from pipelines.prediction.overlay import Painter
from pipelines.report.figures import draw_prediction

BOX, POINT = (0, 200, 255), (0, 158, 115)


def find(picture: np.ndarray, colour: tuple[int, ...]) -> np.ndarray:
    """(N, 2) x, y of the pixels near a colour."""
    rows, columns = np.nonzero((np.abs(picture.astype(int) - colour) < 20).all(axis=2))
    return np.stack([columns, rows], axis=1)


@pytest.fixture
def answer(tmp_path: Path) -> Answer:
    values = np.array([[0.8, 0.8], [-0.8, -0.8]], np.float32)
    spread = np.full_like(values, 0.1)
    return Answer(tmp_path / "v.mp4", FrameClock(Fraction(1, 5), 2), AFFECT, values, spread, {"face": np.ones(2, bool)})


def test_a_picture_shows_its_own_moment(answer: Answer) -> None:
    seen = Tracklet(0, np.zeros(4, np.float32), (TEMPLATE + np.array([100, 50])).astype(np.float32), 0)
    painter = Painter(answer, Track((seen,), 2))
    picture = np.full((301, 401, 3), 90, np.uint8)
    first, second = painter(0, picture), painter(1, picture)
    assert first.shape == second.shape == (420, 400, 3)
    box = find(first[:300], BOX)
    assert len(find(second[:300], BOX)) == 0
    np.testing.assert_allclose([box.min(axis=0), box.max(axis=0)], [(100, 50), (212, 162)], atol=2)
    assert (first[200:300] == 90).all()
    one, other = (np.median(find(shown[300:, :120], POINT), axis=0) for shown in (first, second))
    np.testing.assert_allclose([one, other], [(100, 20), (20, 100)], atol=8)


def test_the_plot_is_drawn(answer: Answer, tmp_path: Path) -> None:
    parts = answer.clock, answer.values, answer.spread, answer.targets, answer.seen
    draw_prediction("$v$.mp4", *parts, tmp_path / "v.png")
    first = (tmp_path / "v.png").read_bytes()
    draw_prediction("$v$.mp4", *parts, tmp_path / "v.png")
    assert first.startswith(b"\x89PNG")
    assert (tmp_path / "v.png").read_bytes() == first
