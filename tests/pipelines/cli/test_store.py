"""The cache commands: what they print, what they refuse, how they exit."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cache.clock import FrameClock
from cache.errors import StoreError
from cache.recipe import Recipe
from cache.store.receipt import Receipt, save_unread
from cache.store.store import FeatureStore
from pipelines.cli.commands import avfusion

RECIPE = Recipe("facenet", "visual", 8, {"size": 160}, "ab12cd34ef56ab12")


def write(store: FeatureStore, trial_id: str) -> None:
    values = np.random.default_rng(0).normal(size=(20, 8))
    clock = FrameClock(Fraction(25), 20)
    store.write(trial_id, values, np.arange(20) > 3, source="s", clock=clock)


def fill(folder: Path, recipe: Recipe = RECIPE) -> FeatureStore:
    store = FeatureStore.create(folder / f"features/{recipe.name}.zarr", recipe)
    for trial_id in ("P1", "video 59"):
        write(store, trial_id)
    return store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    monkeypatch.chdir(tmp_path)
    store = fill(tmp_path)
    Receipt.of(store, store.trial_ids()).save(tmp_path / "features/receipts/facenet.json")
    return store


def run(*arguments: str) -> Result:
    return CliRunner().invoke(avfusion, ["cache", *arguments])


def run_json(*arguments: str, code: int = 0) -> object:
    result = run(*arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_ls(store: FeatureStore) -> None:
    (row,) = run_json("ls")
    assert row["fingerprint"] == store.recipe.fingerprint
    assert (row["trials"], row["frames"], row["receipts"]) == (2, 40, ["facenet"])
    assert row["bytes"] > 40 * 8 * 2
    said = "facenet (visual), 8 numbers per frame as float16, weights ab12cd34ef56, algorithm 1; size 160"
    assert row["made of"] == said
    assert said in run("info", "facenet").stdout
    output = run("ls").stdout
    assert store.recipe.fingerprint[:12] in output
    assert run("ls", "--features", "nowhere").stdout == ""


def test_info(store: FeatureStore) -> None:
    document = run_json("info", "facenet")
    assert document["recipe"]["settings"] == {"size": 160}
    assert [trial["invalid"] for trial in document["trials"]] == [4, 4]
    assert "settings.size" in run("info", store.recipe.fingerprint[:5]).stdout
    refused = run("info", "nothing")
    assert refused.exit_code == 1
    assert "'nothing' is no feature set in 'features', nor" in refused.stderr
    assert "expected e.g. facenet. See" in refused.stderr


def test_diff(store: FeatureStore, tmp_path: Path) -> None:
    other = fill(tmp_path, replace(RECIPE, settings={"size": 112}))
    rows = run_json("diff", store.recipe.fingerprint, other.recipe.fingerprint)
    assert rows == [{"setting": "settings.size", "first": 160, "second": 112}]
    assert run("diff", "facenet", "facenet").stderr == "They are the same.\n"


def test_what_mends_features_names_their_set_and_not_its_backbone(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "features/face.zarr", RECIPE)
    write(store, "P1")
    chunk = Path(store.group) / "P1/c/0/0"
    content = chunk.read_bytes()
    remedy = "'extract-features --backbone face'"
    chunk.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(StoreError, match=f"{remedy}; only this trial"):
        store.read("P1", check=True)
    chunk.unlink()
    with pytest.raises(StoreError, match=f"{remedy} again; only this trial"):
        FeatureStore(store.path, RECIPE.fingerprint).read("P1")
    with pytest.raises(StoreError, match=f"'P2' is not finished.*{remedy} again"):
        store.read("P2")
    Path(store.path, "zarr.json").write_bytes(b"")
    with pytest.raises(StoreError, match=f"is damaged.*{remedy} again"):
        FeatureStore(store.path, RECIPE.fingerprint)


def test_verify(store: FeatureStore) -> None:
    result = run("verify")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "1 fingerprint read, 0 faults.\n"
    chunk = Path(store.group) / "P1/c/0/0"
    chunk.write_bytes(bytes(320))
    (row,) = run_json("verify", code=1)
    assert (row["kind"], row["trial"]) == ("fault", "P1")
    assert row["what"].endswith(
        "Run 'avfusion cache verify --drop', then 'extract-features --backbone facenet'; only this trial is redone."
    )
    dropped = run("verify", "--drop")
    assert dropped.exit_code == 1
    assert "failing. Run 'extract-features --backbone facenet'; only this trial is redone." in dropped.stdout
    assert "--drop" not in dropped.stdout
    assert "Removed: trial 'P1'." in dropped.stderr
    write(store, "P1")
    assert run("verify").exit_code == 0


@pytest.mark.parametrize("content", [b"", b'{"attributes": {"avf', b"[]", b"\xff"])
def test_a_damaged_root_is_told_with_what_mends_it(store: FeatureStore, content: bytes) -> None:
    Path(store.path, "zarr.json").write_bytes(content)
    expected = "zarr.json' is damaged. Run 'extract-features --backbone facenet' again; what is finished is kept."
    for arguments in (["ls"], ["info", "facenet"], ["verify"]):
        result = run(*arguments)
        assert expected in result.stdout + result.stderr
        assert "No feature store" not in result.stdout + result.stderr
    assert run("verify").exit_code == 1
    assert FeatureStore.create(store.path, store.recipe).trial_ids() == ["P1", "video 59"]
    assert run("verify").exit_code == 0


def test_prune(store: FeatureStore, tmp_path: Path) -> None:
    other = fill(tmp_path, replace(RECIPE, settings={"size": 112}))
    shown = run("prune")
    assert shown.exit_code == 0
    assert other.recipe.fingerprint[:12] in shown.stdout
    assert store.recipe.fingerprint[:12] not in shown.stdout
    assert "Nothing was removed; add --yes." in shown.stderr
    assert Path(other.group).exists()
    assert "Removed 1 fingerprint with" in run("prune", "--yes").stderr
    assert not Path(other.group).exists()
    assert Path(store.group).exists()


@pytest.mark.parametrize("options", [(), ("--yes",)])
def test_prune_says_what_it_cannot_judge(store: FeatureStore, tmp_path: Path, options: tuple[str, ...]) -> None:
    other = fill(tmp_path, replace(RECIPE, settings={"size": 112}))
    (tmp_path / "features/receipts/facenet.json").write_text('{"fingerprint": "ab')
    result = run("prune", *options)
    assert result.exit_code == 0
    assert "Receipt 'features/receipts/facenet.json' cannot be read" in result.stderr
    assert "Run its extraction or import again" in result.stderr
    assert Path(other.group).exists()
    refused = run("prune", "--features", "nodir", *options)
    assert refused.exit_code == 1
    assert "No features in 'nodir'" in refused.stderr


@pytest.mark.parametrize("kind", ["hdf5", "muse", "npy", "zstd"])
def test_export_and_import(store: FeatureStore, tmp_path: Path, kind: str) -> None:
    assert run_json("export", "facenet", "out", "--to", kind) == [{"path": "out", "trials": 2}]
    (row,) = run_json("import", "out", "--from", kind, "--features", "again")
    assert row["fingerprint"] == store.recipe.fingerprint[:12]
    receipts = [tmp_path / place / "receipts/facenet.json" for place in ("features", "again")]
    assert receipts[0].read_bytes() == receipts[1].read_bytes()
    assert run("verify", "--features", "again").exit_code == 0


def test_features_may_be_anywhere(store: FeatureStore) -> None:
    assert run("export", "facenet", "out", "--to", "npy").exit_code == 0
    assert run("import", "out", "--from", "npy", "--features", "memory://cli").exit_code == 0
    (row,) = run_json("ls", "--features", "memory://cli")
    assert row["trials"] == 2
    assert run("verify", "--features", "memory://cli").exit_code == 0
    assert "pip install" in run("ls", "--features", "nosuch://cli").stderr


PARAMS = """corpus: {}
extract: {conv1d: {weights: random}, face: {backbone: mobilefacenet, weights: random}}
fusion: {seeds: [0], systems: {a: {model: rnn, modalities: {audio: read}}}}
"""


def test_sets_that_params_yaml_no_longer_names_are_left_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made_here = replace(RECIPE, input={"kind": "images", "version": 1})
    for name, recipe in {"face": made_here, "read": made_here, "old": made_here, "imported": RECIPE}.items():
        store = FeatureStore.create(tmp_path / f"features/{name}.zarr", recipe)
        write(store, "P1")
        Receipt.of(store, ["P1"]).save(tmp_path / f"features/receipts/{name}.json")
    save_unread(tmp_path / "features/receipts/unread.json")
    assert run("prune").stderr.startswith("0 fingerprints")  # outside a project nothing is left over
    (tmp_path / "params.yaml").write_text(PARAMS)
    notes = run_json("verify")
    assert [(row["kind"], Path(row["store"]).stem) for row in notes] == [("note", "old"), ("note", "unread")]
    assert all("avfusion cache prune" in row["what"] for row in notes)
    assert run_json("verify", "--features", str(tmp_path / "features")) == []  # may be another project's
    shown = run("prune")
    assert "old, unread" in shown.stderr
    assert "1 fingerprint with" in shown.stderr
    assert (tmp_path / "features/receipts/old.json").exists()
    assert "Removed 1 fingerprint with" in run("prune", "--yes").stderr
    assert sorted(path.name for path in (tmp_path / "features").glob("*.zarr")) == [
        "face.zarr",
        "imported.zarr",
        "read.zarr",
    ]
    assert sorted(path.stem for path in (tmp_path / "features/receipts").iterdir()) == ["face", "imported", "read"]
    assert run_json("verify") == []


def test_a_full_disk_is_told_and_leaves_nothing(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("35456 requested and 34752 written")

    monkeypatch.setattr(np, "save", full)
    refused = run("export", "facenet", "out", "--to", "npy")
    assert refused.exit_code == 1
    assert "'out' could not be written (35456 requested and 34752 written)" in refused.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["features"]


def test_usage_errors_exit_with_two(store: FeatureStore) -> None:
    refused = run("export", "facenet", "s3://bucket/out", "--to", "npy")
    assert refused.exit_code == 2
    assert "'s3://bucket/out' is a URL; expected" in refused.stderr
    assert run("export", "facenet", "out").exit_code == 2
    assert run("nothing").exit_code == 2


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x80\x04N.", b"PK\x05\x06" + bytes(18)])
@pytest.mark.parametrize("kind", ["npy", "muse", "hdf5", "zstd"])
def test_a_bad_import_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for suffix in ("npy", "csv", "json", "h5"):
        Path(f"in/v.{suffix}").write_bytes(content)
    result = run("import", "in/v.h5" if kind == "hdf5" else "in", "--from", kind, "--name", "my", "--modality", "audio")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: 'in")
    assert result.stderr.count("\n") == 1
    assert not Path("features").exists()


def test_ls_fits_a_terminal_and_info_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = fill(tmp_path, replace(RECIPE, settings={f"a_long_setting_{i}": "of many" for i in range(40)}))
    Receipt.of(store, store.trial_ids()).save(tmp_path / "features/receipts/facenet.json")
    fill(tmp_path, replace(RECIPE, name="mobilefacenet_tuned"))
    output = run("ls").stdout
    assert max(map(len, output.splitlines())) <= 80
    assert "mobilefacenet_tuned (no receipt)" in output
    assert "a_long_setting_39 of many" in run("info", "facenet").stdout


@pytest.mark.parametrize("given", ["features/facenet.zarr", "features/receipts/facenet.json"])
def test_features_are_found_by_a_path(store: FeatureStore, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in ([given], [str(Path(given).absolute()), "--features", "elsewhere"]):
        assert run_json("info", *arguments)["recipe"]["fingerprint"] == store.recipe.fingerprint
    assert run("diff", given, "facenet").stderr == "They are the same.\n"
    assert run("info", given.replace("facenet", "other")).exit_code == 1
