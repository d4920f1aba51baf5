"""Principal components come from training trials only, travel with the checkpoint, and are used at prediction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from cache.errors import SettingError, ShapeError, UnknownNameError
from fusion.bank.projection import Projection, fit_projections
from fusion.settings import TrainConfig
from fusion.training.checkpoint import load
from fusion.training.inference import predict
from fusion.training.trainer import train


def test_components_are_those_of_the_valid_training_frames(corpus):
    fitted = fit_projections(corpus.stores, corpus.fold.train, {"visual": 3})["visual"]
    features = [corpus.stores["visual"].read(name) for name in corpus.fold.train]
    rows = np.concatenate([f.embeddings[f.valid] for f in features]).astype(np.float64)
    expected = PCA(3, svd_solver="full").fit(rows)
    np.testing.assert_allclose(fitted.mean, expected.mean_, rtol=1e-5)
    overlap = np.abs(fitted.components.double().numpy() @ expected.components_.T)
    np.testing.assert_allclose(overlap, np.eye(3), atol=1e-3)


def test_a_projected_bank(corpus):
    bank, fitted = corpus.bank(), fit_projections(corpus.stores, ["a", "b"], {"visual": 3})
    reduced = bank.projected(fitted)
    assert (reduced.dims, bank.dims) == ({"audio": 5, "visual": 3}, {"audio": 5, "visual": 7})
    rows, valid = reduced.rows("visual", "a"), bank.valid["visual"][bank.span("a")]
    stored = torch.from_numpy(np.array(corpus.stores["visual"].read("a").embeddings)).float()
    expected = (stored - fitted["visual"].mean) @ fitted["visual"].components.T
    torch.testing.assert_close(rows, torch.where(valid[:, None], expected, 0.0))
    assert not rows[3:9].any()
    assert not reduced.embeddings["visual"].values[-1].any()
    assert reduced.select_targets(("arousal",)).normalised(reduced.measure(["a"]), ["d"]).dims == reduced.dims


def test_a_bank_in_its_stores_is_projected_too(corpus):
    from fusion.bank.bank import Bank

    fitted = fit_projections(corpus.stores, ["a", "b"], {"visual": 3})
    mapped = Bank.from_stores(corpus.stores, corpus.manifest, ["a", "d"], memory_gb=0).projected(fitted)
    torch.testing.assert_close(mapped.rows("visual", "d"), corpus.bank().projected(fitted).rows("visual", "d"))


def test_the_checkpoint_keeps_the_components_and_prediction_uses_them(corpus, tmp_path):
    fitted = fit_projections(corpus.stores, corpus.fold.train, {"visual": 2})
    config = TrainConfig(epochs=2, batch_size=4, window=8, hop=8)
    result = train(corpus.bank().projected(fitted), corpus.fold, "rnn", {}, config)
    assert result.checkpoint.model.dims == {"audio": 5, "visual": 2}
    result.checkpoint.save(tmp_path / "run")
    again = load(tmp_path / "run")
    assert torch.equal(again.projections["visual"].components, fitted["visual"].components)
    assert set(again.projections) == {"visual"}
    before, after = (predict(checkpoint, corpus.bank(), ["f"])[0].values for checkpoint in (result.checkpoint, again))
    np.testing.assert_allclose(before, after, atol=1e-6)
    spoiled = Projection(fitted["visual"].mean + 1, fitted["visual"].components)
    again.projections["visual"] = spoiled
    assert not np.allclose(predict(again, corpus.bank(), ["f"])[0].values, before, atol=1e-4)


def test_refuses_what_does_not_fit(corpus):
    with pytest.raises(UnknownNameError, match="Unknown modality of 'pca' 'text'"):
        fit_projections(corpus.stores, ["a"], {"text": 2})
    with pytest.raises(SettingError, match="9 principal components"):
        fit_projections(corpus.stores, ["a"], {"visual": 9})
    fitted = fit_projections(corpus.stores, ["a"], {"visual": 2})
    with pytest.raises(ShapeError, match=r"\(\d+, 2\), expected \(T, \d+\).*Train again"):
        corpus.bank().projected(fitted).projected(fitted)
