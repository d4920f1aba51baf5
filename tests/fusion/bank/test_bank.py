"""The bank gives back what the stores hold, normalised by training trials only."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest
from cache.errors import FingerprintError, SettingError, ShapeError, StoreError, UnknownNameError
from cache.recipe import Recipe
from cache.store.store import FeatureStore
from cache.windows import Window
from fusion.bank.bank import Bank


def test_batches_hold_the_stored_rows(corpus):
    bank = corpus.bank()
    windows = bank.cut(list(bank.lengths), 10, 7, dilation=2, tail="pad")
    seen = 0
    for batch in bank.batches(windows, 10, 4).epoch():
        assert batch.targets.shape == (len(batch.windows), 10, 2)
        for row, window in enumerate(batch.windows):
            used, frames = window.num_frames, list(window.frames)
            labels = corpus.manifest.trial(window.trial_id).labels[frames]
            annotated = np.isfinite(labels)
            assert batch.lengths[row] == used
            assert batch.mask[row].tolist() == annotated.tolist() + [[False] * 2] * (10 - used)
            np.testing.assert_array_equal(batch.targets[row, :used], np.where(annotated, labels, 0))
            for modality, store in corpus.stores.items():
                stored = store.read(window.trial_id)
                assert batch.embeddings[modality].dtype == torch.float32
                np.testing.assert_array_equal(batch.embeddings[modality][row, :used], stored.embeddings[frames])
                assert batch.valid[modality][row].tolist() == stored.valid[frames].tolist() + [False] * (10 - used)
                assert not batch.embeddings[modality][row, used:].any()
            assert not batch.targets[row, used:].any()
            seen += 1
    assert seen == len(windows)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_long_windows_are_copied_as_slices_with_the_same_result(tmp_path, dtype, dilation):
    rng = np.random.default_rng(0)
    manifest, store = write_trial(tmp_path, rng.standard_normal((500, 6)).astype(dtype), dtype)
    bank = Bank.from_stores({"visual": store}, manifest, ["t"])
    windows = bank.cut(["t"], 130, 130, dilation, "pad")
    batches = bank.batches(windows, 130, 3)
    for batch in batches.epoch():
        for row, window in enumerate(batch.windows):
            expected = np.zeros((130, 6), np.float32)
            expected[: window.num_frames] = store.read("t").embeddings[list(window.frames)]
            np.testing.assert_array_equal(batch.embeddings["visual"][row], expected)


def write_trial(folder: Path, rows: np.ndarray, dtype: str = "float16") -> tuple[Manifest, FeatureStore]:
    from cache.corpus.manifest import Trial

    clock = FrameClock(Fraction(25), len(rows))
    store = FeatureStore.create(folder / "set.zarr", Recipe("toy", "visual", rows.shape[1], dtype=dtype))
    store.write("t", rows, np.ones(len(rows), bool), source="xxh3:0", clock=clock)
    return Manifest(folder, (Trial("t", "s", "train", clock, {}),)), store


def test_trials_without_labels_are_masked(tmp_path):
    manifest, store = write_trial(tmp_path, np.ones((4, 2)))
    bank = Bank.from_stores({"visual": store}, manifest, ["t"])
    batch = next(bank.batches(bank.cut(["t"], 4, 4), 4, 1).epoch())
    assert not batch.mask.any()
    assert not batch.targets.any()
    assert batch.valid["visual"].all()


def test_moments_come_from_valid_training_frames_alone(corpus):
    bank, train = corpus.bank(), ["a", "b"]
    moments = bank.measure(train)
    for modality, store in corpus.stores.items():
        features = [store.read(name) for name in train]
        rows = np.concatenate([f.embeddings[f.valid] for f in features]).astype(np.float64)
        np.testing.assert_allclose(moments[modality].mean, rows.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(moments[modality].std, rows.std(axis=0), rtol=1e-6)


def test_normalised_bank(corpus):
    bank = corpus.bank()
    moments = bank.measure(["a", "b"])
    part = bank.normalised(moments, ["d", "a"])
    assert list(part.lengths) == ["d", "a"]
    for modality, store in corpus.stores.items():
        for name in ("d", "a"):
            stored, rows = store.read(name), part.rows(modality, name)
            expected = (stored.embeddings.astype(np.float64) - moments[modality].mean.numpy()) / moments[
                modality
            ].std.numpy()
            np.testing.assert_allclose(rows, np.where(stored.valid[:, None], expected, 0), atol=5e-3)
        assert not part.embeddings[modality].values[-1].any()
        assert part.embeddings[modality].dtype == torch.float16
    assert not part.rows("visual", "a")[3:9].any()
    np.testing.assert_array_equal(part.labels[part.span("a")], corpus.manifest.trial("a").labels)


def test_a_constant_dimension_does_not_explode(tmp_path):
    rows = np.random.default_rng(0).standard_normal((50, 3))
    rows[:, 1] = 0.1
    manifest, store = write_trial(tmp_path, rows)
    bank = Bank.from_stores({"visual": store}, manifest, ["t"])
    normalised = bank.normalised(bank.measure(["t"]), ["t"]).embeddings["visual"].values[:-1].float()
    assert normalised[:, 1].abs().max() < 1e-6
    assert normalised[:, 0].std() == pytest.approx(1, abs=0.05)


def test_a_modality_that_was_never_seen_is_refused(corpus):
    bank = corpus.bank()
    bank.valid["audio"][:] = False
    with pytest.raises(SettingError, match="'audio' has no valid frame"):
        bank.measure(["a"])


def test_shuffling_follows_the_seed_and_uses_every_window_once(corpus):
    bank = corpus.bank()
    windows = bank.cut(list(bank.lengths), 5, 5)
    batches = bank.batches(windows, 5, 4)

    def order(seed: int) -> list[Window]:
        return [w for batch in batches.epoch(torch.Generator().manual_seed(seed)) for w in batch.windows]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert set(order(0)) == set(windows)
    assert [w for batch in batches.epoch() for w in batch.windows] == list(windows)
    assert len(batches) == len(list(batches.epoch()))


def test_labelled_tells_windows_worth_training_on(corpus):
    bank = corpus.bank()
    assert bank.batches([Window("b", 0, 3), Window("b", 5, 8), Window("b", 9, 10)], 3, 2).labelled.tolist() == [
        [True, True],
        [False, False],
        [False, True],
    ]


def test_select_targets(corpus):
    bank = corpus.bank("b").select_targets(("arousal",))
    assert bank.labels.shape == (34, 1)
    assert bank.labels[9].isfinite()
    with pytest.raises(
        UnknownNameError, match=r"Unknown target 'anger'.* arousal\. Set 'targets: \[arousal\]'.*params.yaml"
    ):
        bank.select_targets(("anger",))


def test_windows_must_fit_their_trial(corpus):
    bank = corpus.bank()
    for window in (Window("c", 0, 9), Window("c", 0, 6), Window("c", -1, 3)):
        with pytest.raises(ShapeError, match="does not fit 5 frames of a trial of 8"):
            bank.batches([window], 5, 1)
    with pytest.raises(UnknownNameError, match="Unknown trial of the bank 'x'"):
        bank.cut(["x"], 5, 5)


def test_refuses_a_store_that_lacks_trials(corpus, tmp_path):
    _, store = write_trial(tmp_path, np.ones((4, 2)))
    with pytest.raises(StoreError, match="visual features 'set' lack 2 of 2 trials: 'a', 'b'"):
        Bank.from_stores({"visual": store}, corpus.manifest, ["a", "b"])


def test_refuses_rows_that_contradict_the_clock(tmp_path):
    manifest, store = write_trial(tmp_path, np.ones((4, 2)))
    longer = replace(manifest.trials[0], clock=FrameClock(Fraction(25), 5))
    with pytest.raises(ShapeError, match="Trial 't' has 4 rows of visual features but 5 frames"):
        Bank.from_stores({"visual": store}, Manifest(tmp_path, (longer,)), ["t"])


def test_refuses_altered_bytes(tmp_path):
    manifest, store = write_trial(tmp_path, np.ones((4, 2)))
    chunk = next(store.group.glob("t/c/*/0"))
    data = bytearray(chunk.read_bytes())
    data[3] ^= 1
    chunk.write_bytes(bytes(data))
    with pytest.raises(StoreError, match="differ from their digest"):
        Bank.from_stores({"visual": store}, manifest, ["t"])


def test_refuses_nothing(corpus):
    with pytest.raises(SettingError, match="0 trials and 2 modalities"):
        Bank.from_stores(corpus.stores, corpus.manifest, [])


def test_fingerprints_are_compared_by_modality(corpus):
    bank = corpus.bank("a")
    bank.check_recipes(bank.recipes)
    other = replace(bank.recipes["audio"], algorithm=9)
    with pytest.raises(
        FingerprintError,
        match=f"audio features have fingerprint '{bank.recipes['audio'].fingerprint}', the model was trained on '{other.fingerprint}'",
    ):
        bank.check_recipes({**bank.recipes, "audio": other})
    with pytest.raises(UnknownNameError, match="Unknown modality of the bank 'text'"):
        bank.check_recipes({"text": other})
