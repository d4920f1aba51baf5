"""Search spaces: the published table exactly, one for every model, and faults of one's own named."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import MissingFileError, SettingError, UnknownNameError
from fusion.models import MODELS
from pipelines.search.spaces import Choice, Range, find_space, packaged

GENERAL = {
    "settings.n_layers": Range(1, 5),
    "settings.d_model": Choice((64, 128, 256)),
    "settings.activation": Choice(("gelu", "selu")),
    "settings.dropout": Range(0.1, 0.6),
    "train.lr": Range(1e-5, 1e-2, log=True),
    "train.weight_decay": Range(1e-3, 1e-1, log=True),
    "train.lambda_mse": Range(0.0, 1.0),
    "train.lambda_ce": Range(0.0, 1.0),
}
ATTENTION = {"settings.d_ff": Choice((64, 128, 256)), "settings.n_heads": Choice((2, 4, 8))}
CROSSED = {"settings.n_cross_of.visual_to_audio": Range(1, 5), "settings.n_cross_of.audio_to_visual": Range(1, 5)}
RECURRENT = {"settings.bidirectional": Choice((False, True)), "settings.d_hidden": Choice((64, 128, 256))}
AV = {"visual": "mobilefacenet", "audio": "conv1d"}


def test_the_papers_table_is_here_exactly() -> None:
    space = find_space("karas2022", "")
    assert space.models == {
        "rnn": GENERAL | RECURRENT,
        "self_attention": GENERAL | ATTENTION,
        "cross_modal_attention": GENERAL | ATTENTION | CROSSED,
    }
    assert space.parameters("cross_modal_attention", AV) == GENERAL | ATTENTION | CROSSED
    assert space.parameters("cross_modal_attention", {"visual": "x"}) == GENERAL | ATTENTION
    assert list(space.architecture) == ["model", "modalities.visual"]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_a_space(model: str) -> None:
    space = find_space("", model)
    assert space.parameters(model, AV)
    assert not space.architecture
    assert all(Path(name).suffix == "" for name in packaged())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: {rnn: {settings: {d_modell: [64]}}}", "d_modell"),
        ("models: {rnn: {settings: {dropout: {low: 0.1, high: 1.5}}}}", "dropout"),
        ("models: {rnn: {settings: {dropout: {low: 0.5, high: 0.1}}}}", "low below high"),
        ("models: {rnn: {settings: {dropout: 0.5}}}", "a list of values"),
        ("models: {rnn: {settings: {dropout: {low: 0.1, high: .inf}}}}", "goes to inf, expected finite numbers"),
        ("models: {rnn: {train: {epochs: [1, 2]}}}", "is decided by --epochs"),
        ("models: {rnn: {train: {seed: [1, 2]}}}", "is decided by the first of fusion.seeds"),
        ("models: {rnn: {}}", "is empty, expected parameters"),
        ("models: {rnnn: {settings: {}}}", "rnnn"),
        ("models: {}", "at least one model"),
        ("architecture: {model: [x]}\nmodels: {rnn: {settings: {d_model: [8]}}}", "architecture.model.x"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingError, match=said):
        find_space(str(path), "rnn")


def test_a_value_that_is_named_twice_is_tried_once(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("models: {rnn: {settings: {d_model: [8, 8, 16], bidirectional: [true, true]}}}", encoding="utf-8")
    domains = find_space(str(path), "rnn").models["rnn"]
    assert [domain.examples for domain in domains.values()] == [(8, 16), (True,)]


def test_unknown_spaces_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="karas2022"):
        find_space("karas2020", "rnn")
    with pytest.raises(MissingFileError, match="Spaces of the package"):
        find_space("nowhere/space.yaml", "rnn")
    with pytest.raises(SettingError, match="no parameters of model 'tcn'"):
        find_space("karas2022", "").parameters("tcn", AV)
