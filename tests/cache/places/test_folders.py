"""Everywhere that fsspec reaches, the store keeps the same promises."""

from __future__ import annotations

import ctypes
import errno
import gc
import pickle
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zarr

from cache.documents.documents import sign
from cache.errors import FingerprintError, MissingFileError, SettingError, StoreError, UnreachableError
from cache.places.folders import LocalFolder, RemoteFolder, Where, open_folder, replace_suffix, split_place
from cache.store import chunks
from cache.store.chunks import array_metadata
from cache.store.locks import holder, locks_place
from cache.store.receipt import Receipt, open_receipt
from cache.store.records import COMMIT
from cache.store.store import FeatureStore, fingerprints
from cache.store.verification import verify


def inside(features: Where, name: str) -> Where:
    return features / name if isinstance(features, Path) else f"{features}/{name}"


@pytest.fixture
def path(features: Where) -> Where:
    return inside(features, "mobilefacenet.zarr")


def test_reads_back_what_was_written(path: Where, made: SimpleNamespace) -> None:
    store = FeatureStore.create(path, made.recipe)
    for trial_id in ("video 59/left", "..", "P1"):
        made.write(store, trial_id)
    values, valid = made.features()
    again = FeatureStore(path, made.recipe.fingerprint)
    features = again.read("video 59/left", check=True)
    np.testing.assert_array_equal(features.embeddings, np.where(valid[:, None], values, 0).astype(np.float16))
    np.testing.assert_array_equal(features.valid, valid)
    assert again.trial_ids() == ["..", "P1", "video 59/left"]
    assert fingerprints(path) == [made.recipe.fingerprint]
    files = open_folder(path).child(f"{made.recipe.fingerprint}/P1").sizes()
    assert sorted(files) == ["c/0/0", "zarr.json"]
    assert files["c/0/0"] == 20 * 8 * 2


def test_slices_are_those_of_a_list(path: Where, made: SimpleNamespace) -> None:
    store = FeatureStore.create(path, made.recipe)
    made.write(store, "P1")
    whole = store.read("P1")
    for start, stop in ((3, 9), (0, None), (15, 99), (7, 7), (-5, None), (9, 3)):
        part = store.read("P1", start, stop)
        np.testing.assert_array_equal(part.embeddings, whole.embeddings[start:stop])
        np.testing.assert_array_equal(part.valid, whole.valid[start:stop])


def test_slices_across_chunks(path: Where, made: SimpleNamespace) -> None:
    store = FeatureStore.create(path, made.recipe)
    values = np.random.default_rng(0).normal(size=(65_537, 8)).astype(np.float16)
    store.write("long", values, np.ones(65_537, bool), source="s", clock=made.clock(65_537))
    for start, stop in ((32_768, 32_770), (0, 5), (32_769, 65_537), (65_536, None), (0, None), (65_537, 70_000)):
        np.testing.assert_array_equal(store.read("long", start, stop).embeddings, values[start:stop])
    store.read("long", check=True)


def test_zarr_reads_the_same_bytes(path: Where, made: SimpleNamespace) -> None:
    store = FeatureStore.create(path, made.recipe)
    made.write(store, "P1")
    group = zarr.open_group(open_folder(path).zarr_store(), mode="r")
    array = group[f"{made.recipe.fingerprint}/P1"]
    assert isinstance(array, zarr.Array)
    np.testing.assert_array_equal(array[:], store.read("P1").embeddings)
    assert array.metadata.dimension_names == ("frame", "embedding")
    assert array.attrs[COMMIT] == sign(store.record("P1").to_document())


def test_what_is_compressed_goes_through_zarr(path: Where, made: SimpleNamespace) -> None:
    """An archive that somebody compressed is the same store, only slower."""
    store = FeatureStore.create(path, made.recipe)
    made.write(store, "P1")
    before, record = store.read("P1").embeddings.copy(), store.record("P1")
    url = path if isinstance(path, Path) else zarr.storage.FsspecStore.from_url(path)
    array = zarr.create_array(
        url,
        name=f"{made.recipe.fingerprint}/P1",
        shape=before.shape,
        chunks=(7, 3),
        dtype="float16",
        fill_value=0,
        compressors=zarr.codecs.ZstdCodec(),
        overwrite=True,
        zarr_format=3,
        attributes={COMMIT: record.to_document()},
    )
    array[:] = before
    features = FeatureStore(path, made.recipe.fingerprint).read("P1", 3, 11, check=True)
    np.testing.assert_array_equal(features.embeddings, before[3:11])


