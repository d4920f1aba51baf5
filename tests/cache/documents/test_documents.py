"""The door for documents and arrays: what was written comes back, and anything else is one error with its remedy."""

from __future__ import annotations

import io
import json
import os
import re
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cache.clock import FrameClock, PictureTimes
from cache.corpus.folds import Fold, load_folds, save_folds
from cache.corpus.manifest import Manifest, Trial
from cache.documents.arrays import format_array, format_arrays, read_array, read_arrays
from cache.documents.documents import (
    ClockPart,
    Document,
    Number,
    check_document,
    digest_bytes,
    read_document,
    sign,
    write_document,
    write_file,
)
from cache.errors import CorpusError, StoreError
from cache.store.receipt import Receipt
from cache.store.store import FeatureStore
from cache.store.verification import verify

REMEDY = "Run 'it' again."


class Page(Document):
    number: Number
    name: str
    share: float
    rows: list[dict[str, int]]


CONTENT = {"number": 3, "name": "Zoë", "share": 0.5, "rows": [{"a": 1}, {"b": 2}]}


def flips(content: bytes) -> list[bytes]:
    """Every single bit flipped, and every length cut off."""
    flipped = [
        content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
        for place in range(len(content))
        for bit in range(8)
    ]
    return flipped + [content[:length] for length in range(len(content) - 1)]


def outcome(read: Callable[[], object]) -> tuple[object, str]:
    """What was read, or the text of the error."""
    try:
        return read(), ""
    except (StoreError, CorpusError) as error:
        return None, str(error)


def test_a_document_comes_back_with_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "deep/page.json"
    assert read_document(path, Page, REMEDY) is None
    write_document(path, Page, CONTENT)
    found = read_document(path, Page, REMEDY)
    assert found == Page(**sign(CONTENT))
    text = path.read_text(encoding="utf-8")
    assert "Zoë" in text
    assert json.loads(text)["digest"] == sign(CONTENT)["digest"]
    with pytest.raises(ValueError, match=r"number: .*-1|number: expected greater"):
        write_document(path, Page, {**CONTENT, "number": -1})


def test_every_flipped_bit_and_every_cut_is_refused_or_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "page.json"
    write_document(path, Page, CONTENT)
    whole, expected = path.read_bytes(), read_document(path, Page, REMEDY)
    for content in flips(whole):
        path.write_bytes(content)
        found, told = outcome(lambda: read_document(path, Page, REMEDY))
        assert found == expected or re.fullmatch(rf"'{path}' is damaged \([^\n]+\). {REMEDY}", told), told


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "EOF while parsing"),
        (b"\xff\xfe{\x00}\x00", "expected value"),
        ("{}".encode("utf-16"), "expected value"),
        (b"[" * 100_000, "recursion limit"),
        (b'{"rows": ' + b'{"a":' * 5000, "recursion limit"),
        (b'{"number": ' + b"9" * 6000 + b"}", "number out of range"),
        (b'{"number": ' + b"9" * 4000 + b', "name": "", "share": 0, "rows": []}', "number: expected less than"),
        (b'{"number": NaN}', "expected value"),
        (b'{"number": 1, "name": "", "share": 1e999, "rows": []}', "share: expected a finite number"),
        (b"[]", "it holds list"),
        (b"null", "it holds NoneType"),
        (b"{}", "and 1 more"),
        (b'{"number": "3", "name": 3, "share": true, "rows": {}}', "number: expected a valid integer"),
        (b'{"number": 1, "name": "", "share": 1, "rows": [], "more": 1}', "more: Extra inputs"),
        (b'{"number": 1, "name": "\\ud800", "share": 1, "rows": []}', "hex escape"),
        (b'{"number": 1, "name": "", "share": 1, "rows": [], "digest": "0"}', "its digest"),
    ],
)
def test_whatever_is_wrong_is_one_error(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "page.json"
    path.write_bytes(content)
    with pytest.raises(CorpusError) as caught:
        read_document(path, Page, REMEDY, CorpusError)
    assert str(caught.value).startswith(f"'{path}' is damaged (")
    assert text in str(caught.value)
    assert str(caught.value).endswith(f" {REMEDY}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


def test_a_document_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "page.json"
    path.touch()
    os.truncate(path, 1 << 40)  # takes no room on disk
    with pytest.raises(StoreError, match="1099511627776 bytes, expected at most 268435456"):
        read_document(path, Page, REMEDY)


def test_files_are_replaced_and_never_written_into(tmp_path: Path) -> None:
    """A second name of a file, such as one in DVC's cache, keeps its bytes."""
    trial = Trial("a", "a", "train", FrameClock(Fraction(25), 3), {}, np.zeros((3, 2), np.float32))
    Manifest(tmp_path, (trial,)).save(tmp_path)
    for name in ("manifest.json", "labels.npy"):
        os.link(tmp_path / name, tmp_path / f"link of {name}")
    before = {name: (tmp_path / name).read_bytes() for name in ("manifest.json", "labels.npy")}
    Manifest(tmp_path, (replace(trial, labels=np.ones((3, 2), np.float32)),)).save(tmp_path)
    for name, content in before.items():
        assert (tmp_path / f"link of {name}").read_bytes() == content != (tmp_path / name).read_bytes()
    stamp = (tmp_path / "labels.npy").stat()
    write_file(tmp_path / "labels.npy", (tmp_path / "labels.npy").read_bytes())
    assert (tmp_path / "labels.npy").stat() == stamp


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rate": "25/0"}, "rate: String should match pattern"),
        ({"rate": "-25"}, "rate"),
        ({"rate": f"1{'0' * 5000}"}, "rate"),
        ({"num_frames": 0}, "num_frames: .* 1"),
        ({"num_frames": 1 << 40}, "num_frames: .* 2147483648"),
        ({"start_s": "0"}, "start_s: expected a valid number"),
        ({"times": "1/30: 4294967295x1"}, "times of 4294967296 pictures"),
        ({"times": "1/30: 2x999999999999999999999"}, "times: String should match pattern"),
        ({"times": "1/30: 2x-1"}, "times: String should match pattern"),
    ],
)
def test_impossible_clocks_are_refused_before_anybody_writes_them_out(change: dict[str, object], text: str) -> None:
    clock = FrameClock(Fraction(25), 3, 0.5, PictureTimes(Fraction(1, 30), (0, 1, 3)))
    assert check_document(clock.to_document(), ClockPart).clock == clock
    with pytest.raises(ValueError, match=text):
        check_document({**clock.to_document(), **change}, ClockPart)


