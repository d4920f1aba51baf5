"""Features of another program become a store that a fusion model trains from."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from cache.clock import FrameClock
from cache.errors import MissingFileError
from cache.folds import make_fold
from cache.interchange import ImportOptions, import_features
from cache.manifest import Manifest, Trial
from fusion.bank import Bank
from fusion.settings import TrainConfig
from fusion.trainer import train
from pipelines.train_fusion import open_stores


def write_features(folder: Path, kind: str, rows: dict[str, np.ndarray]) -> None:
    folder.mkdir()
    for name, values in rows.items():
        if kind == "npy":
            np.save(folder / f"{name}.npy", values)
        else:
            table = np.column_stack([40 * np.arange(len(values)), np.ones(len(values)), values])
            header = "timestamp,segment_id," + ",".join(str(i) for i in range(values.shape[1]))
            np.savetxt(folder / f"{name}.csv", table, delimiter=",", header=header, comments="", fmt="%.9g")


@pytest.mark.parametrize("kind", ["npy", "muse"])
def test_imported_features_teach(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(size=(64, 4)).astype(np.float32) for name in "abcd"}
    write_features(tmp_path / "in", kind, rows)
    clock = FrameClock(Fraction(25), 64)
    trials = tuple(
        Trial(name, name, "train", clock, {}, np.tanh(values[:, :2]).astype(np.float32))
        for name, values in rows.items()
    )
    manifest = Manifest(tmp_path, trials)
    import_features(tmp_path / "in", kind, tmp_path / "features", ImportOptions("openface", "pose"), manifest)

    with pytest.raises(MissingFileError, match="'opneface'.*'units'.*Did you mean 'openface'"):
        open_stores(tmp_path / "features", {"units": "opneface"}, manifest)
    stores = open_stores(tmp_path / "features", {"units": "openface"}, manifest)
    assert stores["units"].spec.modality == "pose"
    bank = Bank.from_stores(stores, manifest, list("abcd"))
    fold = make_fold(manifest, 0, list("abc"), ["d"])
    result = train(bank, fold, "rnn", {}, TrainConfig(epochs=8, lr=0.01, batch_size=4))

    first, *later = (record.score for record in result.history)
    assert max(later) > first + 0.3  # from 0.22 to 0.93
