"""Checking and tidying: every fault is found, at once, and nothing that is needed goes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cache.corpus.manifest import Manifest, Trial
from cache.documents.documents import sign
from cache.errors import SettingError, UnknownNameError
from cache.places.folders import Where, open_folder
from cache.recipe import compare
from cache.store.receipt import Receipt
from cache.store.records import COMMIT
from cache.store.store import FeatureStore
from cache.store.verification import (
    describe,
    find_holding,
    list_holdings,
    prunable,
    prune,
    remove_leftovers,
    verify,
)


def fill(features: Where, made: SimpleNamespace, **changes: object) -> FeatureStore:
    store = FeatureStore.create(f"{features}/mobilefacenet.zarr", replace(made.recipe, **changes))
    for trial_id in ("a", "b", "c"):
        made.write(store, trial_id)
    return store


def give_receipt(features: Where, store: FeatureStore, name: str = "mobilefacenet") -> None:
    Receipt.of(store, store.trial_ids()).save(f"{features}/receipts/{name}.json")


def manifest_of(made: SimpleNamespace, **frames: int) -> Manifest:
    trials = (Trial(name, name, "train", made.clock(num), {}) for name, num in frames.items())
    return Manifest(Path("."), tuple(trials))


def test_a_whole_store_has_no_findings(features: Where, made: SimpleNamespace) -> None:
    assert verify(features) == []
    give_receipt(features, fill(features, made))
    read: list[str] = []
    manifest = manifest_of(made, a=20, b=20, c=20)
    assert verify(features, manifest, lambda frames, trial: read.append(f"{trial} {frames}")) == []
    assert read == ["a 20", "b 20", "c 20"]


def test_all_faults_are_found_at_once(tmp_path: Path, made: SimpleNamespace) -> None:
    features = tmp_path / "features"
    store = fill(features, made)
    made.write(store, "d")
    give_receipt(features, store)
    group = Path(store.group)
    chunk = bytearray((group / "a/c/0/0").read_bytes())
    chunk[11] ^= 4
    (group / "a/c/0/0").write_bytes(chunk)
    (group / "b/c/0/0").write_bytes(b"short")
    (group / "c/zarr.json").unlink()
    made.write(store, "d", seed=9)
    (group / ".e.partial").mkdir()
    other = fill(features, made, settings={"size": 96})
    recipe = Path(other.group) / "zarr.json"
    recipe.write_text(recipe.read_text().replace("96", "95"))
    (features / "receipts/broken.json").write_text("{")
    found = verify(features, manifest_of(made, a=20, b=20, c=20, d=21, z=5))
    texts = {(finding.trial, finding.text.split(":")[0].split(";")[0], finding.fault) for finding in found}
    for trial, part, fault in (
        ("a", "differ from their digest", True),
        ("b", "is 5 bytes long, expected 320 bytes", True),
        ("c", "unfinished", False),
        ("c", "the store does not have it", True),
        ("d", "differ from the receipt", True),
        ("d", "the manifest says 21 frames at", True),
        ("z", "the manifest has it, but the receipt does not", True),
        ("e", "left by a killed write", False),
        ("", "hashes to", True),
        ("", "is damaged", True),
    ):
        assert any(t == trial and part in text and f == fault for t, text, f in texts), (trial, part)
    assert [finding.trial for finding in found if finding.damaged] == ["a", "b"]


def test_dropping_damaged_trials_lets_the_next_run_compute_them(features: Where, made: SimpleNamespace) -> None:
    store = fill(features, made)
    open_folder(features).write(f"mobilefacenet.zarr/{store.recipe.fingerprint}/b/c/0/0", bytes(320))
    (finding,) = verify(features)
    assert (finding.trial, finding.damaged) == ("b", True)
    fresh = FeatureStore(finding.store, finding.fingerprint)
    assert fresh.drop("b")
    assert fresh.trial_ids() == ["a", "c"]
    made.write(fresh, "b")
    assert verify(features) == []


def test_a_trial_that_is_worked_on_is_not_dropped(features: Where, made: SimpleNamespace) -> None:
    store = fill(features, made)
    claim = store.claim("a")
    assert claim is not None
    with claim:
        assert not FeatureStore(store.path, store.recipe.fingerprint).drop("a")
    assert store.trial_ids() == ["a", "b", "c"]


def test_prune_takes_only_what_nobody_names(features: Where, made: SimpleNamespace) -> None:
    kept, gone, copied = (fill(features, made, settings={"size": size}) for size in (112, 96, 80))
    give_receipt(features, kept)
    give_receipt(features, copied, "an older one")
    (holding,) = prunable(features)
    assert holding.fingerprint == gone.recipe.fingerprint
    claim = gone.claim("d")
    assert claim is not None
    with claim:
        assert prunable(features) == []
        with pytest.raises(SettingError, match="is in use"):
            prune(holding)
    prune(holding)
    left = {one.fingerprint for one in list_holdings(features)}
    assert left == {kept.recipe.fingerprint, copied.recipe.fingerprint}
    assert prunable(features) == []
    assert {finding.store for finding in verify(features)} == {f"{features}/receipts/an older one.json"}


def test_an_unreadable_receipt_names_everything(features: Where, made: SimpleNamespace) -> None:
    fill(features, made)
    open_folder(features).write("receipts/mobilefacenet.json", b"{")
    assert prunable(features) == []


def test_leftovers_go(tmp_path: Path, made: SimpleNamespace) -> None:
    store = fill(tmp_path, made)
    (Path(store.group) / ".x.partial/c").mkdir(parents=True)
    claim = store.claim("x")
    assert claim is not None
    with claim:
        assert remove_leftovers(tmp_path) == []
    assert len(remove_leftovers(tmp_path)) == 1
    assert not list(Path(store.group).glob(".*"))


def test_recipes_in_words_and_their_differences(made: SimpleNamespace) -> None:
    other = replace(made.recipe, settings={"size": 96, "mean": {"r": 0.5}}, weights_sha256="random:0")
    assert describe(made.recipe) == (
        "mobilefacenet (visual), 8 numbers per frame as float16, weights 00ff, algorithm 1; size 112"
    )
    assert "weights random:0" in describe(other)
    assert compare(made.recipe, other) == {
        "settings.size": (112, 96),
        "weights_sha256": ("00ff", "random:0"),
        "settings.mean.r": (None, 0.5),
    }
    assert compare(made.recipe, made.recipe) == {}


def test_fingerprints_are_found_by_their_start_or_their_receipt(features: Where, made: SimpleNamespace) -> None:
    store = fill(features, made)
    fill(features, made, settings={"size": 96})
    give_receipt(features, store)
    for start in (store.recipe.fingerprint[:6], store.recipe.fingerprint, "mobilefacenet"):
        assert find_holding(features, start).open().recipe == store.recipe
    for start in ("", "nothing"):
        with pytest.raises(UnknownNameError, match="avfusion cache ls"):
            find_holding(features, start)


def test_failures_are_no_receipts(tmp_path: Path, made: SimpleNamespace) -> None:
    store = fill(tmp_path, made)
    give_receipt(tmp_path, store)
    (tmp_path / "mobilefacenet.failures.json").write_text(json.dumps({"a": "no sound"}))
    assert verify(tmp_path) == []
    assert list_holdings(tmp_path)[0].receipts == ("mobilefacenet",)


def test_what_a_newer_version_wrote_is_reported_and_left_alone(tmp_path: Path, made: SimpleNamespace) -> None:
    """One trial of a newer version does not hide what is wrong elsewhere, and prune keeps its fingerprint."""
    store = fill(tmp_path, made)
    other = fill(tmp_path, made, settings={"size": 96})
    path = Path(store.group) / "a/zarr.json"
    document = json.loads(path.read_text())
    document["attributes"][COMMIT] = sign(document["attributes"][COMMIT] | {"version": 2})
    path.write_text(json.dumps(document))
    (Path(other.group) / "b/c/0/0").write_bytes(b"short")
    found = {(finding.fingerprint, finding.trial): finding.text for finding in verify(tmp_path)}
    assert "has layout version 2" in found[store.recipe.fingerprint, ""]
    assert "is 5 bytes long" in found[other.recipe.fingerprint, "b"]
    assert [holding.fingerprint for holding in prunable(tmp_path)] == [other.recipe.fingerprint]


def test_a_receipt_of_the_same_content_stays(tmp_path: Path, made: SimpleNamespace) -> None:
    """So that a run with nothing to do ends well on a read-only store."""
    store = fill(tmp_path, made)
    give_receipt(tmp_path, store)
    inode = (tmp_path / "receipts/mobilefacenet.json").stat().st_ino
    give_receipt(tmp_path, store)
    assert (tmp_path / "receipts/mobilefacenet.json").stat().st_ino == inode
    made.write(store, "a", seed=5)
    give_receipt(tmp_path, store)
    assert (tmp_path / "receipts/mobilefacenet.json").stat().st_ino != inode
