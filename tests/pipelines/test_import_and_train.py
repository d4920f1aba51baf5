"""Features of another program become a store that a fusion model trains from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from cache.clock import FrameClock
from cache.corpus.folds import Fold, make_fold
from cache.corpus.manifest import Manifest, Trial
from cache.errors import MissingFileError
from cache.formats.interchange import ImportOptions, import_features
from cache.store.receipt import open_receipt
from fusion.bank.bank import Bank
from fusion.settings import TrainConfig
from fusion.training.checkpoint import load
from fusion.training.trainer import train
from pipelines.training.features import open_stores


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

    with pytest.raises(MissingFileError, match="'units'.*'opneface'.*Did you mean 'openface'"):
        open_stores(tmp_path / "features", {"units": "opneface"}, manifest, Fold(0, ("a",), ("b",), ()))
    stores = open_stores(tmp_path / "features", {"units": "openface"}, manifest, Fold(0, ("a",), ("b",), ()))
    assert stores["units"].recipe.modality == "pose"
    bank = Bank.from_stores(stores, manifest, list("abcd"))
    fold = make_fold(manifest, 0, list("abc"), ["d"])
    result = train(bank, fold, "rnn", {}, TrainConfig(epochs=8, lr=0.01, batch_size=4))

    first, *later = (record.score for record in result.history)
    assert max(later) > first + 0.3  # from 0.22 to 0.93


def test_two_sets_of_one_backbone_and_imported_ones_in_one_system(
    project: Path, run: Callable[..., Result], edit_params: Callable[..., None]
) -> None:
    """Their own names in one system, a leader among them: trained, evaluated, reported; another's settings change nothing."""
    manifest = Manifest.load(Path("work/corpus"))
    rng = np.random.default_rng(0)
    rows = {t.id: rng.normal(size=(t.clock.num_frames, 4)).astype(np.float32) for t in manifest.trials}
    write_features(Path("in"), "npy", rows)
    assert run("cache", "import", "in", "--from", "npy", "--name", "openface", "--modality", "pose").exit_code == 0
    before = Path("features/receipts/conv1d.json").read_bytes()

    def change(params: dict) -> None:
        params["extract"]["long"] = {"backbone": "conv1d", "weights": "random", "settings": {"window_s": 0.2}}
        names = {"face": "mobilefacenet", "voice": "conv1d", "voice_long": "long", "units": "openface"}
        settings = {"leader": "units", "channels": [4, 4], "modal_dim": 4}
        params["fusion"]["systems"] = {"own": {"model": "leader_follower", "modalities": names, "settings": settings}}
        params["fusion"]["seeds"] = [0]

    edit_params(change)
    result = run("train")
    assert result.exit_code == 1
    assert "'long', which does not exist" in result.stderr
    assert run("extract", "--backbone", "long").exit_code == 0
    recipes = [open_receipt(Path(f"features/receipts/{name}.json"))[0].recipe for name in ("conv1d", "long")]
    assert [recipe.name for recipe in recipes] == ["conv1d", "conv1d"]
    assert recipes[0].fingerprint != recipes[1].fingerprint
    assert Path("features/receipts/conv1d.json").read_bytes() == before
    for command in ("train", "evaluate", "report", "plan"):
        result = run(command)
        assert result.exit_code == 0, (command, result.output)
    model = load(Path("work/models/own/fold0/seed0")).model
    assert (model.leader, list(model.dims)) == ("units", ["face", "units", "voice", "voice_long"])
    assert "conv1d, long, mobilefacenet ran with random" in Path("results/report.md").read_text(encoding="utf-8")
    assert json.loads(Path("work/plan/extract/long.json").read_text())["read"]
    assert not Path("work/plan/imported.json").exists()
    assert run("cache", "verify", "--against-source", "1").exit_code == 0


def test_a_system_trains_from_the_layout_of_older_programs(
    project: Path, run: Callable[..., Result], edit_params: Callable[..., None]
) -> None:
    edit_params(lambda params: params["fusion"].update(systems={"fused": params["fusion"]["systems"]["fused"]}))
    for folder, name in (("visual", "mobilefacenet"), ("audio", "conv1d")):
        Path("features", folder).mkdir()
        shutil.move(f"features/{name}.zarr", f"features/{folder}/{name}.zarr")
        shutil.move(f"features/receipts/{name}.json", f"features/{folder}/{name}.json")
    assert run("train").exit_code == 0
    assert run("cache", "verify").exit_code == 0
    rows = json.loads(run("cache", "ls", "--json").stdout)
    assert sorted((row["receipts"], row["store"]) for row in rows) == [
        (["conv1d"], "features/audio/conv1d.zarr"),
        (["mobilefacenet"], "features/visual/mobilefacenet.zarr"),
    ]
    again = run("extract", "--backbone", "conv1d")
    assert "'features/audio/conv1d.zarr' is in the layout of older" in again.stderr
