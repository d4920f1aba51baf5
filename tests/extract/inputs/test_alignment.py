"""Rows of a backbone on the frames of labels: a recogniser's fifty states a second, on every usual clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.clock import FrameClock, PictureTimes
from cache.corpus.manifest import Manifest, Trial
from cache.errors import ShapeError
from cache.store.store import FeatureStore
from extract.backbones.contract import Backbone
from extract.engine.embedding import EngineOptions, extract_features
from extract.inputs.alignment import Alignment, align_centres, align_frames, align_shared
from extract.inputs.contract import Input, Source
from extract.media.audio import RATE_HZ, load_audio
from extract.weights.weights import Weights

ROW = 320  # samples: fifty rows a second
CHUNK = 10  # rows of an item, of which the last one is filled up with silence
RATES = [Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(60)]


@dataclass(frozen=True)
class ChunkInput(Input):
    """A fifth of a second of sound, with one row of context on both sides."""

    name = "chunks"
    media = ("audio",)
    version = 1

    def open(self, manifest: Manifest, trial: Trial, crops: Path | None) -> Source:
        return Chunks(manifest.path(trial, "audio"), trial.clock)

    def check(self, batch: Tensor) -> None:
        if tuple(batch.shape[1:]) != ((CHUNK + 2) * ROW,):
            raise ShapeError(f"Chunks of shape {tuple(batch.shape)}.")

    def example(self, count: int, seed: int = 0) -> NDArray[np.float32]:
        return np.random.default_rng(seed).uniform(-1, 1, (count, (CHUNK + 2) * ROW)).astype(np.float32)


class Chunks:
    def __init__(self, path: Path, clock: FrameClock) -> None:
        self._path, self._clock = path, clock

    def digest(self) -> str:
        return self._path.name

    def load(self) -> Alignment:
        samples = load_audio(self._path)
        num_rows = -(-len(samples) // ROW)
        num_items = -(-num_rows // CHUNK)
        self._samples = np.pad(samples, (ROW, (num_items * CHUNK + 1) * ROW - len(samples)))
        centres_s = (np.arange(num_rows) + 0.5) * ROW / RATE_HZ
        return align_centres(centres_s, ROW / RATE_HZ, self._clock, np.full(num_items, CHUNK))

    def read(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        size = CHUNK * ROW
        return np.stack([self._samples[item * size : (item + 1) * size + 2 * ROW] for item in items])


class Loudness(Backbone):
    """The greatest sample of each row, and the row's number within its chunk."""

    name, modality, algorithm, cards, dim = "loudness", "audio", 1, {}, 2
    input = ChunkInput()

    @classmethod
    def build(cls, config: Any, weights: Weights) -> Loudness:
        return cls(weights)

    def settings(self) -> dict[str, Any]:
        return {}

    def forward(self, batch: Tensor) -> Tensor:
        loudest = batch[:, ROW:-ROW].reshape(-1, ROW).abs().amax(1)
        return torch.stack([loudest, torch.arange(len(loudest)) % CHUNK], dim=1)


def extract(folder: Path, clock: FrameClock, seconds: float, clicks: Sequence[int], batch_size: int = 4) -> Any:
    samples = np.zeros(round(seconds * RATE_HZ), np.float32)
    samples[list(clicks)] = 0.5
    soundfile.write(folder / "clicks.wav", samples, RATE_HZ, subtype="PCM_16")
    backbone = Loudness(Weights(None, "random:0", None, "random"))
    manifest = Manifest(folder, (Trial("a", "a", "", clock, {"audio": "clicks.wav"}),))
    store = FeatureStore.create(folder / f"{batch_size}.zarr", backbone.recipe("float32"))
    outcome = extract_features(backbone, store, manifest, manifest.trials, None, EngineOptions(batch_size=batch_size))
    assert not outcome.failures
    assert outcome.frames == clock.num_frames
    return store.read("a", check=True)


@pytest.mark.parametrize("rate", RATES, ids=str)
def test_a_click_lands_on_its_frame(tmp_path: Path, rate: Fraction) -> None:
    seconds = 12.5
    clock = FrameClock(rate, int(seconds * rate))
    rows = [7, 123, 250, 333, 500, 617]
    found = extract(tmp_path, clock, seconds, [row * ROW + ROW // 2 for row in rows])
    assert found.valid.all()
    heard = set(np.flatnonzero(found.embeddings[:, 0] > 0.01).tolist())
    moments = [(Fraction(row) + Fraction(1, 2)) / 50 for row in rows]
    expected = {int(moment * rate) for moment in moments}
    assert expected <= heard
    slack = (
        {frame + step for frame in expected for step in (-1, 1)} if rate > 50 else set()
    )  # frames shorter than a row
    assert heard <= expected | slack


def test_a_frame_is_the_mean_of_its_rows_in_float32(tmp_path: Path) -> None:
    clock = FrameClock(Fraction(10), 20)
    found = extract(tmp_path, clock, 2.0, [])
    numbers = np.arange(100) % CHUNK
    assert found.embeddings[:, 1].tolist() == numbers.reshape(20, 5).mean(1).tolist()


def test_batches_change_nothing(tmp_path: Path) -> None:
    clock = FrameClock(Fraction(30000, 1001), 90)
    one, other = (extract(tmp_path, clock, 3.1, [16_000, 33_000], size) for size in (1, 3))
    assert np.array_equal(one.embeddings, other.embeddings)


def test_only_a_row_within_one_period_stands_in() -> None:
    clock = FrameClock(Fraction(60), 8)  # frames of 16.7 ms, rows at 10, 30, 50 ms; sound ends there
    found = align_centres(np.array([0.01, 0.03, 0.05]), 0.02, clock, np.ones(3, np.int64))
    assert np.where(found.valid, found.first, -1).tolist() == [0, 1, 2, 2, -1, -1, -1, -1]
    assert not align_centres(np.zeros(0), 0.02, clock, np.zeros(0, np.int64)).valid.any()


def test_rows_follow_the_pictures_of_a_varying_clock() -> None:
    clock = FrameClock(Fraction(2), 3, 1.0, PictureTimes(Fraction(1, 10), (0, 1, 10)))
    found = align_centres(np.arange(40) / 10 + 0.05, 0.1, clock, np.ones(40, np.int64))
    assert (found.first.tolist(), found.stop.tolist()) == ([10, 11, 20], [11, 20, 21])


def test_items_that_no_frame_uses_are_not_read() -> None:
    found = align_shared(np.array([-1, 4, 4, 1, -1]), np.array([2, 2, 3]))
    assert found.used_items().tolist() == [0, 2]
    assert found.frames.tolist() == [1, 0, 2]
    assert found.rows_of(np.array([0, 2])).tolist() == [0, 1, 4, 5, 6]
    rows = np.arange(14, dtype=np.float32).reshape(7, 2)
    assert found.average(rows).tolist() == [[0, 0], [8, 9], [8, 9], [2, 3], [0, 0]]
    assert align_frames(np.array([True, False, True])).used_items().tolist() == [0, 2]
