"""Post-processing is what it says, fitted on validation trials alone, and off unless asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.errors import SettingError
from fusion.bank.bank import Bank
from fusion.scores.ccc import CCC
from fusion.settings import TrainConfig
from fusion.training.checkpoint import load
from fusion.training.inference import predict
from fusion.training.postprocessing import CHAINS, STEPS, apply_chain, fit_chains
from fusion.training.trainer import train
from pipelines.project.params import EvaluateParams

RNG = np.random.default_rng(0)
NOISE = RNG.standard_normal(60)
SMOOTH = np.sin(np.arange(400) / 15) * 0.8
QUICK = TrainConfig(epochs=2, batch_size=4, window=8, hop=8, lr=0.01, restart_steps=50)


def test_median_is_that_of_the_frames_around():
    padded = np.pad(NOISE, 2, mode="edge")
    expected = [np.median(padded[t : t + 5]) for t in range(60)]
    np.testing.assert_allclose(STEPS["median"].apply(NOISE, 5.0), expected)


def test_exponential_smoothing_looks_at_no_later_frame():
    expected = [NOISE[0]]
    for value in NOISE[1:]:
        expected.append(expected[-1] + 2 / 10 * (value - expected[-1]))
    np.testing.assert_allclose(STEPS["exponential"].apply(NOISE, 9.0), expected)


def test_savitzky_golay_is_a_parabola_through_the_frames_around():
    found = STEPS["savgol"].apply(NOISE, 9.0)
    steps = np.arange(-4, 5)
    expected = [np.polyfit(steps, NOISE[t - 4 : t + 5], 2)[-1] for t in range(4, 56)]
    np.testing.assert_allclose(found[4:56], expected, atol=1e-9)
    assert STEPS["savgol"].apply(NOISE[:3], 257.0).shape == (3,), "a trial shorter than the filter"


def test_delay_and_scale():
    values = np.array([0.1, 0.2, 0.3, 0.9])
    assert STEPS["delay"].apply(values, 1.0).tolist() == [0.1, 0.1, 0.2, 0.3]
    assert STEPS["delay"].apply(values, -2.0).tolist() == [0.3, 0.9, 0.9, 0.9]
    np.testing.assert_allclose(STEPS["scale"].apply(values, 2.0, -0.1), [0.1, 0.3, 0.5, 1.0])


def agreement(values: np.ndarray, labels: np.ndarray) -> float:
    """CCC of the first target."""
    label = torch.from_numpy(labels[:, :1])
    return float(CCC.of(torch.from_numpy(values[:, :1]), label, label.isfinite()))


def test_what_was_done_to_labels_is_found_again():
    """Predictions that are early, too small, off and noisy."""
    early = np.roll(SMOOTH, -12)
    noisy = 0.5 * early + 0.1 + RNG.normal(0, 0.1, 400)
    labels = np.stack([SMOOTH, SMOOTH], axis=1)
    labels[30:40, 0] = np.nan
    fitted = fit_chains([np.stack([noisy, SMOOTH], axis=1)], [labels])
    assert set(fitted) == {"+".join(chain) for chain in CHAINS}
    assert len(CHAINS) == 15
    assert all(parameters[1] == [] for parameters in fitted.values()), "nothing is gained"
    assert fitted["delay"][0] == [12.0]
    ((factor, shift),) = fitted["savgol+delay+scale"][:1]
    assert factor == pytest.approx(2, abs=0.1)
    assert shift == pytest.approx(-0.2, abs=0.05)
    values = np.stack([noisy, SMOOTH], axis=1).astype(np.float32)
    for chain in CHAINS:
        before, after = apply_chain(values, fitted, chain[:-1]), apply_chain(values, fitted, chain)
        assert agreement(after, labels) > agreement(before, labels) - 1e-5, chain
        np.testing.assert_array_equal(after[:, 1], values[:, 1])
    assert agreement(apply_chain(values, fitted, ("savgol", "delay", "scale")), labels) > 0.97


def relabelled(bank: Bank, trial_id: str, value: float) -> Bank:
    labels = bank.labels.clone()
    labels[bank.span(trial_id)] = value
    return replace(bank, labels=labels)


def test_labels_of_test_trials_are_never_read(corpus):
    bank = corpus.bank()
    fitted = train(bank, corpus.fold, "linear", {}, QUICK).checkpoint.fitted
    assert any(parameters for chain in fitted.values() for parameters in chain)
    for garbage in (float("nan"), -1.0, 1e6):
        again = train(relabelled(bank, "f", garbage), corpus.fold, "linear", {}, QUICK).checkpoint
        assert again.fitted == fitted
    labels = bank.labels.clone()
    labels[bank.span("d")] *= torch.linspace(-1, 1, bank.lengths["d"])[:, None]
    other = train(replace(bank, labels=labels), corpus.fold, "linear", {}, QUICK).checkpoint
    assert other.fitted != fitted, "validation labels are"


def test_predictions_pass_a_chain_only_if_asked_to(corpus, tmp_path):
    bank = corpus.bank()
    checkpoint = train(bank, corpus.fold, "rnn", {"d_model": 8, "d_hidden": 8}, QUICK).checkpoint
    checkpoint.save(tmp_path / "run")
    again = load(tmp_path / "run")
    assert again.fitted == checkpoint.fitted
    assert (again.postprocess, checkpoint.answering(postprocess=["scale"]).windows) == ((), checkpoint.windows)
    raw, scaled = (
        predict(each, bank, ["f"])[0].values for each in (again, again.answering(postprocess=["median", "scale"]))
    )
    np.testing.assert_allclose(scaled, apply_chain(raw, checkpoint.fitted, ("median", "scale")), atol=1e-6)
    assert np.abs(raw - scaled).max() > 1e-3
    with pytest.raises(SettingError, match="no fitted post-processing, but scale.*set evaluate.postprocess"):
        predict(replace(again, fitted={}).answering(postprocess=["scale"]), bank, ["f"])


@pytest.mark.parametrize("chain", [["scale", "median"], ["median", "savgol"], ["scale", "scale"]])
def test_chains_are_checked(chain):
    with pytest.raises(SettingError, match="expected some of median, exponential.*at most one") as refused:
        EvaluateParams(postprocess=tuple(chain))
    assert chain[0] in str(refused.value)


def test_a_step_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(SettingError, match="names 'sale', expected one of median, exponential.*Did you mean 'scale'"):
        EvaluateParams(postprocess=("median", "sale"))