def promise(shape: str, dtype: str = "<f4", numbers: bytes = bytes(24)) -> bytes:
    """An npy file whose header promises an array."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + numbers


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            promise("(1000000000000, 2)"),
            r"it holds float32 of shape \(1000000000000, 2\), expected float32 of shape \(3, 2\)",
        ),
        (promise("(3, 2)", "|O"), "it holds object"),
        (promise("(3, 2)", "<i4"), "it holds int32"),
        (promise("(3, 2)", numbers=bytes(20)), "bytes, expected 24 to 4120|20 bytes of numbers"),
        (promise("(3, 2)", numbers=bytes(28)), "28 bytes of numbers, expected 24"),
        (promise("(3, 2" + "(" * 300), "its header cannot be read"),
        (b"nothing of numpy's, but long enough", "magic string is not correct"),
        (b"\x93NUMPY\x03\x00" + bytes(60), "another version"),
        (bytes(10), "10 bytes, expected 24 to 4120"),
        (bytes(10_000), "10000 bytes, expected 24 to 4120"),
    ],
)
def test_arrays_take_nothing_from_their_own_header(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "labels.npy"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(StoreError, match=rf"labels.npy' is damaged \(.*({text}).* {REMEDY}"):
            read_array(path, "<f4", (3, 2), digest_bytes(content), REMEDY)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_every_flipped_bit_of_an_array_is_refused(tmp_path: Path) -> None:
    path, array = tmp_path / "labels.npy", np.arange(6, dtype=np.float32).reshape(3, 2)
    whole = format_array(array)
    path.write_bytes(whole)
    np.testing.assert_array_equal(np.load(path), array)
    found = read_array(path, "<f4", (3, 2), digest_bytes(whole), REMEDY)
    np.testing.assert_array_equal(found, array)
    assert found.flags.writeable
    for content in flips(whole):
        path.write_bytes(content)
        with pytest.raises(StoreError, match="is damaged"):
            read_array(path, "<f4", (3, 2), digest_bytes(whole), REMEDY)
    path.unlink()
    with pytest.raises(StoreError, match="it is absent"):
        read_array(path, "<f4", (3, 2), digest_bytes(whole), REMEDY)


SHAPES = {"file": (3, 2), "b": (2, 2), "c": (1, 2)}


def test_arrays_by_name(tmp_path: Path) -> None:
    arrays = {name: np.full(SHAPES[name], 0.5, np.float32) for name in ("file", "b")}
    path, content = tmp_path / "a.npz", format_arrays(arrays)
    path.write_bytes(content)
    found = read_arrays(path, "<f4", SHAPES, digest_bytes(content), REMEDY)
    assert found.keys() == arrays.keys()
    with np.load(path) as archive:
        np.testing.assert_array_equal(archive["file"], found["file"])
    for damaged in (content[:-1], content + b"x", content[:70] + b"\x00" + content[71:], b""):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=f"a.npz' is damaged .* {REMEDY}"):
            read_arrays(path, "<f4", SHAPES, digest_bytes(content), REMEDY)


def bomb() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b.npy", bytes(1 << 26))
    return content.getvalue()


def in_zip(name: str, content: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, content)
    return archive.getvalue()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (in_zip("x.npy", format_array(np.zeros((2, 2), "<f4"))), "it holds 'x'"),
        (in_zip("b.npy", promise("(99999999999, 2)")), "it holds float32 of shape"),
        (in_zip("b.npy", b"nothing"), "is damaged"),
        (b"PK\x05\x06" + bytes(18), "is damaged|^$"),
        (b"no zip", "is not a zip file"),
    ],
)
def test_archives_take_nothing_from_their_own_headers(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    if content.startswith(b"PK\x05\x06"):
        assert read_arrays(path, "<f4", SHAPES, digest_bytes(content), REMEDY) == {}
        return
    with pytest.raises(StoreError, match=text):
        read_arrays(path, "<f4", SHAPES, digest_bytes(content), REMEDY)


def test_an_archive_that_unfolds_is_refused(tmp_path: Path) -> None:
    path, content = tmp_path / "a.npz", bomb()
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"67108864 bytes|expected at most"):
        read_arrays(path, "<f4", {"b": (16_000, 2)}, digest_bytes(content), REMEDY)


def test_every_document_of_a_store_says_the_same_or_is_refused(tmp_path: Path, made: SimpleNamespace) -> None:
    """A sample of all bits of the manifest, a receipt and folds; whatever is read is what was written."""
    manifest = Manifest(tmp_path, tuple(Trial(i, i, "train", made.clock(), {"video": "a/b.mp4"}) for i in "ab"))
    manifest.save(tmp_path)
    store = FeatureStore.create(tmp_path / "mobilefacenet.zarr", made.recipe)
    made.write(store, "a")
    Receipt.of(store, ["a"]).save(tmp_path / "receipts/mobilefacenet.json")
    save_folds((Fold(0, ("a",), ("b",)),), tmp_path / "folds.json", manifest)
    readers: dict[str, Callable[[], object]] = {
        "manifest.json": lambda: Manifest.load(tmp_path),
        "labels.npy": lambda: Manifest.load(tmp_path),
        "receipts/mobilefacenet.json": lambda: Receipt.load(tmp_path / "receipts/mobilefacenet.json"),
        "folds.json": lambda: load_folds(tmp_path / "folds.json", manifest),
    }
    for name, read in readers.items():
        path, expected = tmp_path / name, read()
        whole = path.read_bytes()
        for content in flips(whole)[::7]:
            path.write_bytes(content)
            found, told = outcome(read)
            assert found == expected or "is damaged" in told or "has version" in told, (name, told)
        path.write_bytes(whole)


def test_a_trial_is_refused_reported_dropped_and_made_again_whatever_flips(
    tmp_path: Path, made: SimpleNamespace
) -> None:
    store = FeatureStore.create(tmp_path / "mobilefacenet.zarr", made.recipe)
    for trial_id in ("a", "b"):
        made.write(store, trial_id)
    path = Path(store.group) / "a/zarr.json"
    whole, record, rows = path.read_bytes(), store.record("a"), store.read("a").embeddings.copy()
    for content in flips(whole)[::29]:
        path.write_bytes(content)
        fresh = FeatureStore(store.path, store.recipe.fingerprint)
        if fresh.is_whole("a"):
            assert fresh.record("a") == record
            np.testing.assert_array_equal(fresh.read("a", check=True).embeddings, rows)
            assert json.loads(content) == json.loads(whole)
            continue
        with pytest.raises(StoreError):
            fresh.read("a", check=True)
        found = verify(tmp_path)
        assert [(finding.trial, finding.fault, finding.damaged) for finding in found] == [("a", True, True)]
    path.write_bytes(whole[:50])
    assert FeatureStore(store.path, store.recipe.fingerprint).drop("a")
    made.write(store, "a")
    assert verify(tmp_path) == []


@pytest.mark.parametrize("name", ["zarr.json", "recipe"])
def test_root_and_recipe_are_written_again(tmp_path: Path, made: SimpleNamespace, name: str) -> None:
    """What is refused by readers is put right by the next writer, which keeps what is finished."""
    where = tmp_path / "mobilefacenet.zarr"
    store = FeatureStore.create(where, made.recipe)
    made.write(store, "a")
    path = where / (name if name == "zarr.json" else f"{made.recipe.fingerprint}/zarr.json")
    whole = path.read_bytes()
    for content in flips(whole)[::11]:
        path.write_bytes(content)
        found, told = outcome(lambda: FeatureStore(where, made.recipe.fingerprint).trial_ids())
        assert found == ["a"] or "again" in told
        assert found or any(finding.fault for finding in verify(tmp_path))
        FeatureStore.create(where, made.recipe)
        assert FeatureStore(where, made.recipe.fingerprint).read("a", check=True).valid.shape == (20,)
        path.write_bytes(whole)