def test_stores_opened_again_see_rewritten_trials_and_never_a_mixture(path: Where, made: SimpleNamespace) -> None:
    writer = FeatureStore.create(path, made.recipe)
    made.write(writer, "P1", 20)
    reader = FeatureStore(path, made.recipe.fingerprint)
    old = reader.read("P1")
    bytes_before = old.embeddings.tobytes()
    made.write(writer, "P1", 30, seed=1)
    assert len(writer.read("P1").valid) == 30
    assert len(FeatureStore(path, made.recipe.fingerprint).read("P1").valid) == 30
    assert old.embeddings.tobytes() == bytes_before
    assert len(reader.read("P1").valid) == 20
    assert len(reader.read("P1", check=True).valid) == 30


def test_receipts_lie_beside_the_store(path: Where, made: SimpleNamespace) -> None:
    receipt = replace_suffix(path, ".json")
    with pytest.raises(MissingFileError, match="--backbone mobilefacenet"):
        open_receipt(receipt)
    store = FeatureStore.create(path, made.recipe)
    for trial_id in ("b", "a"):
        made.write(store, trial_id)
    Receipt.of(store, ["a", "b"]).save(receipt)
    opened, loaded = open_receipt(receipt)
    assert list(loaded.trials) == opened.trial_ids() == ["a", "b"]
    made.write(store, "b", seed=3)
    with pytest.raises(FingerprintError, match="first: 'b'"):
        open_receipt(receipt)


@pytest.mark.parametrize("rewritten", [False, True])
def test_a_write_that_breaks_off_leaves_nothing_half_readable(
    path: Where, made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, rewritten: bool
) -> None:
    """Break at every step of a write in turn; what can be read before and after is a whole trial or none."""
    store = FeatureStore.create(path, made.recipe)
    made.write(store, "done")
    steps = 0
    while True:
        if rewritten:
            made.write(store, "P1", 20)
        with monkeypatch.context() as patch:
            broken = break_at(patch, steps)
            try:
                made.write(store, "P1", 30, seed=1)
            except OSError:
                pass
            else:
                break
            assert broken
        fresh = FeatureStore(path, made.recipe.fingerprint)
        assert "done" in fresh.trial_ids()
        if "P1" in fresh.trial_ids():
            assert len(fresh.read("P1", check=True).valid) in ((20, 30) if rewritten else (30,))
        else:
            with pytest.raises(StoreError, match="'P1' is not finished"):
                fresh.read("P1")
        open_folder(path).child(made.recipe.fingerprint).remove("P1")
        steps += 1
    assert steps >= 2
    assert len(FeatureStore(path, made.recipe.fingerprint).read("P1", check=True).valid) == 30
    assert store.trial_ids() == ["P1", "done"]
    assert not [name for name in open_folder(path).sizes() if "/." in name]


def break_at(patch: pytest.MonkeyPatch, step: int) -> list[int]:
    """Let the disk fail from the given file operation on; returns the list of operations that failed."""
    failed: list[int] = []
    count = 0

    def breaking(original):  # type: ignore[no-untyped-def]
        def run(*arguments, **options):  # type: ignore[no-untyped-def]
            nonlocal count
            count += 1
            if count > step:
                failed.append(count)
                raise OSError(28, "No space left on device")
            return original(*arguments, **options)

        return run

    import cache.places.folders as places

    for name in ("_write_synced", "sync_folder"):
        patch.setattr(places, name, breaking(getattr(places, name)))
    patch.setattr(places.RemoteFolder, "write", breaking(places.RemoteFolder.write))
    return failed


def test_a_truncated_chunk_is_refused(path: Where, made: SimpleNamespace) -> None:
    store = FeatureStore.create(path, made.recipe)
    made.write(store, "P1")
    open_folder(path).write(f"{made.recipe.fingerprint}/P1/c/0/0", b"x" * 100)
    with pytest.raises(StoreError, match="is 100 bytes long, expected 320 bytes"):
        FeatureStore(path, made.recipe.fingerprint).read("P1")


def test_an_array_whose_shape_belies_its_record_is_refused(path: Where, made: SimpleNamespace) -> None:
    store = FeatureStore.create(path, made.recipe)
    made.write(store, "P1")
    metadata = array_metadata((19, 8), "float16", {COMMIT: store.record("P1").to_document()})
    open_folder(path).write(f"{made.recipe.fingerprint}/P1/zarr.json", metadata)
    with pytest.raises(StoreError, match=r"has shape \[19, 8\] of float16, expected \[20, 8\]"):
        FeatureStore(path, made.recipe.fingerprint).read("P1")


def test_one_claim_at_a_time(path: Where, made: SimpleNamespace) -> None:
    first = FeatureStore.create(path, made.recipe)
    second = FeatureStore(path, made.recipe.fingerprint)
    claim = first.claim("P 1")
    assert claim is not None
    with claim:
        assert second.claim("P 1") is None
        other = second.claim("P2")
        assert other is not None
        other.release()
        said = holder(path, second.lock_name("P 1"))
        assert ("delete" in said, "free when that ends" in said) == (isinstance(path, str), isinstance(path, Path))
    assert holder(path, second.lock_name("P 1")) == ""
    again = second.claim("P 1")
    assert again is not None
    again.release()
    again.release()
    assert not [name for name in open_folder(split_place(str(path))[0].where).sizes() if ".locks" in name]


