"""Training learns, is repeatable, keeps the best epoch and refuses what cannot work."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import Ridge

import cache.targets
import fusion.training.trainer
from cache.corpus.folds import Fold
from cache.errors import AvFusionError, CorpusError, SettingError, UnknownNameError
from fusion.model import FusionModel
from fusion.scores.ccc import CCC
from fusion.scores.losses import Objective
from fusion.settings import LOSS_KINDS, TrainConfig
from fusion.training.inference import predict
from fusion.training.trainer import TrainResult, train

QUICK = TrainConfig(epochs=3, batch_size=4, window=8, hop=6, lr=0.01, restart_steps=50)
SMALL = {"d_model": 8, "d_hidden": 8}
UNTRAINED = 0.1  # more than the score of any of five seeds before the first step


def run(corpus, config: TrainConfig = QUICK, **options) -> TrainResult:
    return train(
        options.pop("bank", None) or corpus.bank(), options.pop("fold", corpus.fold), "rnn", SMALL, config, **options
    )


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return result.checkpoint.model.state_dict()


def test_learns_what_can_be_learned(corpus):
    result = run(corpus, replace(QUICK, epochs=60, patience=60))
    assert max(record.score for record in result.history) > 0.7  # 0.86 and more with any seed and processor
    assert min(record.loss for record in result.history) < result.history[0].loss / 2  # 0.21 of it


@pytest.mark.parametrize(
    "settings", [{"loss": "window"}, {"optimizer": "adam", "schedule": "constant"}, {"dilation": 2, "tail": "drop"}]
)
def test_other_ways_of_training_learn_too(corpus, settings):
    result = run(corpus, replace(QUICK, epochs=12, patience=12, **settings))
    assert max(record.score for record in result.history) > UNTRAINED + 0.2  # 0.50 and more


def test_without_steps_nothing_is_learned(corpus):
    result = run(corpus, replace(QUICK, epochs=3, lr=1e-12))
    assert max(record.score for record in result.history) < UNTRAINED


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
    for prediction in predict(result.checkpoint.answering("train"), bank, corpus.fold.validate):
        rows.append(torch.from_numpy(prediction.values))
        labels.append(bank.labels[bank.span(prediction.trial_id)])
    expected = CCC.of(torch.cat(rows), torch.cat(labels))
    assert list(result.checkpoint.validation.values()) == pytest.approx(expected.tolist(), abs=1e-9)


def test_stops_early(corpus, monkeypatch):
    scores = iter([0.3, 0.2, 0.1, 0.4])
    monkeypatch.setattr(fusion.training.trainer, "validate", lambda *_: {"valence": next(scores, 0.0)})
    result = run(corpus, replace(QUICK, epochs=10, patience=2))
    assert len(result.history) == 3
    assert result.best_epoch == 0


def test_only_training_trials_teach(corpus):
    """Other validation and test features change neither moments nor weights of the first epoch."""
    bank, spoiled = corpus.bank(), corpus.bank()
    for name in ("d", "e", "f"):
        for rows in spoiled.embeddings.values():
            rows.trial(name, spoiled.span(name)).mul_(3)
    config = replace(QUICK, epochs=1)
    first, second = run(corpus, config, bank=bank), run(corpus, config, bank=spoiled)
    assert all(torch.equal(tensor, weights(second)[name]) for name, tensor in weights(first).items())
    assert torch.equal(first.checkpoint.moments["audio"].std, second.checkpoint.moments["audio"].std)


def test_one_target(corpus):
    result = run(corpus, replace(QUICK, targets=("arousal",), lambda_ce=0.0))
    assert list(result.checkpoint.validation) == ["arousal"]
    assert predict(result.checkpoint, corpus.bank("f"))[0].values.shape == (12, 1)


def test_the_plateau_schedule_goes_on_from_the_best_weights(corpus, monkeypatch):
    scores = iter([0.3, 0.2, 0.1, 0.05])
    states = []

    def validate(model, *_):
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"valence": next(scores, 0.0)}

    monkeypatch.setattr(fusion.training.trainer, "validate", validate)
    result = run(corpus, replace(QUICK, epochs=4, patience=1, schedule="plateau"))
    assert len(result.history) == 4, "warm-up does not count as waiting"
    assert all(torch.equal(tensor, states[0][name]) for name, tensor in weights(result).items())
    assert not torch.equal(states[1]["lstm.weight_hh_l0"], states[0]["lstm.weight_hh_l0"])


def record_batches(corpus, monkeypatch, config: TrainConfig) -> list[tuple]:
    """What the objective of one run was given."""
    seen = []
    plain = Objective.forward

    def forward(self, estimate, target, mask):
        seen.append((estimate.values.shape, target.clone(), mask.clone()))
        return plain(self, estimate, target, mask)

    monkeypatch.setattr(Objective, "forward", forward)
    run(corpus, config)
    return seen


@pytest.mark.parametrize("reshuffle", [True, False])
def test_windows_are_reshuffled_every_epoch_or_only_once(corpus, monkeypatch, reshuffle):
    seen = record_batches(corpus, monkeypatch, replace(QUICK, epochs=2, reshuffle=reshuffle))
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    same = all(torch.equal(a[1], b[1]) for a, b in zip(first, second, strict=True))
    assert same is not reshuffle
    ordered = next(corpus.bank().batches(corpus.bank().cut(corpus.fold.train, 8, 6), 8, 4).epoch())
    assert not torch.equal(first[0][1], ordered.targets), "shuffled at least once"


def test_padding_counts_where_it_is_asked_to(corpus, monkeypatch):
    """Trial 'c' has 8 frames: in windows of 10 two frames of padding, with target 0."""
    config = replace(QUICK, epochs=1, window=10, batch_size=100)
    ((_, target, masked),) = record_batches(corpus, monkeypatch, config)
    ((_, again, counted),) = record_batches(corpus, monkeypatch, replace(config, masked=False))[-1:]
    assert torch.equal(target, again)
    extra = counted & ~masked
    assert int(extra.sum()) == 2 * 2
    assert not target[extra].any()
    assert not (masked & ~counted).any()


def test_class_weights_from_the_training_labels(corpus, monkeypatch):
    from fusion.scores.losses import balanced_class_weights

    made = []
    plain = Objective.forward
    monkeypatch.setattr(Objective, "forward", lambda self, *a: made.append(self.class_weights) or plain(self, *a))
    run(corpus, replace(QUICK, epochs=1, class_weights="training"))
    bank = corpus.bank()
    labels = torch.cat([bank.labels[bank.span(name)] for name in corpus.fold.train])
    torch.testing.assert_close(made[0], balanced_class_weights(labels[labels.isfinite().all(dim=1)]))


def test_the_cross_entropy_is_left_out_for_models_without_classes_unless_asked_for(corpus):
    small = {"channels": (8,), "channels_of": {"audio": (4,)}}
    bank = corpus.bank()
    automatic = train(bank, corpus.fold, "tcn", small, QUICK)
    without = train(bank, corpus.fold, "tcn", small, replace(QUICK, lambda_ce=0.0))
    assert automatic.history == without.history
    with pytest.raises(SettingError, match="no polar classes. Leave it out"):
        train(bank, corpus.fold, "tcn", small, replace(QUICK, lambda_ce=0.5))
    with_head = run(corpus)
    assert with_head.history == run(corpus, replace(QUICK, lambda_ce=0.88)).history
    assert with_head.history != run(corpus, replace(QUICK, lambda_ce=0.0)).history


def test_one_network_per_target(corpus):
    config = replace(QUICK, per_target=True)
    with pytest.raises(SettingError, match="'per_target' asks for 2 networks"):
        run(corpus, config)
    results = [run(corpus, part) for part in config.networks()]
    assert [list(result.checkpoint.validation) for result in results] == [["valence"], ["arousal"]]
    assert [part.networks() for part in config.networks()] == [(part,) for part in config.networks()]
    assert QUICK.networks() == (QUICK,)


def test_a_model_that_can_be_solved_is_solved(corpus):
    told = []
    bank = corpus.bank()
    settings = {"spans": (1,), "alpha": 0.1}
    config = replace(QUICK, hop=8, tail="pad")  # every frame once
    result = train(bank, corpus.fold, "linear", settings, config, told.append)
    assert tuple(told) == result.history
    assert (len(result.history), result.best_epoch) == (1, 0)
    rows, labels = [], []
    normalised = bank.normalised(bank.measure(corpus.fold.train), corpus.fold.train)
    for name in corpus.fold.train:
        rows.append(torch.cat([normalised.rows(m, name).double() for m in bank.dims], dim=1))
        labels.append(normalised.labels[normalised.span(name)].double())
    x, y = torch.cat(rows), torch.cat(labels)
    regress = result.checkpoint.model.regress
    for known, own, weight in zip(y.isfinite().T, y.T, regress.weight, strict=True):
        ridge = Ridge(alpha=0.1 * int(known.sum())).fit(x[known].numpy(), own[known].numpy())
        torch.testing.assert_close(weight.double(), torch.from_numpy(ridge.coef_), atol=1e-4, rtol=1e-3)
    assert result.history[0].score > 0.8
    with pytest.raises(SettingError, match="the model has no polar classes"):
        train(bank, corpus.fold, "linear", settings, replace(config, lambda_ce=0.5))


@pytest.mark.parametrize("name", ["recursive_cross_attention", "joint_cross_attention"])
def test_models_of_fixed_length_reach_the_end_of_every_trial(corpus, name):
    """Trials of 12, 8 and 40 frames in windows of 10: aligned, padded and whole."""
    settings = {"length": 10} | (
        {} if name == "joint_cross_attention" else {"channels": (8,), "channels_of": {"audio": (4,)}}
    )
    config = replace(QUICK, epochs=1, window=10, hop=7)
    for masked in (True, False):
        result = train(corpus.bank(), corpus.fold, name, settings, replace(config, masked=masked))
        predictions = predict(result.checkpoint, corpus.bank(), ["f", "c", "a"])
        assert [len(prediction.values) for prediction in predictions] == [12, 8, 40]
        assert all(math.isfinite(prediction.values.sum()) for prediction in predictions)


def test_a_fixed_window_length_must_be_met(corpus, monkeypatch):
    monkeypatch.setattr(FusionModel, "fixed_length", 300)
    with pytest.raises(SettingError, match="accepts windows of 300 frames only, got 8"):
        run(corpus)


def test_a_loss_that_is_not_finite_is_an_error_with_a_remedy(corpus):
    bank = corpus.bank()
    bank.labels[bank.span("a")] = 1e30
    with pytest.raises(AvFusionError, match="nan in epoch 0 with lr 0.01. Lower 'lr'"):
        run(corpus, bank=bank)


def test_refuses_trials_without_labels(corpus):
    bank = corpus.bank()
    bank.labels[bank.span("d")] = math.nan
    with pytest.raises(CorpusError, match="None of 1 validation trials has a labelled frame"):
        run(corpus, bank=bank, fold=Fold(0, ("a", "b"), ("d",)))
    with pytest.raises(CorpusError, match="None of 6 training windows"):
        run(corpus, bank=bank, fold=Fold(0, ("d",), ("a",)))


def test_a_target_without_any_label_is_refused_by_its_name(corpus):
    bank = corpus.bank()
    bank.labels[bank.span("d"), 1] = math.nan
    with pytest.raises(CorpusError, match="None of 1 validation trials .* arousal. Choose"):
        run(corpus, bank=bank, fold=Fold(0, ("a", "b"), ("d",)))
    with pytest.raises(CorpusError, match="training windows.*arousal. Check the labels"):
        run(corpus, bank=bank, fold=Fold(0, ("d",), ("a",)))


def test_a_frame_with_valence_alone_teaches_valence(corpus):
    """Without arousal in half of the frames, what valence learns by itself stays what it was, to the last bit."""
    config = replace(QUICK, epochs=2, targets=("valence",))
    expected = run(corpus, config).history
    bank = corpus.bank()
    bank.labels[bank.span("a"), 1] = math.nan
    assert run(corpus, config, bank=bank).history == expected
    linear = replace(QUICK, hop=8, tail="pad")
    full, part = (train(each, corpus.fold, "linear", {"spans": (1,)}, linear) for each in (corpus.bank(), bank))
    weights = [result.checkpoint.model.regress.weight for result in (full, part)]
    torch.testing.assert_close(weights[0][0], weights[1][0], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(weights[0][1], weights[1][1])
    both = run(corpus, replace(QUICK, epochs=1), bank=bank)
    assert both.checkpoint.validation.keys() == {"valence", "arousal"}


def test_refuses_unknown_names(corpus):
    with pytest.raises(UnknownNameError, match="Unknown target 'anger'"):
        run(corpus, replace(QUICK, targets=("anger",)))
    with pytest.raises(UnknownNameError, match="Unknown trial of the bank 'x'"):
        run(corpus, fold=Fold(0, ("x",), ("a",)))


def test_loss_and_metric_must_be_for_the_kind_of_every_target(corpus, monkeypatch):
    monkeypatch.setattr(cache.targets, "KINDS", ("continuous", "classes"))
    whole = corpus.bank()
    bank = replace(whole, targets=(whole.targets[0], replace(whole.targets[1], kind="classes")))
    text = "Target 'arousal' is of kind 'classes', but {} is for kind 'continuous'. Change"
    with pytest.raises(SettingError, match=text.format("loss 'batch'")):
        run(corpus, bank=bank)
    assert run(corpus, replace(QUICK, epochs=1, targets=("valence",)), bank=bank).history
    monkeypatch.setitem(LOSS_KINDS, "batch", "classes")
    with pytest.raises(SettingError, match=text.format("metric 'CCC'")):
        run(corpus, replace(QUICK, targets=("arousal",)), bank=bank)


def test_windows_longer_than_every_trial(corpus):
    config = replace(QUICK, window=5000, hop=5000, tail="drop")
    with pytest.raises(CorpusError, match=r"as long as a window of 5000 frames .* set 'tail' to 'align'"):
        run(corpus, config)
    assert run(corpus, replace(config, tail="align")).history
