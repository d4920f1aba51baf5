"""Feature CSVs by other programs: marks, quotes and line ends are read, everything else is named with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cache.errors import CorpusError
from cache.formats.interchange import ImportOptions, import_features
from cache.store.store import FeatureStore

HEAD = "timestamp,segment_id,f0,f1\n"
PLAIN = HEAD + "0,1,0.5,1\n500,1,0.25,-2e-1\n1000,2,nan,3\n"


def load(folder: Path, content: bytes, name: str = "a.csv") -> FeatureStore:
    (folder / "csv").mkdir(exist_ok=True)
    (folder / "csv" / name).write_bytes(content)
    store, _ = import_features(folder / "csv", "muse", folder / "features", ImportOptions("egemaps", "audio"))
    return store


READ = {
    "plain": PLAIN.encode(),
    "mark": b"\xef\xbb\xbf" + PLAIN.encode(),
    "mark and line ends": b"\xef\xbb\xbf" + PLAIN.replace("\n", "\r\n").encode(),
    "old line ends": PLAIN.replace("\n", "\r").encode(),
    "quoted header": PLAIN.replace("timestamp,segment_id,f0,f1", '"timestamp","segment_id","f0","f1"').encode(),
    "quoted cells": PLAIN.replace("500,1,0.25", '"500","1","0.25"').encode(),
    "blanks": PLAIN.replace(",", " , ").replace("\n", " \n\n").encode(),
    "empty cell": PLAIN.replace("nan", "").encode(),
    "quoted empty cell": PLAIN.replace("nan", '""').encode(),
    "no last line end": PLAIN.removesuffix("\n").encode(),
    "any order": (HEAD + "1000,2,nan,3\n0,1,0.5,1\n500,1,0.25,-2e-1\n").encode(),
}


@pytest.mark.parametrize("name", sorted(READ))
def test_what_spreadsheets_and_scripts_write_is_read(tmp_path: Path, name: str) -> None:
    store = load(tmp_path, READ[name])
    embeddings, valid = store.read("a")
    assert (store.record("a").clock.rate, valid.tolist()) == (2, [True, True, False])
    np.testing.assert_array_equal(embeddings[:2], np.array([[0.5, 1], [0.25, -0.2]], np.float32))


REFUSED = {
    "semicolons": (PLAIN.replace(",", ";").encode(), "is separated by ';', expected ','"),
    "tabs": (PLAIN.replace(",", "\t").encode(), r"is separated by '\t', expected ','"),
    "Latin-1": (PLAIN.replace("f0", "größe").encode("latin-1"), "is not UTF-8 text (byte 0xf6 at position 23)"),
    "Latin-1 far down": ((PLAIN + "1500,1,1,1\n" * 5000 + "ö").encode("latin-1"), "is not UTF-8 text (byte 0xf6"),
    "UTF-16": (PLAIN.encode("utf-16"), "is not UTF-8 text (byte 0xff at position 0)"),
    "short row": (PLAIN.replace("500,1,0.25,", "500,1,").encode(), "a.csv', line 3 has 3 cells, its header 4"),
    "long row": (PLAIN.replace("3\n", "3,\n").encode(), "a.csv', line 4 has 5 cells, its header 4"),
    "words": (PLAIN.replace("0.25", "high").encode(), "a.csv', line 3 has something other than numbers (could"),
    "no time": (PLAIN.replace("500,", ",").encode(), "a.csv', line 3 has timestamp '', expected milliseconds"),
    "endless": (PLAIN.replace("500,", "inf,").encode(), "a.csv', line 3 has timestamp 'inf'"),
    "far": (PLAIN.replace("500,", "1e300,").encode(), "a.csv', line 3 has timestamp '1e300'"),
    "beyond float32": (PLAIN.replace("0.25", "1e39").encode(), "a.csv', line 3 has '1e39' in column 'f0', expected at"),
    "below float32": (
        PLAIN.replace("-2e-1", "-4e38").encode(),
        "line 3 has '-4e38' in column 'f1', expected at most 3.4",
    ),
    "beyond float64": (
        PLAIN.replace("0.25", "1e400").encode(),
        "line 3 has '1e400' in column 'f0', expected at most 3.4",
    ),
    "gap": (PLAIN.replace("1000,", "10000000,").encode(), "span 10000 s, 20001 frames at 2 Hz"),
    "open quote": (PLAIN.replace("0.25", '"0.25').encode(), "cannot be read as a MuSe feature file (unexpected end"),
    "NUL": (PLAIN.replace("0.25", "\0").encode(), "a.csv'"),
    "zero bytes": (b"", "starts with '', expected the columns timestamp, segment_id and features"),
    "header alone": (HEAD.encode(), "has a header and no rows"),
    "no features": (b"timestamp,segment_id\n0,1\n", "starts with 'timestamp,segment_id', expected the columns"),
    "no header": (b"0,1,2,3\n500,1,2,3\n", "starts with '0,1,2,3'"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    content, text = REFUSED[name]
    with pytest.raises(CorpusError) as caught:
        load(tmp_path, content)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "features").exists()


def test_the_largest_float32_is_kept_and_infinity_is_an_invalid_frame(tmp_path: Path) -> None:
    store = load(tmp_path, PLAIN.replace("0.25", "3.40282347e38").replace("nan", "-inf").encode())
    embeddings, valid = store.read("a")
    assert (embeddings[1, 0], valid.tolist()) == (np.finfo(np.float32).max, [True, True, False])


def test_names_and_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv/._a%20b.csv").write_bytes(b"\0\5\x16\7")
    assert load(tmp_path, PLAIN.encode(), "a%20b.csv").trial_ids() == ["a%20b"]
    assert load(tmp_path, PLAIN.encode(), "B.CSV").trial_ids() == ["B", "a%20b"]