def test_stores_travel_to_other_processes(path: Where, made: SimpleNamespace) -> None:
    store = FeatureStore.create(path, made.recipe)
    made.write(store, "P1")
    store.read("P1")
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.read("P1").embeddings, store.read("P1").embeddings)


def test_open_trials_keep_no_file_open(tmp_path: Path, made: SimpleNamespace) -> None:
    store = FeatureStore.create(tmp_path / "a.zarr", made.recipe)
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else None
    for index in range(20):
        made.write(store, str(index))
    kept = [store.read(str(index)).embeddings for index in range(20)]
    if before is None:
        pytest.skip("open files are counted through /proc")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert len(kept) == 20


@pytest.mark.parametrize("refusal", [errno.ENODEV, None])
def test_where_files_cannot_be_mapped_they_are_read(
    tmp_path: Path, made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, refusal: int | None
) -> None:
    store = FeatureStore.create(tmp_path / "a.zarr", made.recipe)
    made.write(store, "P1")
    expected = store.read("P1").embeddings

    def refuse(*arguments: object) -> int | None:
        ctypes.set_errno(errno.ENODEV)
        return ctypes.c_void_p(-1).value

    if refusal is None:
        monkeypatch.setattr(chunks, "sys", SimpleNamespace(platform="win32"))
    else:
        monkeypatch.setattr(chunks, "_mmap", lambda: refuse)
    features = FeatureStore(tmp_path / "a.zarr", made.recipe.fingerprint).read("P1", check=True)
    np.testing.assert_array_equal(features.embeddings, expected)
    assert not features.embeddings.flags.writeable


def test_no_more_files_are_mapped_than_a_process_may_have(
    tmp_path: Path, made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FeatureStore.create(tmp_path / "a.zarr", made.recipe)
    names = [str(index) for index in range(5)]
    for name in names:
        made.write(store, name)
    expected = [store.read(name).embeddings for name in names]
    monkeypatch.setattr(chunks, "_MOST_MAPS", len(chunks._maps) + 2)
    again = FeatureStore(tmp_path / "a.zarr", made.recipe.fingerprint)
    kept = [again.read(name, check=True) for name in names]
    assert len(chunks._maps) == chunks._MOST_MAPS
    for features, own in zip(kept, expected, strict=True):
        np.testing.assert_array_equal(features.embeddings, own)
    del kept, again, features
    gc.collect()
    assert len(chunks._maps) == chunks._MOST_MAPS - 2


def test_paths_and_urls() -> None:
    assert isinstance(open_folder("a/b"), LocalFolder)
    assert isinstance(open_folder("file:///a/b"), LocalFolder)
    assert isinstance(open_folder("memory://a/b"), RemoteFolder)
    assert replace_suffix("s3://b/x.y/facenet.json", ".zarr") == "s3://b/x.y/facenet.zarr"
    assert replace_suffix("facenet.json", ".zarr") == "facenet.zarr"
    assert locks_place("facenet.zarr") == Path(".facenet.zarr.locks")
    assert split_place("facenet.json")[1] == "facenet.json"
    with pytest.raises(SettingError, match="pip install"):
        open_folder("nosuch://a/b")


class LibraryError(Exception):
    """What a library of object stores raises: no OSError, several lines."""


def test_a_server_that_does_not_answer_is_reported_in_one_sentence(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def fail(*_: object, **__: object) -> None:
        raise LibraryError("Unable to locate\ncredentials")

    store = FeatureStore.create("memory://unreachable/x.zarr", made.recipe)
    made.write(store, "P1")
    expected = "cannot be reached: Unable to locate credentials. Check the address, the credentials"
    for name in ("cat_file", "ls"):
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFileSystem, name, fail)
            with pytest.raises(UnreachableError, match=expected):
                FeatureStore("memory://unreachable/x.zarr", made.recipe.fingerprint).trial_ids()
            if name == "cat_file":
                with pytest.raises(UnreachableError):  # and never taken for damage, which would be dropped
                    store.is_whole("P1")
                with pytest.raises(UnreachableError):
                    verify("memory://unreachable")
    folder = pickle.loads(pickle.dumps(open_folder("memory://unreachable")))
    assert folder.folders() == ["x.zarr"]
    assert folder.read("nothing") is None


@pytest.mark.parametrize("pid", ["0", "-1", str(10**30), "4294967296", "x", "", "٣"])
def test_leftovers_that_name_no_process_are_removed(tmp_path: Path, pid: str) -> None:
    leftover = tmp_path / f".name.{socket.gethostname()}.{pid}"
    leftover.touch()
    LocalFolder(tmp_path).write("name", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]
