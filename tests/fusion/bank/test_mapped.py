"""A bank beyond its memory budget gives the same batches as one in memory."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.errors import SettingError, StoreError
from cache.recipe import Recipe
from cache.store.store import FeatureStore
from fusion.bank.bank import Bank
from fusion.bank.mapped import MappedRows
from fusion.settings import TrainConfig
from fusion.training.building import build_model
from fusion.training.inference import run_model
from fusion.training.trainer import train

LENGTHS = {"a": 400, "b": 333, "c": 80}


def make_bank(folder, dtype: str, memory_gb: float) -> Bank:
    rng = np.random.default_rng(0)
    trials, store = [], FeatureStore.create(folder / "toy.zarr", Recipe("toy", "visual", 6, dtype=dtype))
    for name, length in LENGTHS.items():
        clock = FrameClock(Fraction(25), length)
        valid = rng.random(length) > 0.1
        rows = (rng.standard_normal((length, 6)) * [1, 10, 100, 1e-4, 1, 0] + [0, 5, -3, 0, 1, 2]).astype(dtype)
        store.write(name, rows, valid, source="xxh3:0", clock=clock)
        labels = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
        trials.append(Trial(name, name, "train", clock, {}, labels))
    return Bank.from_stores({"visual": store}, Manifest(folder, tuple(trials)), list(LENGTHS), memory_gb=memory_gb)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("length", "batch_size", "dilation"), [(16, 7, 1), (16, 64, 3), (130, 4, 1), (130, 3, 2)])
def test_batches_are_the_same_to_the_last_bit(tmp_path, dtype, length, batch_size, dilation):
    resident, mapped = (make_bank(tmp_path / kind, dtype, gb) for kind, gb in (("r", 1.0), ("m", 0.0)))
    assert isinstance(mapped.embeddings["visual"], MappedRows)
    assert resident.dims == mapped.dims
    moments = {"r": resident.measure(["a", "c"]), "m": mapped.measure(["a", "c"])}
    assert torch.equal(moments["r"]["visual"].std, moments["m"]["visual"].std)
    chosen = ["c", "a", "b"]
    pair = (resident.normalised(moments["r"], chosen), mapped.normalised(moments["m"], chosen))
    windows = pair[0].cut(chosen, length, length - 5, dilation, "pad")
    passes = [bank.batches(windows, length, batch_size).epoch(torch.Generator().manual_seed(3)) for bank in pair]
    seen = 0
    for ours, theirs in zip(*passes, strict=True):
        assert ours.windows == theirs.windows
        assert torch.equal(ours.embeddings["visual"], theirs.embeddings["visual"])
        assert torch.equal(ours.valid["visual"], theirs.valid["visual"])
        assert torch.equal(ours.targets, theirs.targets)
        assert torch.equal(ours.mask, theirs.mask)
        seen += len(ours.windows)
    assert seen == len(windows)


def test_rows_as_stored_are_gathered_too(tmp_path):
    banks = [make_bank(tmp_path / str(gb), "float16", gb) for gb in (1.0, 0.0)]
    windows = banks[0].cut(list(LENGTHS), 20, 20, tail="pad")
    for ours, theirs in zip(*(bank.batches(windows, 20, 5).epoch() for bank in banks), strict=True):
        assert torch.equal(ours.embeddings["visual"], theirs.embeddings["visual"])
    assert torch.equal(banks[0].rows("visual", "b"), banks[1].rows("visual", "b"))


def test_training_gives_the_same_weights(corpus):
    stores, trials = corpus.stores, [trial.id for trial in corpus.manifest.trials]
    config = TrainConfig(epochs=2, batch_size=4, window=8, hop=8)
    results = [
        train(Bank.from_stores(stores, corpus.manifest, trials, memory_gb=gb), corpus.fold, "rnn", {}, config)
        for gb in (1.0, 0.0)
    ]
    states = [result.checkpoint.model.state_dict() for result in results]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_smaller_modalities_are_loaded_first(corpus):
    frames = sum(trial.clock.num_frames for trial in corpus.manifest.trials)
    trials = [trial.id for trial in corpus.manifest.trials]
    for gigabytes, mapped in ((1.0, set()), (2 * frames * 5 * 2 / 1e9, {"visual"}), (0.0, {"audio", "visual"})):
        bank = Bank.from_stores(corpus.stores, corpus.manifest, trials, memory_gb=gigabytes)
        assert {m for m, rows in bank.embeddings.items() if isinstance(rows, MappedRows)} == mapped
    with pytest.raises(SettingError, match="memory_gb is -1, expected 0 or more"):
        Bank.from_stores(corpus.stores, corpus.manifest, trials, memory_gb=-1)


def test_a_batch_stays_whole_until_the_next_is_taken_and_a_pass_may_be_left(tmp_path):
    bank = make_bank(tmp_path, "float16", 0.0)
    windows = bank.cut(list(LENGTHS), 10, 10)
    batches = bank.batches(windows, 10, 4)
    expected = [batch.embeddings["visual"].clone() for batch in batches.epoch()]
    running = batches.epoch()
    for index in range(3):
        batch = next(running)
        torch.ones(200, 200) @ torch.ones(200, 200)
        assert torch.equal(batch.embeddings["visual"], expected[index])
    running.close()
    assert torch.equal(next(batches.epoch()).embeddings["visual"], expected[0])
    assert list(bank.batches([], 10, 4).epoch()) == []


def test_a_mapped_bank_predicts(tmp_path):
    banks = [make_bank(tmp_path / str(gb), "float16", gb) for gb in (1.0, 0.0)]
    torch.manual_seed(0)
    model = build_model("rnn", {"visual": 6}, ("valence", "arousal"), {})
    ours, theirs = (
        run_model(model, bank.normalised(bank.measure(["a"]), list(LENGTHS)), list(LENGTHS), 16, 8, 5) for bank in banks
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.values, other.values)


def test_altered_bytes_are_refused_before_training(tmp_path):
    make_bank(tmp_path, "float16", 1.0)
    chunk = next(tmp_path.glob("toy.zarr/*/b/c/0/0"))
    data = bytearray(chunk.read_bytes())
    data[5] ^= 1
    chunk.write_bytes(bytes(data))
    fingerprint = Recipe("toy", "visual", 6).fingerprint
    clock = FrameClock(Fraction(25), 333)
    manifest = Manifest(tmp_path, (Trial("b", "b", "train", clock, {}),))
    with pytest.raises(StoreError, match="differ from their digest"):
        Bank.from_stores({"visual": FeatureStore(tmp_path / "toy.zarr", fingerprint)}, manifest, ["b"], memory_gb=0)


class DoubledRows(MappedRows):
    """Rows that lie neither in memory nor in a store."""

    def trial(self, trial_id: str, span: slice) -> torch.Tensor:
        return 2 * super().trial(trial_id, span)

    def gather(self, wanted, valid, result, block) -> None:
        super().gather(wanted, valid, result, block)
        result.mul_(2)


def test_another_kind_of_rows_needs_no_line_of_the_bank(tmp_path):
    plain = make_bank(tmp_path, "float32", 0.0)
    doubled = replace(plain, embeddings={"visual": DoubledRows(plain.embeddings["visual"].store)})
    windows = plain.cut(list(LENGTHS), 20, 20, tail="pad")
    for ours, theirs in zip(*(bank.batches(windows, 20, 5).epoch() for bank in (plain, doubled)), strict=True):
        assert torch.equal(2 * ours.embeddings["visual"], theirs.embeddings["visual"])
    assert torch.equal(2 * plain.measure(["a"])["visual"].mean, doubled.measure(["a"])["visual"].mean)
