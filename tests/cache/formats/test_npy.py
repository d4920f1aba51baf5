"""Folders of npy files by other programs: what is read, and that each bad one is named in a sentence."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.errors import AvFusionError, CorpusError, StoreError, UnknownNameError
from cache.formats.interchange import ImportOptions, export_features, import_features
from cache.store.store import FeatureStore

OPTIONS = ImportOptions("egemaps", "audio", rate="25")
ROWS = np.arange(20, dtype=np.float32).reshape(5, 4)


def load(folder: Path, manifest: Manifest | None = None, name: str = "npy") -> FeatureStore:
    store, _ = import_features(folder, name, folder.parent / "features", OPTIONS, manifest)
    return store


def refuse(folder: Path, kind: type[AvFusionError] = CorpusError, manifest: Manifest | None = None) -> str:
    """The sentence; nothing may be left behind."""
    with pytest.raises(kind) as caught:
        load(folder, manifest)
    assert not (folder.parent / "features").exists()
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "npy"
    place.mkdir()
    np.save(place / "good.npy", ROWS)
    return place


def save_archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=ROWS)


def cut(content: bytes) -> bytes:
    return content[:-7]


def shout(content: bytes) -> bytes:
    return content.replace(b"(5, 4)", b"(5, -4")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "zero bytes": (lambda path: path.write_bytes(b""), "is empty (0 bytes)"),
    "0-d": (lambda path: np.save(path, np.float32(3)), "holds float32 of shape (); expected numbers (T, D)"),
    "1-d": (lambda path: np.save(path, ROWS[0]), "holds float32 of shape (4,)"),
    "3-d": (lambda path: np.save(path, ROWS[None]), "holds float32 of shape (1, 5, 4)"),
    "no rows": (lambda path: np.save(path, ROWS[:0]), "holds float32 of shape (0, 4)"),
    "no columns": (lambda path: np.save(path, ROWS[:, :0]), "holds float32 of shape (5, 0)"),
    "objects": (lambda path: np.save(path, ROWS.astype(object), allow_pickle=True), "Python objects"),
    "structured": (lambda path: np.save(path, np.zeros((5, 4), [("x", "f4")])), "holds [('x', '<f4')] of shape (5, 4)"),
    "texts": (lambda path: np.save(path, ROWS.astype(str)), "holds <U32 of shape (5, 4)"),
    "complex": (lambda path: np.save(path, ROWS.astype(complex)), "holds complex128 of shape (5, 4)"),
    "times": (lambda path: np.save(path, ROWS.astype("M8[s]")), "holds datetime64[s] of shape (5, 4)"),
    "npz": (lambda path: save_archive(path), "is an npz archive"),
    "pickle": (lambda path: path.write_bytes(ROWS.dumps()), "cannot be read as an npy file of numbers"),
    "words": (lambda path: path.write_text("no numbers"), "cannot be read as an npy file of numbers"),
    "folder": (lambda path: path.mkdir(), "(Is a directory)"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_file_is_named_in_one_sentence(folder: Path, name: str) -> None:
    write, text = BAD[name]
    write(folder / "bad.npy")
    sentence = refuse(folder)
    assert f"'{folder / 'bad.npy'}'" in sentence
    assert text in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "damage", [cut, shout, lambda c: c[:9], lambda c: c[:30], lambda c: c.replace(b"5,", b"5" * 40)]
)
def test_a_torn_file_is_named(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    (folder / "bad.npy").write_bytes(damage((folder / "good.npy").read_bytes()))
    assert f"'{folder / 'bad.npy'}' cannot be read as an npy file" in refuse(folder)


@pytest.mark.parametrize("dtype", ["i8", "u1", "?", ">f4", ">i2"])
def test_numbers_of_any_kind_are_features(folder: Path, dtype: str) -> None:
    np.save(folder / "other.npy", ROWS.astype(dtype))
    store = load(folder)
    np.testing.assert_array_equal(store.read("other").embeddings, ROWS.astype(dtype).astype(np.float32))
    assert store.recipe.dtype == "float32"


def test_hidden_files_are_not_looked_at_and_capitals_are(folder: Path) -> None:
    (folder / "valid").mkdir()
    for hidden in ("._good.npy", ".npy", "._mark.NPY", "valid/._good.npy"):
        (folder / hidden).write_bytes(b"\0\5\x16\7")
    (folder / "loud.NPY").write_bytes((folder / "good.npy").read_bytes())
    assert load(folder).trial_ids() == ["good", "loud"]
    (folder / "loud.npy").write_bytes((folder / "good.npy").read_bytes())
    with pytest.raises(CorpusError, match=r"'.*loud\.NPY' and '.*loud\.npy'.*Remove one"):
        load(folder)


@pytest.mark.parametrize("marks", [np.float32(1), np.ones(4), np.ones((5, 1)), np.array(list("abcde"))])
def test_marks_are_checked(folder: Path, marks: np.ndarray) -> None:
    (folder / "valid").mkdir()
    np.save(folder / "valid/good.npy", marks)
    sentence = refuse(folder)
    assert f"'{folder / 'valid/good.npy'}' holds {marks.dtype} of shape {marks.shape}; expected 5 marks" in sentence


def test_names_of_others_are_taken_as_they_are(folder: Path) -> None:
    np.save(folder / "a%20b.npy", ROWS)
    assert load(folder).trial_ids() == ["a%20b", "good"]


def test_our_own_names_are_decoded(tmp_path: Path, made) -> None:  # type: ignore[no-untyped-def]
    store = FeatureStore.create(tmp_path / "ours/a.zarr", made.recipe)
    ids = ["a b", "a%20b", ".hidden", "._c"]
    for trial_id in ids:
        made.write(store, trial_id)
    for kind in ("npy", "muse", "hdf5"):
        export_features(store, ids, kind, tmp_path / kind)
        again, _ = import_features(tmp_path / kind, kind, tmp_path / f"again {kind}")
        assert again.trial_ids() == sorted(ids)
    (tmp_path / "npy/a%2520b.npy").unlink()
    with pytest.raises(StoreError, match="Trial 'a%20b' .* has no file there. Export it again"):
        import_features(tmp_path / "npy", "npy", tmp_path / "again npy")


def manifest_of(*names: str) -> Manifest:
    return Manifest(Path("."), tuple(Trial(n, n, "", FrameClock(Fraction(25), 5), {}) for n in names))


@pytest.mark.parametrize(("ours", "theirs"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_names_match_in_any_unicode_form(tmp_path: Path, ours: str, theirs: str) -> None:
    name = unicodedata.normalize("NFC", "Zoë 한글")
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / f"{unicodedata.normalize(theirs, name)}.npy", ROWS)
    trial_id = unicodedata.normalize(ours, name)
    store = load(tmp_path / "npy", manifest_of(trial_id))
    assert store.trial_ids() == [trial_id]
    np.testing.assert_array_equal(store.read(trial_id).embeddings, ROWS)


def test_two_forms_of_one_name_are_refused(folder: Path) -> None:
    for form in ("NFC", "NFD"):
        np.save(folder / f"{unicodedata.normalize(form, 'é')}.npy", ROWS)
    sentence = refuse(folder, manifest=manifest_of("é", "good"))
    assert "has trial 'é' twice" in sentence
    assert len(load(folder).trial_ids()) == 3


def test_names_that_cannot_be_stored_are_refused(folder: Path) -> None:
    np.save(folder / f"{'x' * 245}.npy", ROWS)
    assert "makes a file name of 245 bytes" in refuse(folder, UnknownNameError)
    (folder / f"{'x' * 245}.npy").unlink()
    try:
        (folder / "a\udcff.npy").write_bytes((folder / "good.npy").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert "not UTF-8" in refuse(folder)


@pytest.mark.parametrize(
    "document", ["[]", "{}", '{"version": 1, "trials": []}', "[" * 100_000, "\x00", '{"version": "x"}']
)
def test_a_damaged_recipe_is_named(folder: Path, document: str) -> None:
    (folder / "avfusion.json").write_text(document)
    assert f"'{folder / 'avfusion.json'}'" in refuse(folder, StoreError)


def test_a_file_is_not_a_folder(folder: Path) -> None:
    with pytest.raises(CorpusError, match="good.npy' is not a folder; expected one"):
        load(folder / "good.npy")
