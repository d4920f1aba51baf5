"""HDF5 files by other programs: which datasets are features, and that nothing is opened through links."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache.errors import CorpusError, StoreError
from cache.formats.interchange import ImportOptions, export_features, import_features
from cache.store.store import FeatureStore

ROWS = np.arange(20, dtype=np.float32).reshape(5, 4)
Write = Callable[[h5py.File], object]


def make(folder: Path, write: Write) -> Path:
    with h5py.File(folder / "f.h5", "w") as file:
        file["good"] = ROWS
        write(file)
    return folder / "f.h5"


def load(path: Path) -> FeatureStore:
    store, _ = import_features(path, "hdf5", path.parent / "features", ImportOptions("my", "audio", rate="25"))
    return store


def refuse(path: Path) -> str:
    with pytest.raises(CorpusError) as caught:
        load(path)
    assert not (path.parent / "features").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["i8", "u1", "?", ">i4", "f8"])
def test_numbers_of_any_kind_are_features(tmp_path: Path, dtype: str) -> None:
    path = make(tmp_path, lambda file: file.__setitem__("deep/er", ROWS.astype(dtype)))
    store = load(path)
    assert store.trial_ids() == ["deep/er", "good"]
    np.testing.assert_array_equal(store.read("deep/er").embeddings, ROWS.astype(dtype).astype(np.float32))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (ROWS[0], "'odd' (float32 of shape (4,))"),
        (np.arange(5), "'odd' (int64 of shape (5,))"),
        (ROWS[None], "'odd' (float32 of shape (1, 5, 4))"),
        (ROWS[:0], "'odd' (float32 of shape (0, 4))"),
        (ROWS.astype(complex), "'odd' (complex128 of shape (5, 4))"),
        (np.zeros((5, 4), [("x", "f4")]), "'odd' ([('x', '<f4')] of shape (5, 4))"),
    ],
)
def test_datasets_that_are_not_features_are_named(tmp_path: Path, value: np.ndarray, text: str) -> None:
    sentence = refuse(make(tmp_path, lambda file: file.__setitem__("odd", value)))
    assert f"holds datasets that are not features: {text}; expected numbers (T, D)" in sentence


def test_other_widths_are_named(tmp_path: Path) -> None:
    sentence = refuse(make(tmp_path, lambda file: file.__setitem__("index", np.ones((5, 1), int))))
    assert "1 numbers (float32), e.g. 'index', 4 numbers (float32), e.g. 'good'" in sentence


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("some words", "'note' (text of shape ())"),
        (b"bytes", "'note' (text of shape ())"),
        (25.0, "'note' (float64 of shape ())"),
        (["a", "b"], "'note' (text of shape (2,))"),
        (h5py.Empty("f4"), "'note' (float32 of shape None)"),
    ],
)
def test_scalars_and_texts_are_left_out_with_a_warning(tmp_path: Path, value: object, text: str) -> None:
    path = make(tmp_path, lambda file: file.__setitem__("note", value))
    with pytest.warns(UserWarning, match=f"hold no features and are left out: .*{re.escape(text)}"):
        store = load(path)
    assert store.trial_ids() == ["good"]


def test_texts_alone_are_no_features(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["note"] = "words"
    assert "not features: 'note' (text of shape ())" in refuse(tmp_path / "f.h5")


def virtual(source: str) -> Write:
    def write(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((5, 4), "f4")
        layout[:] = h5py.VirtualSource(source, "good", (5, 4))
        file.create_virtual_dataset("far", layout)

    return write


ELSEWHERE: dict[str, tuple[Write, str]] = {
    "link": (
        lambda file: file.__setitem__("far", h5py.ExternalLink("secret.h5", "/x")),
        "'far' is a link to 'secret.h5'",
    ),
    "link within a group": (
        lambda file: file.create_group("a").__setitem__("far", h5py.ExternalLink("/etc/passwd", "/")),
        "'a/far' is a link to '/etc/passwd'",
    ),
    "raw": (
        lambda file: file.create_dataset("far", (5, 4), "f4", external=[("secret.bin", 0, h5py.h5f.UNLIMITED)]),
        "the numbers of 'far' lie in 'secret.bin'",
    ),
    "virtual": (virtual("secret.h5"), "the numbers of 'far' lie in 'secret.h5'"),
}


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_nothing_is_opened_in_other_files(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write, text = ELSEWHERE[name]
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = file["good"] = ROWS * 2
    (tmp_path / "secret.bin").write_bytes((ROWS * 2).tobytes())
    path = make(tmp_path, write)
    assert f"other files, which are not opened: {text}." in refuse(path)


@pytest.mark.parametrize("name", ["link", "raw", "virtual"])
def test_nor_in_a_file_of_ours(tmp_path: Path, made, name: str) -> None:  # type: ignore[no-untyped-def]
    store = FeatureStore.create(tmp_path / "ours/a.zarr", made.recipe)
    made.write(store, "a")
    export_features(store, ["a"], "hdf5", tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "a") as file:
        ELSEWHERE[name][0](file)
    assert "points to other files" in refuse(tmp_path / "f.h5")


def test_links_within_the_file_are_names_of_the_same(tmp_path: Path) -> None:
    def write(file: h5py.File) -> None:
        file["soft"] = h5py.SoftLink("/good")
        file["nowhere"] = h5py.SoftLink("/gone")
        file["loop"] = h5py.SoftLink("/loop")
        file["ring/one"] = h5py.SoftLink("/ring/two")
        file["ring/two"] = h5py.SoftLink("/ring/one")
        file["ring/up"] = file["/"]
        virtual(".")(file)

    store = load(make(tmp_path, write))
    assert store.trial_ids() == ["far", "good"]
    np.testing.assert_array_equal(store.read("far").embeddings, ROWS)


def test_torn_files_are_named(tmp_path: Path) -> None:
    content = make(tmp_path, lambda file: file.create_dataset("z", data=ROWS, compression="gzip")).read_bytes()
    for size in (0, 1, 8, 100, 600, len(content) // 2, len(content) - 1):
        (tmp_path / "f.h5").write_bytes(content[:size])
        assert "f.h5'" in refuse(tmp_path / "f.h5")


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bytes_never_end_in_a_traceback(tmp_path: Path, seed: int) -> None:
    path = make(tmp_path, lambda file: file.create_dataset("z", data=ROWS, compression="gzip"))
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    rng = np.random.default_rng(seed)
    content[rng.integers(0, len(content), 40)] = rng.integers(0, 256, 40)
    path.write_bytes(content.tobytes())
    with contextlib.suppress(CorpusError):  # a flip within the numbers is not noticed
        load(path)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda file: file.attrs.__delitem__("avfusion_version"), "The recipe in .* cannot be read"),
        (lambda file: file.attrs.__setitem__("avfusion_spec", "{"), "The recipe in .* cannot be read"),
        (lambda file: file.attrs.__setitem__("avfusion_spec", "[]"), "The recipe in .* cannot be read"),
        (lambda file: file.__delitem__("valid/a"), "Trial 'a' in .* cannot be read .*export it again"),
        (lambda file: file["embeddings/a"].attrs.__setitem__("rate", "1/0"), "Trial 'a' in .* cannot be read"),
        (lambda file: file["embeddings/a"].attrs.__setitem__("versions", "["), "Trial 'a' in .* cannot be read"),
    ],
)
def test_a_spoiled_file_of_ours_is_named(tmp_path: Path, made, spoil: Write, text: str) -> None:  # type: ignore[no-untyped-def]
    store = FeatureStore.create(tmp_path / "ours/a.zarr", made.recipe)
    made.write(store, "a")
    export_features(store, ["a"], "hdf5", tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "a") as file:
        spoil(file)
    with pytest.raises(StoreError, match=text):
        import_features(tmp_path / "f.h5", "hdf5", tmp_path / "features", ImportOptions())
