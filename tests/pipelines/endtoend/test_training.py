"""The loop of fine-tuning: the order of its windows, and what it says while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cache.corpus.folds import Fold
from cache.errors import CorpusError, SettingError
from extract.backbones.contract import load_backbone
from fusion.bank.bank import Bank
from fusion.settings import TrainConfig
from fusion.training.fitting import EpochRecord
from fusion.training.postprocessing import CHAINS
from fusion.training.trainer import choose_answers
from pipelines.endtoend import checks
from pipelines.endtoend.batches import ItemBatch, ItemBatches
from pipelines.endtoend.settings import FinetuneConfig
from pipelines.endtoend.training import Watch


class Recorder(Watch):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.epochs: list[EpochRecord] = []
        self.left: list[int] = []

    def step(self, epoch: int, steps: int, loss: Tensor) -> None:
        assert torch.isfinite(loss)
        self.steps.append((epoch, steps))

    def epoch(self, record: EpochRecord) -> None:
        self.epochs.append(record)

    def stop(self, left: int) -> None:
        self.left.append(left)


@pytest.mark.parametrize("windows", [0, 4])
@pytest.mark.parametrize("reshuffle", [True, False])
@pytest.mark.parametrize("how", [{}, {"release": "two-stage", "frozen_epochs": 2}])
def test_windows_have_a_new_order_in_every_epoch_or_one_for_all(
    toy_corpus: Any,
    quick: Callable[..., TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
    windows: int,
    reshuffle: bool,
    how: dict[str, Any],
) -> None:
    epochs: list[list[Any]] = []
    read = ItemBatches.__iter__

    def note_windows(self: ItemBatches) -> Any:
        epochs.append([])
        for batch in read(self):
            assert isinstance(batch, ItemBatch)
            epochs[-1] += batch.windows
            yield batch

    monkeypatch.setattr(ItemBatches, "__iter__", note_windows)
    toy_corpus.train(FinetuneConfig(windows=windows, **how), quick(reshuffle=reshuffle))
    assert [len(drawn) for drawn in epochs] == [windows or 10] * 3
    assert any(drawn != sorted(drawn, key=str) for drawn in epochs)
    assert all((drawn == epochs[0]) is not reshuffle for drawn in epochs[1:])


def test_every_step_and_epoch_is_told_and_counted_over_all_stages(
    toy_corpus: Any, quick: Callable[..., TrainConfig]
) -> None:
    watch = Recorder()
    how = FinetuneConfig(release="two-stage", frozen_epochs=2, released_lr=1e-3)
    result = toy_corpus.train(how, quick(), watch=watch)
    assert watch.steps == [(epoch, 4) for epoch in range(3) for _ in range(4)]
    assert tuple(watch.epochs) == result.history
    assert ([record.epoch for record in watch.epochs], watch.left) == ([0, 1, 2], [])


def test_a_stage_that_ends_early_is_told(toy_corpus: Any, quick: Callable[..., TrainConfig]) -> None:
    watch = Recorder()
    toy_corpus.train(FinetuneConfig(), quick(epochs=9, patience=1, lr=1.0), watch=watch)
    assert watch.left == [9 - len(watch.epochs)]
    assert 0 < watch.left[0] < 9


def test_windows_and_postprocessing_are_chosen_as_those_of_any_fusion_model(
    toy_corpus: Any, quick: Callable[..., TrainConfig]
) -> None:
    config, toy = quick(window=2, hop=2, dilation=3), toy_corpus.toy()
    result = toy_corpus.train(FinetuneConfig(), config, toy)
    again = result.best_epoch < len(result.history) - 1  # the last epoch's embeddings are still at hand
    assert toy.passes == 3 * (math.ceil(24 / 3) + 1) + again, "all windows are read from one embedding"
    items = np.load(toy_corpus.folder / "c.npy")
    rows = toy(torch.from_numpy(items)).numpy()
    rows[6::7] = np.nan  # frames without input
    labels = toy_corpus.manifest.trial("c").labels
    bank = Bank.from_arrays({"audio": {"c": rows}}, {"c": labels}).normalised(result.moments, "c")
    expected = choose_answers(
        result.fusion, bank, toy_corpus.fold, config, None, result.history[result.best_epoch].score
    )
    assert (result.reading, result.fitted.keys()) == (expected[0], {"+".join(chain) for chain in CHAINS})
    for chain, parameters in expected[1].items():
        for own, by_hand in zip(result.fitted[chain], parameters, strict=True):
            assert own == pytest.approx(by_hand, abs=1e-4)


def test_what_cannot_learn_is_refused_before_training() -> None:
    nothing: Any = SimpleNamespace(trial=lambda name: SimpleNamespace(alignment=SimpleNamespace(used_items=list)))
    with pytest.raises(CorpusError, match="none of 2 training trials has anything"):
        checks.require_items("audio", nothing, Fold(0, ("a", "b"), ("c",)))
    rounding = load_backbone("vggish", "random", {"pca": "random"})
    with pytest.raises(SettingError, match="'pca'"):
        checks.require_gradient("audio", rounding)
    smooth = load_backbone("conv1d", "random")
    checks.require_gradient("audio", smooth)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in smooth.parameters())
