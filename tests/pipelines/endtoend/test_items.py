"""Items of windows: each is read once per window, and every frame gets the mean of its own rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from cache.clock import FrameClock
from cache.corpus.folds import Fold
from cache.corpus.manifest import Manifest, Trial
from cache.targets import Target
from cache.windows import Window
from extract.inputs.alignment import Alignment, align_frames
from extract.inputs.contract import Input, Source
from fusion.bank.bank import Bank
from fusion.model import Inputs
from fusion.scores.ccc import CCC
from fusion.settings import TrainConfig
from pipelines.endtoend.items import ItemReader
from pipelines.endtoend.settings import FinetuneConfig
from pipelines.endtoend.training import finetune


@dataclass(frozen=True)
class Numbers(Input):
    """Items that are their own number; those of one trial, aligned in some way."""

    alignments: Any
    name = "numbers"
    media = ("audio",)
    version = 1

    def open(self, manifest: Manifest, trial: Trial, crops: Path | None) -> Source:
        return Counted(self.alignments[trial.id])

    def check(self, batch: torch.Tensor) -> None:
        assert batch.ndim == 1

    def example(self, count: int, seed: int = 0) -> NDArray[np.float32]:
        return np.zeros(count, np.float32)


class Counted:
    def __init__(self, alignment: Alignment) -> None:
        self.alignment, self.reads = alignment, []

    def digest(self) -> str:
        return ""

    def load(self) -> Alignment:
        return self.alignment

    def read(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        assert len(np.unique(items)) == len(items)
        return items.astype(np.float32)


def rows_of(items: NDArray[np.floating], alignment: Alignment) -> NDArray[np.float64]:
    """What a backbone makes of items: rows (R, 1) that name item and row."""
    return np.concatenate([100.0 * item + np.arange(alignment.rows[int(item)]) for item in items] or [np.zeros(0)])[
        :, None
    ]


@st.composite
def alignments(draw: st.DrawFn) -> Alignment:
    """Any items of one to three rows, on frames that use up to four rows in a row, or none."""
    per_item = np.array(draw(st.lists(st.integers(1, 3), min_size=1, max_size=6)), np.int64)
    total = int(per_item.sum())
    frames = draw(st.lists(st.tuples(st.integers(0, total - 1), st.integers(0, 4)), min_size=1, max_size=12))
    first = np.array([start for start, _ in frames], np.int64)
    stop = np.minimum(first + np.array([count for _, count in frames]), total)
    return Alignment(first, stop, per_item)


@given(one=alignments(), other=alignments(), data=st.data())
def test_every_frame_gets_the_mean_of_its_rows(one: Alignment, other: Alignment, data: st.DataObject) -> None:
    known = {"a": one, "b": other}
    trials = tuple(
        Trial(name, name, "", FrameClock(Fraction(25), len(each.first)), {"audio": "x"}) for name, each in known.items()
    )
    windows = []
    for name in data.draw(st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=4)):
        start = data.draw(st.integers(0, len(known[name].first) - 1))
        stop = data.draw(st.integers(start + 1, len(known[name].first)))
        windows.append(Window(name, start, stop, data.draw(st.integers(1, 3))))
    length = max(window.num_frames for window in windows)
    reader = ItemReader(Numbers(known), Manifest(Path(), trials), trials, None)
    with ThreadPoolExecutor(2) as readers:
        items = reader.read([(each.trial_id, np.array(each.frames)) for each in windows], length, readers)
    found = np.concatenate(
        [
            rows_of(items.inputs[items.windows == number].numpy(), known[window.trial_id])
            for number, window in enumerate(windows)
        ]
    )
    spread = items.spread(torch.from_numpy(found)) if len(found) else torch.zeros(len(windows), length, 1)
    for number, window in enumerate(windows):
        alignment = known[window.trial_id]
        whole = alignment.average(rows_of(np.arange(len(alignment.rows)), alignment))
        expected = np.where(alignment.valid[:, None], whole, 0)[list(window.frames)]
        assert np.allclose(spread[number, : window.num_frames].numpy(), expected)
        assert spread[number, window.num_frames :].abs().sum() == 0
        assert (items.valid[number, : window.num_frames].numpy() == alignment.valid[list(window.frames)]).all()
        assert not items.valid[number, window.num_frames :].any()


class Toy(nn.Module):
    """Two numbers of each item; remembers the items that it was trained on."""

    name, dim = "toy", 2

    def __init__(self, kind: Input) -> None:
        super().__init__()
        self.input, self.seen, self.linear = kind, set(), nn.Linear(1, 2)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.add(tuple(int(item) for item in batch))
        return self.linear(batch[:, None] / 10)


def test_frames_that_a_trained_backbone_does_not_see_are_left_out() -> None:
    """Of the training trial 1, 2, 5 and 7 are left (6 has no label), of the validation trial 0, 2, 3 and 5."""
    seen = {"a": [1, 2, 5, 6, 7], "b": [0, 2, 3, 5]}
    labels = {
        "a": np.linspace(-1, 1, 8, dtype=np.float32)[:, None],
        "b": np.float32([[0.1], [0], [0.5], [0.2], [0], [-0.3]]),
    }
    labels["a"][6] = np.nan
    known = {name: align_frames(np.isin(np.arange(len(labels[name])), seen[name])) for name in seen}
    trials = tuple(
        Trial(name, name, "", FrameClock(Fraction(25), len(own)), {"audio": "x"}, own) for name, own in labels.items()
    )
    manifest = Manifest(Path(), trials, (Target("valence"),))
    backbone, reader = Toy(Numbers(known)), ItemReader(Numbers(known), manifest, trials, None)
    result = finetune(
        {"sound": backbone},
        {"sound": reader},
        Bank.of_labels(trials, manifest.targets),
        Fold(0, ("a",), ("b",)),
        "rnn",
        {},
        TrainConfig(targets=("valence",), epochs=1, batch_size=1, window=2, hop=2, tail="drop", drop_unseen=("sound",)),
        FinetuneConfig(),
    )
    assert backbone.seen == {(1, 2), (5, 7)}
    rows = backbone(torch.tensor([0.0, 2.0, 3.0, 5.0])).view(2, 2, 2)
    inputs = Inputs({"sound": rows}, {"sound": torch.ones(2, 2, dtype=torch.bool)}, torch.tensor([2, 2]))
    with torch.inference_mode():
        found = result.fusion(inputs).values.flatten(0, 1)
    expected = CCC.of(found, torch.from_numpy(labels["b"][[0, 2, 3, 5]]))
    assert result.history[0].validation["valence"] == pytest.approx(float(expected[0]), abs=1e-6)
