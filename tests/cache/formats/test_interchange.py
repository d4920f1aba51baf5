"""What goes out comes back the same, and what others wrote becomes a store like any other."""

from __future__ import annotations

import json
import resource
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import zarr

from cache.clock import FrameClock, PictureTimes
from cache.corpus.manifest import Manifest, Trial
from cache.documents.documents import sign
from cache.errors import CorpusError, MissingFileError, SettingError, StoreError, UnknownNameError
from cache.formats.interchange import FORMATS, ImportOptions, export_features, import_features
from cache.recipe import Recipe
from cache.store.feature_sets import name_of
from cache.store.receipt import Receipt, open_receipt
from cache.store.store import FeatureStore
from cache.store.verification import verify

IDS = ("video 59/left", "P1", "日本")
OPTIONS = ImportOptions("egemaps", "audio")
FOREIGN = sorted(FORMATS.keys() - {"zstd"})  # what other programs write too


@pytest.fixture(params=["float16", "float32"])
def store(request: pytest.FixtureRequest, tmp_path: Path, made: SimpleNamespace) -> FeatureStore:
    recipe = Recipe("mobilefacenet", "visual", 8, {"size": 112}, "00ff", dtype=request.param)
    store = FeatureStore.create(tmp_path / "features/mobilefacenet.zarr", recipe)
    for seed, trial_id in enumerate(IDS):
        made.write(store, trial_id, 20 + seed, seed)
    values, _ = made.features(20)
    clock = FrameClock(Fraction(25), 20, 1.5)
    store.write("unseen", values, np.zeros(20, bool), source="s", clock=clock, versions={"torch": "2"})
    times = PictureTimes(Fraction(1, 90000), (0, 3003, 3003, 9000, 9001, *range(20000, 50000, 2000)))
    clock = FrameClock(Fraction(30), 20, times=times)
    store.write("varying", values, np.arange(20) % 3 > 0, source="s", clock=clock)
    return store


def test_hdf5_holds_the_times_of_a_long_video(tmp_path: Path, made: SimpleNamespace) -> None:
    """More than the 64 KB of an attribute."""
    number = 30_000
    ticks = np.cumsum(np.random.default_rng(0).integers(2900, 3100, number)) - 3000
    clock = FrameClock(Fraction(30), number, times=PictureTimes(Fraction(1, 90000), (0, *ticks[1:].tolist())))
    assert len(str(clock.times)) > 100_000
    store = FeatureStore.create(tmp_path / "features/mobilefacenet.zarr", made.recipe)
    store.write("a", np.zeros((number, 8), np.float32), np.ones(number, bool), source="s", clock=clock)
    export_features(store, ["a"], "hdf5", tmp_path / "out.h5")
    again, _ = import_features(tmp_path / "out.h5", "hdf5", tmp_path / "again")
    assert again.record("a").clock == clock


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_out_and_back_is_the_same_store(store: FeatureStore, tmp_path: Path, kind: str) -> None:
    export_features(store, store.trial_ids(), kind, tmp_path / "out")
    again, receipt = import_features(tmp_path / "out", kind, tmp_path / "again")
    assert again.recipe == store.recipe
    assert again.find_records() == store.find_records()
    for trial_id in store.trial_ids():
        before, after = store.read(trial_id), again.read(trial_id, check=True)
        assert before.embeddings.tobytes() == after.embeddings.tobytes()
        np.testing.assert_array_equal(before.valid, after.valid)
    assert receipt == Receipt.of(store, store.trial_ids())
    opened, _ = open_receipt(tmp_path / "again/receipts/mobilefacenet.json")
    assert opened.trial_ids() == store.trial_ids()
    stamps = {path: path.stat().st_ino for path in (tmp_path / "again").rglob("zarr.json")}
    import_features(tmp_path / "out", kind, tmp_path / "again")
    assert all(path.stat().st_ino == inode for path, inode in stamps.items())


