"""Stage `crops`: crops that come with a corpus are used as they are; a reference picture decides whom to follow."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cache.clock import FrameClock
from cache.manifest import Manifest, Trial
from extract.crops import CropConfig, CropReader
from extract.faces import TEMPLATE, Detection
from extract.sources import crops_path
from pipelines import write_crops
from pipelines.write_crops import crops_folder, make_crops

CLOCK = FrameClock(Fraction(25), 12)


def find_halves(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
    """A face in the left and one in the right half of every picture."""
    found = []
    for picture in pictures:
        height, width = picture.shape[0], picture.shape[1] // 2
        boxes = np.array([[at, 0, at + width, height] for at in (0, width)], np.float32)
        marks = np.stack([TEMPLATE * width / 112 + np.array([at, 0]) for at in (0, width)]).astype(np.float32)
        found.append(Detection(boxes, np.ones(2, np.float32), marks))
    return found


def draw_halves(left: int, right: int) -> NDArray[np.uint8]:
    return np.repeat(np.array([[[left] * 3] * 64 + [[right] * 3] * 64], np.uint8), 64, axis=0)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """A trial that follows the bright one of two people, and one that comes with crops."""
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 128, "gray"
        for _ in range(CLOCK.num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(draw_halves(60, 200), format="rgb24")))
        container.mux(stream.encode())
    Image.fromarray(draw_halves(200, 200)).save(tmp_path / "who.png")
    (tmp_path / "own").mkdir()
    Image.fromarray(draw_halves(9, 9)).save(tmp_path / "own" / "00003.jpg")
    alike = Trial("alike", "1", "", CLOCK, {"video": "v.mkv", "face": "who.png"}, face="reference")
    given = Trial("given", "2", "", CLOCK, {"video": "v.mkv", "crops": "own"})
    return Manifest(tmp_path, (alike, given))


def test_given_crops_stay_and_the_reference_is_followed(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def make_embedder(weights: str, device: str) -> object:
        asked.append(weights)
        return lambda faces: np.stack([(f := faces[:, 80, 80, 0].astype(np.float32)) - 130, f - 200], axis=1)

    monkeypatch.setattr(write_crops, "make_detector", lambda *_: find_halves)
    monkeypatch.setattr(write_crops, "make_embedder", make_embedder)
    config = CropConfig(reference_weights="mine")
    outcome = make_crops(manifest, manifest.trials, config, tmp_path / "crops", "cpu")
    assert (outcome.computed, outcome.kept, outcome.failures, asked) == (["alike"], [], {}, ["mine"])
    folder = crops_folder(tmp_path / "crops", config)
    assert [path.name for path in folder.iterdir()] == ["alike.zip"]
    alike, given = manifest.trials
    crops = CropReader(crops_path(manifest, alike, folder), CLOCK)
    assert abs(float(crops.read(np.array([5]))[0, 56, 56, 0]) - 200) < 6
    assert CropReader(crops_path(manifest, given, folder), CLOCK).frames.tolist() == [2]
    assert make_crops(manifest, manifest.trials, config, tmp_path / "crops", "cpu").kept == ["alike"]
    assert len(asked) == 1
    Image.fromarray(draw_halves(60, 60)).save(tmp_path / "who.png")
    assert make_crops(manifest, manifest.trials, config, tmp_path / "crops", "cpu").computed == ["alike"]
    assert abs(float(CropReader(folder / "alike.zip", CLOCK).read(np.array([5]))[0, 56, 56, 0]) - 60) < 6


def test_a_missing_picture_fails_that_trial_only(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "who.png").unlink()
    outcome = make_crops(manifest, manifest.trials, CropConfig(), tmp_path / "crops", "cpu")
    assert "who.png" in outcome.failures["alike"]
