"""Training learns, is repeatable, keeps the best epoch and refuses what cannot work."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import fusion.trainer
from cache.errors import AvFusionError, CorpusError, SettingError, UnknownNameError
from cache.folds import Fold
from fusion.inference import predict
from fusion.metrics import ccc
from fusion.model import FusionModel
from fusion.settings import TrainConfig
from fusion.trainer import TrainResult, train

QUICK = TrainConfig(epochs=3, batch_size=4, window=8, hop=6, lr=0.01, restart_steps=50)
SMALL = {"d_model": 8, "d_hidden": 8}


def run(corpus, config: TrainConfig = QUICK, **options) -> TrainResult:
    return train(
        options.pop("bank", None) or corpus.bank(), options.pop("fold", corpus.fold), "rnn", SMALL, config, **options
    )


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return result.checkpoint.model.state_dict()


def test_learns_what_can_be_learned(corpus):
    result = run(corpus, replace(QUICK, epochs=60, patience=60))
    assert max(record.score for record in result.history) > 0.8
    assert result.history[-1].loss < result.history[0].loss / 2


@pytest.mark.parametrize(
    "settings", [{"loss": "window"}, {"optimizer": "adam", "schedule": "constant"}, {"dilation": 2, "tail": "drop"}]
)
def test_other_ways_of_training_learn_too(corpus, settings):
    result = run(corpus, replace(QUICK, epochs=12, patience=12, **settings))
    assert max(record.score for record in result.history) > 0.5


def test_same_seed_same_weights(corpus):
    torch.manual_seed(1)
    first = run(corpus)
    torch.manual_seed(2)
    second = run(corpus)
    third = run(corpus, replace(QUICK, seed=1))
    assert first.history == second.history
    assert all(torch.equal(tensor, weights(second)[name]) for name, tensor in weights(first).items())
    assert not torch.equal(weights(first)["lstm.weight_hh_l0"], weights(third)["lstm.weight_hh_l0"])


def test_training_leaves_the_callers_generator_alone(corpus):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(corpus, replace(QUICK, epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_the_best_epoch_is_kept(corpus):
    seen = []
    result = run(corpus, replace(QUICK, epochs=8, lr=0.05), on_epoch=seen.append)
    assert tuple(seen) == result.history
    best = max(result.history, key=lambda record: record.score)
    assert result.best_epoch == best.epoch
    assert result.checkpoint.validation == best.validation
    assert [record.epoch for record in result.history if record.best][-1] == best.epoch


def test_validation_is_the_ccc_over_all_validation_frames(corpus):
    result = run(corpus)
    bank = corpus.bank()
    rows, labels = [], []
    for prediction in predict(result.checkpoint, bank, corpus.fold.validate):
        rows.append(torch.from_numpy(prediction.values))
        labels.append(bank.labels[bank.span(prediction.trial_id)])
    expected = ccc(torch.cat(rows), torch.cat(labels))
    assert list(result.checkpoint.validation.values()) == pytest.approx(expected.tolist(), abs=1e-9)


def test_stops_early(corpus, monkeypatch):
    scores = iter([0.3, 0.2, 0.1, 0.4])
    monkeypatch.setattr(fusion.trainer, "validate", lambda *_: {"valence": next(scores)})
    result = run(corpus, replace(QUICK, epochs=10, patience=2))
    assert len(result.history) == 3
    assert result.best_epoch == 0


def test_only_training_trials_teach(corpus):
    """Other validation and test features change neither moments nor weights of the first epoch."""
    bank, spoiled = corpus.bank(), corpus.bank()
    for name in ("d", "e", "f"):
        for rows in spoiled.embeddings.values():
            rows[spoiled.span(name)] *= 3
    config = replace(QUICK, epochs=1)
    first, second = run(corpus, config, bank=bank), run(corpus, config, bank=spoiled)
    assert all(torch.equal(tensor, weights(second)[name]) for name, tensor in weights(first).items())
    assert torch.equal(first.checkpoint.moments["audio"].std, second.checkpoint.moments["audio"].std)


def test_one_target(corpus):
    result = run(corpus, replace(QUICK, targets=("arousal",), lambda_ce=0.0))
    assert list(result.checkpoint.validation) == ["arousal"]
    assert predict(result.checkpoint, corpus.bank("f"))[0].values.shape == (12, 1)


def test_reloading_the_best_and_not_stopping_are_the_schedules_to_say(corpus, monkeypatch):
    from fusion.schedule import Constant

    class Stubborn(Constant):
        reloads_best = True
        may_stop = False

    scores = iter([0.3, 0.2, 0.1, 0.05])
    states = []

    def validate(model, *_):
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"valence": next(scores)}

    monkeypatch.setattr(fusion.trainer, "validate", validate)
    monkeypatch.setattr(fusion.trainer, "make_schedule", Stubborn)
    result = run(corpus, replace(QUICK, epochs=4, patience=1))
    assert len(result.history) == 4
    assert all(torch.equal(tensor, states[0][name]) for name, tensor in weights(result).items())


def test_a_fixed_window_length_must_be_met(corpus, monkeypatch):
    monkeypatch.setattr(FusionModel, "fixed_length", 300)
    with pytest.raises(SettingError, match="accepts windows of 300 frames only, got 8"):
        run(corpus)


def test_a_loss_that_is_not_finite_is_an_error_with_a_remedy(corpus):
    bank = corpus.bank()
    bank.labels[bank.span("a")] = 1e30
    with pytest.raises(AvFusionError, match="The training loss became nan in epoch 0 with lr 0.01. Lower 'lr'"):
        run(corpus, bank=bank)


def test_refuses_trials_without_labels(corpus):
    bank = corpus.bank()
    bank.labels[bank.span("d")] = math.nan
    with pytest.raises(CorpusError, match="None of 1 validation trials has a labelled frame"):
        run(corpus, bank=bank, fold=Fold(0, ("a", "b"), ("d",)))
    with pytest.raises(CorpusError, match="None of 6 training windows holds a labelled frame"):
        run(corpus, bank=bank, fold=Fold(0, ("d",), ("a",)))


def test_refuses_unknown_names(corpus):
    with pytest.raises(UnknownNameError, match="Unknown target 'anger'"):
        run(corpus, replace(QUICK, targets=("anger",)))
    with pytest.raises(UnknownNameError, match="Unknown trial of the bank 'x'"):
        run(corpus, fold=Fold(0, ("x",), ("a",)))