@pytest.mark.parametrize("kind", sorted(FORMATS))
@pytest.mark.parametrize("room", [0, 20, 700, 1500, 3000])
def test_a_full_disk_leaves_nothing_of_an_export(
    store: FeatureStore, tmp_path: Path, kind: str, room: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files stands in for the disk; HDF5 may only notice when it closes its file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    export_features(store, IDS, kind, tmp_path / "whole")
    whole = tmp_path / "whole"
    sizes = [path.stat().st_size for path in (whole, *whole.rglob("*")) if path.is_file()]
    if room >= max(sizes):
        pytest.skip("it fits")
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(
            StoreError, match=r"far/out' could not be written \(File too large\)\. Nothing of it was kept"
        ):
            export_features(store, IDS, kind, tmp_path / "far/out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "far").iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_a_file_in_the_way_of_an_export_is_named(store: FeatureStore, tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(StoreError, match=r"file/out' could not be written \((Not a directory|File exists)\)"):
        export_features(store, IDS, kind, tmp_path / "file/out")


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_exports_never_write_over_anything(store: FeatureStore, tmp_path: Path, kind: str) -> None:
    export_features(store, ["P1"], kind, tmp_path / "out")
    with pytest.raises(SettingError, match="never writes over anything"):
        export_features(store, ["P1"], kind, tmp_path / "out")


def test_hdf5_has_one_dataset_per_trial_with_its_attributes(store: FeatureStore, tmp_path: Path) -> None:
    export_features(store, IDS, "hdf5", tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert len(file["embeddings"]) == len(file["valid"]) == 3
        dataset = file["embeddings/video%2059%2Fleft"]
        assert dataset.attrs["trial_id"] == "video 59/left"
        assert (dataset.attrs["rate"], dataset.attrs["num_frames"]) == ("30000/1001", 20)
        assert dataset.attrs["source"] == "source of video 59/left"
        np.testing.assert_array_equal(file["valid/video%2059%2Fleft"][:], store.read("video 59/left").valid)


def test_muse_csv_looks_like_one(store: FeatureStore, tmp_path: Path) -> None:
    export_features(store, ["unseen", "P1"], "muse", tmp_path / "out")
    lines = (tmp_path / "out/P1.csv").read_text().splitlines()
    assert lines[0] == "timestamp,segment_id,f0,f1,f2,f3,f4,f5,f6,f7"
    assert lines[1].startswith("0,1,")
    assert len(lines) == 22
    assert (tmp_path / "out/unseen.csv").read_text().splitlines()[1] == "1500,1" + 8 * ",nan"


def test_an_archive_is_a_compressed_folder_of_features(store: FeatureStore, tmp_path: Path) -> None:
    """It is verified, trained from and read by plain zarr in its place, and damage is noticed."""
    export_features(store, store.trial_ids(), "zstd", tmp_path / "out")
    receipt = tmp_path / "out/receipts/mobilefacenet.json"
    assert Receipt.load(receipt) == Receipt.of(store, store.trial_ids())
    archive, _ = open_receipt(receipt)
    for trial_id in store.trial_ids():
        whole, part = archive.read(trial_id, check=True), archive.read(trial_id, 3, 11)
        assert whole.embeddings.tobytes() == store.read(trial_id).embeddings.tobytes()
        assert part.embeddings.tobytes() == whole.embeddings[3:11].tobytes()
    array = zarr.open_array(f"{archive.group}/P1", mode="r")
    assert [codec.to_dict()["name"] for codec in array.metadata.codecs] == ["bytes", "zstd"]
    assert array[:].tobytes() == store.read("P1").embeddings.tobytes()
    assert (Path(archive.group) / "unseen/c/0/0").stat().st_size < 60
    assert verify(tmp_path / "out") == []


@pytest.mark.parametrize("damage", ["truncated", "absent", "flipped"])
def test_a_damaged_archive_is_noticed(store: FeatureStore, tmp_path: Path, damage: str) -> None:
    export_features(store, ["P1", "unseen"], "zstd", tmp_path / "out")
    archive, _ = open_receipt(tmp_path / "out/receipts/mobilefacenet.json")
    chunk = Path(archive.group) / "P1/c/0/0"
    content = chunk.read_bytes()
    chunk.unlink()
    if damage != "absent":
        half = len(content) // 2
        flipped = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        chunk.write_bytes(content[:half] if damage == "truncated" else flipped)
    assert [archive.is_whole(trial_id) for trial_id in ("P1", "unseen")] == [False, True]
    (finding,) = verify(tmp_path / "out")
    assert (finding.trial, finding.damaged) == ("P1", True)
    if damage == "absent":  # plain zarr would read zeros
        with pytest.raises(StoreError, match="c/0/0' is absent"):
            archive.read("P1", 0, 1)
    with pytest.raises(StoreError, match="'extract-features --backbone mobilefacenet'.* only this trial"):
        archive.read("P1", check=True)
    with pytest.raises(StoreError):
        import_features(tmp_path / "out", "zstd", tmp_path / "again")


def test_importing_again_repairs_a_damaged_trial(tmp_path: Path) -> None:
    foreign(tmp_path)
    options = replace(OPTIONS, rate="25")
    store, receipt = import_features(tmp_path / "npy", "npy", tmp_path / "features", options)
    (Path(store.group) / "a/c/0/0").write_bytes(b"short")
    (finding,) = verify(tmp_path / "features")
    assert "Run 'avfusion cache import' again; only this trial is redone." in finding.text
    again, same = import_features(tmp_path / "npy", "npy", tmp_path / "features", options)
    assert same == receipt
    assert verify(tmp_path / "features") == []
    export_features(again, ["a", "b"], "npy", tmp_path / "out")
    (Path(again.group) / "b/c/0/0").unlink()
    import_features(tmp_path / "out", "npy", tmp_path / "features")
    assert verify(tmp_path / "features") == []


def test_altered_exports_are_refused(store: FeatureStore, tmp_path: Path) -> None:
    export_features(store, ["P1"], "npy", tmp_path / "out")
    values = np.load(tmp_path / "out/P1.npy")
    np.save(tmp_path / "out/P1.npy", values * 2)
    with pytest.raises(StoreError, match="'P1' in '.*' differs from the digest .* '--name' and '--modality'"):
        import_features(tmp_path / "out", "npy", tmp_path / "again")
    (tmp_path / "out/avfusion.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        import_features(tmp_path / "out", "npy", tmp_path / "again")


def test_an_altered_store_is_not_exported(store: FeatureStore, tmp_path: Path) -> None:
    chunk = Path(store.group) / "P1/c/0/0"
    content = bytearray(chunk.read_bytes())
    content[7] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(StoreError, match="differ from their digest"):
        export_features(store, ["P1"], "npy", tmp_path / "out")
    with pytest.raises(UnknownNameError, match="Unknown finished trial 'P11'; .* Did you mean 'P1'"):
        export_features(store, ["P11"], "npy", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features"]


def foreign(folder: Path) -> dict[str, np.ndarray]:
    """Features of another program: an npy folder, the same as HDF5, and the same as MuSe CSV."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(num, 4)).astype(np.float32) for name, num in (("a", 30), ("b", 40))}
    arrays["b"][5] = 0
    arrays["b"][7] = np.nan
    (folder / "npy").mkdir(parents=True)
    (folder / "muse").mkdir()
    with h5py.File(folder / "hdf5", "w") as file:
        for name, array in arrays.items():
            np.save(folder / "npy" / f"{name}.npy", array)
            file[name] = array
            rows = [
                f"{40 * i},3," + ",".join("" if np.isnan(v) else repr(float(v)) for v in row)
                for i, row in enumerate(array)
                if not (name == "b" and i in (0, 39))
            ]
            header = "timestamp,segment_id,0,1,2,3\n"
            (folder / f"muse/{name}.csv").write_text(header + "\n".join(rows) + "\n")
    return arrays


def manifest_of(lengths: dict[str, int]) -> Manifest:
    trials = (Trial(name, name, "", FrameClock(Fraction(25), num), {}) for name, num in lengths.items())
    return Manifest(Path("."), tuple(trials))


@pytest.mark.parametrize("kind", FOREIGN)
def test_features_of_others_become_a_store(tmp_path: Path, kind: str) -> None:
    arrays = foreign(tmp_path)
    manifest = manifest_of({"a": 30, "b": 40})
    store, receipt = import_features(tmp_path / kind, kind, tmp_path / "features", OPTIONS, manifest)
    assert (store.recipe.name, store.recipe.modality, store.recipe.dim) == ("egemaps", "audio", 4)
    assert list(receipt.trials) == ["a", "b"]
    opened, _ = open_receipt(tmp_path / "features/receipts/egemaps.json")
    features = opened.read("b", check=True)
    assert opened.record("b").clock == FrameClock(Fraction(25), 40)
    absent = [0, 7, 39] if kind == "muse" else [7]
    assert np.flatnonzero(~features.valid).tolist() == absent
    np.testing.assert_array_equal(features.embeddings[features.valid], arrays["b"][features.valid])
    np.testing.assert_array_equal(opened.read("a").embeddings, arrays["a"])


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    arrays = foreign(tmp_path)
    manifest = manifest_of({"a": 30, "b": 40})
    first, _ = import_features(tmp_path / "npy", "npy", tmp_path / "features", OPTIONS, manifest)
    again, _ = import_features(tmp_path / "npy", "npy", tmp_path / "elsewhere", OPTIONS, manifest)
    assert first.recipe.fingerprint == again.recipe.fingerprint
    arrays["a"][0, 0] += 1
    np.save(tmp_path / "npy/a.npy", arrays["a"])
    other, _ = import_features(tmp_path / "npy", "npy", tmp_path / "features", OPTIONS, manifest)
    assert other.recipe.fingerprint != first.recipe.fingerprint
    opened, _ = open_receipt(tmp_path / "features/receipts/egemaps.json")
    assert opened.recipe.fingerprint == other.recipe.fingerprint


def test_zeros_may_mean_missing(tmp_path: Path) -> None:
    foreign(tmp_path)
    options = ImportOptions("egemaps", "audio", rate="25", dtype="float16", zeros_missing=True)
    store, _ = import_features(tmp_path / "npy", "npy", tmp_path / "features", options)
    assert np.flatnonzero(~store.read("b").valid).tolist() == [5, 7]
    assert store.recipe.dtype == "float16"


@pytest.mark.parametrize(
    ("rate", "step"), [(Fraction(25), 40.0), (Fraction(30000, 1001), None), (Fraction(2), 500.0), (Fraction(4), 250.0)]
)
def test_rates_are_read_from_timestamps(tmp_path: Path, rate: Fraction, step: float | None) -> None:
    times = [round(1000 * float(i / rate)) if step is None else step * i for i in range(500)]
    rows = "\n".join(f"{time},1,{i}" for i, time in enumerate(times))
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv/a.csv").write_text(f"timestamp,segment_id,f0\n{rows}\n")
    store, _ = import_features(tmp_path / "csv", "muse", tmp_path / "features", OPTIONS)
    assert store.record("a").clock == FrameClock(rate, 500)


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_row_or_two_off_the_clock_are_fitted_and_counted(tmp_path: Path, kind: str) -> None:
    arrays = foreign(tmp_path)
    manifest = manifest_of({"a": 28, "b": 41 if kind != "muse" else 40})
    with pytest.warns(UserWarning, match=r"trials of .* had more rows .* 'a' \(\+2\)"):
        store, _ = import_features(tmp_path / kind, kind, tmp_path / "features", OPTIONS, manifest)
    np.testing.assert_array_equal(store.read("a").embeddings, arrays["a"][:28])
    if kind != "muse":  # whose rows have times: absent ones were never seen
        np.testing.assert_array_equal(store.read("b").embeddings[[39, 40]], arrays["b"][[39, 39]])
        assert store.read("b").valid[40]


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    foreign(tmp_path)
    np.save(tmp_path / "npy/c.npy", np.zeros((5, 3), np.float16))
    manifest = manifest_of({"a": 33, "b": 40, "d": 5})
    with pytest.raises(CorpusError) as caught:
        import_features(tmp_path / "npy", "npy", tmp_path / "features", replace(OPTIONS, rate="25"), manifest)
    for text in (
        "'d' of the manifest is absent",
        "'c' is not in the manifest",
        "'a' has 30 rows, expected 33",
        "3 numbers (float16), e.g. 'c', 4 numbers (float32), e.g. 'a'",
    ):
        assert text in str(caught.value)


@pytest.mark.parametrize("name", ["../../esc", "a/b c", ".hidden", "a b", ".."])
def test_names_that_leave_or_hide_are_refused_before_anything_is_written(
    store: FeatureStore, tmp_path: Path, name: str
) -> None:
    foreign(tmp_path)
    with pytest.raises(SettingError, match="cannot name a folder.*'--name'"):
        import_features(tmp_path / "npy", "npy", tmp_path / "x/again", ImportOptions(name, "audio", rate="25"))
    export_features(store, ["P1"], "npy", tmp_path / "out")
    sidecar = tmp_path / "out/avfusion.json"
    document = json.loads(sidecar.read_text())
    document["spec"]["name"] = name
    sidecar.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="avfusion.json' is damaged"):
        import_features(tmp_path / "out", "npy", tmp_path / "x/again")
    sidecar.write_text(json.dumps(sign(document)))
    with pytest.raises(SettingError, match="cannot name a folder.*'--name'"):
        import_features(tmp_path / "out", "npy", tmp_path / "x/again")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", ["npy", "zstd"])
def test_what_we_exported_comes_back_under_its_own_name_or_another(
    store: FeatureStore, tmp_path: Path, kind: str
) -> None:
    shutil.copytree(str(store.path), tmp_path / "features/face_tuned.zarr")
    tuned = FeatureStore(tmp_path / "features/face_tuned.zarr", store.recipe.fingerprint)
    export_features(tuned, ["P1"], kind, tmp_path / "out")
    imported, _ = import_features(tmp_path / "out", kind, tmp_path / "again")
    assert name_of(imported.path) == ("face_tuned" if kind == "zstd" else store.recipe.name)
    import_features(tmp_path / "out", kind, tmp_path / "again", ImportOptions("third"))
    assert open_receipt(tmp_path / "again/receipts/third.json")[0].recipe == store.recipe


@pytest.mark.parametrize(
    ("dtype", "value", "remedy"), [("float16", 1e5, "--dtype float32"), ("", -1e300, "scale the column")]
)
def test_numbers_too_large_for_the_precision_are_reported_before_anything_is_written(
    tmp_path: Path, dtype: str, value: float, remedy: str
) -> None:
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy/a.npy", np.zeros((5, 2)))
    rows = np.zeros((5, 2))
    rows[3, 1] = value
    np.save(tmp_path / "npy/b.npy", rows)
    with pytest.raises(CorpusError, match=f"trial 'b' has -?1e\\+.* in row 3, column 1, .* ends at .*{remedy}"):
        import_features(tmp_path / "npy", "npy", tmp_path / "x", ImportOptions("my", "audio", rate="25", dtype=dtype))
    assert not (tmp_path / "x").exists()


def test_rows_that_meet_on_one_frame_are_refused(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv/a.csv").write_text("timestamp,segment_id,f0\n0,1,1\n40,1,2\n41,1,3\n")
    with pytest.raises(CorpusError, match="two rows for one frame"):
        import_features(tmp_path / "csv", "muse", tmp_path / "features", OPTIONS, manifest_of({"a": 3}))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("time,f0\n1,2\n", "Give a MuSe feature file"),
        ("timestamp,segment_id,f0\n", "Give a MuSe feature file"),
        ("timestamp,segment_id,f0\n0,1,x\n", "x.*Fix the row"),
        ("timestamp,segment_id,f0\n0,1,1\n", "The 1 timestamps .* up to 240 Hz"),
        ("timestamp,segment_id,f0\n0,1,1\n0,1,2\n", "up to 240 Hz"),
        ("timestamp,segment_id,f0\n0,1,1\n40,1,2\n41,1,2\n80,1,2\n120,1,2\n", "up to 240 Hz"),
    ],
)
def test_broken_csv_is_refused(tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv/a.csv").write_text(content)
    with pytest.raises(CorpusError, match=text):
        import_features(tmp_path / "csv", "muse", tmp_path / "features", OPTIONS)


def test_what_is_not_said_is_asked_for(tmp_path: Path) -> None:
    foreign(tmp_path)
    features = tmp_path / "features"
    with pytest.raises(SettingError, match="--name"):
        import_features(tmp_path / "npy", "npy", features)
    with pytest.raises(SettingError, match="--rate"):
        import_features(tmp_path / "npy", "npy", features, OPTIONS)
    with pytest.raises(SettingError, match="Rate 'fast'"):
        import_features(tmp_path / "npy", "npy", features, ImportOptions("x", "audio", rate="fast"))
    with pytest.raises(MissingFileError, match="does not exist"):
        import_features(tmp_path / "none", "npy", features, OPTIONS)
    with pytest.raises(UnknownNameError, match="Did you mean 'hdf5'"):
        import_features(tmp_path / "npy", "hdf", features, OPTIONS)
    with pytest.raises(CorpusError, match="cannot be read as an HDF5 file"):
        import_features(tmp_path / "npy/a.npy", "hdf5", features, OPTIONS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="'.*empty' is a folder; expected an HDF5 file"):
        import_features(tmp_path / "empty", "hdf5", features, OPTIONS)
    with pytest.raises(CorpusError, match="holds no features in format 'npy'"):
        import_features(tmp_path / "empty", "npy", features, OPTIONS)
    np.save(tmp_path / "empty/a.npy", np.arange(5))
    with pytest.raises(CorpusError, match=r"holds int64 of shape \(5,\); expected numbers"):
        import_features(tmp_path / "empty", "npy", features, OPTIONS)
    assert not features.exists() or not list(features.rglob("*.json"))
    with pytest.raises(CorpusError, match="holds 0 fingerprints .none., expected 1"):
        import_features(tmp_path / "npy", "zstd", features, OPTIONS)
    assert json.dumps(sorted(FORMATS)) == '["hdf5", "muse", "npy", "zstd"]'
