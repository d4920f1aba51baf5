"""Section `cross` of the matrix: every model on every choice of encoders, beside systems written out."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cache.errors import SettingError
from pipelines.project.params_file import read_params

CROSS = {
    "encoders": {"visual": ["mobilefacenet", "facenet"], "audio": ["conv1d"]},
    "models": {"rnn": {"settings": {"d_hidden": 16}}, "wide": {"model": "rnn", "train": {"epochs": 3}}, "linear": None},
}


def read(folder: Path, cross: object, **more: object):
    params = {"corpus": {"name": "demo"}, "fusion": {"seeds": [0], "systems": {}}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    (folder / "matrix.yaml").write_text(
        yaml.safe_dump({"seeds": [0, 1], "cross": cross, **more}, sort_keys=False), encoding="utf-8"
    )
    return read_params(folder / "params.yaml").matrix


def test_every_model_reads_every_choice_of_encoders(tmp_path: Path) -> None:
    own = {"own": {"model": "tcn", "modalities": {"audio": "conv1d"}}}
    matrix = read(tmp_path, CROSS, systems=own, train={"epochs": 5})
    assert len(matrix.systems) == 3 * (2 + 1 + 2) + 1
    system = matrix.systems["wide-facenet-conv1d"]
    assert (system.model, system.modalities) == ("rnn", {"visual": "facenet", "audio": "conv1d"})
    assert (system.train.epochs, matrix.systems["rnn-conv1d"].train.epochs) == (3, 5)
    assert matrix.systems["rnn-conv1d"].settings.d_hidden == 16


def test_only_some_combinations(tmp_path: Path) -> None:
    matrix = read(tmp_path, {**CROSS, "modalities": [["audio"], ["visual", "audio"]]})
    assert len(matrix.systems) == 3 * (1 + 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder": {}}, "matrix.cross"),
        ({"models": ["rnn"]}, "matrix.cross.models"),
        ({"encoders": {"visual": "facenet"}}, "matrix.cross.encoders"),
        ({"modalities": [["text"]]}, "matrix.cross.modalities"),
        ({"models": {"rnnn": None}}, "rnnn"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, change: dict, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        read(tmp_path, {**CROSS, **change})
