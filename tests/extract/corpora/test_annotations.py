"""Annotation files: what is read, what counts as not annotated, and how faults are named."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from cache.errors import CorpusError, MissingFileError
from extract.corpora.annotations import read_annotation, split_side
from extract.corpora.reading import RowFaults


def write(folder: Path, text: str) -> Path:
    path = folder / "trial.txt"
    path.write_bytes(text.encode())
    return path


def test_rows_become_labels(tmp_path: Path) -> None:
    labels = read_annotation(write(tmp_path, "\ufeffvalence,arousal\r\n0.5,-0.25\r\n-1,1.000\r\n\r\n"))
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, [[0.5, -0.25], [-1, 1]])


def test_a_row_counts_only_with_both_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        labels = read_annotation(write(tmp_path, "valence,arousal\n-5,-5\n0.1,-5\n-5.0,0.2\n0.3,0.4\n"))
    assert np.isnan(labels).all(axis=1).tolist() == [True, True, True, False]
    assert not np.isnan(labels[3]).any()
    assert "2 rows are annotated in part" in caplog.text


def test_other_columns(tmp_path: Path) -> None:
    labels = read_annotation(write(tmp_path, "arousal\n0.5\n-5\n"), columns=("arousal",))
    np.testing.assert_array_equal(labels, [[0.5], [np.nan]])


@pytest.mark.parametrize("row", ["0.1", "0.1,0.2,0.3", "a,0.1", "1.5,0", "0,-4.9", "nan,0", "inf,0", ""])
def test_every_faulty_row_is_named(tmp_path: Path, row: str) -> None:
    path = write(tmp_path, f"valence,arousal\n0,0\n{row}\n0.5,0.5\n2,2\n0,0\n")
    with pytest.raises(CorpusError) as caught:
        read_annotation(path)
    message = str(caught.value)
    assert str(path) in message
    assert f"line 3 is '{row}'" in message
    assert "line 5 is '2,2'" in message
    assert "line 4" not in message


def test_columns_in_another_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"line 1 is 'arousal,valence', expected 'valence,arousal'"):
        read_annotation(write(tmp_path, "arousal,valence\n0,0\n"))


@pytest.mark.parametrize("text", ["", "valence,arousal\n", "valence,arousal\n\n\n"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CorpusError, match="no rows"):
        read_annotation(write(tmp_path, text))


def test_many_faults_are_counted(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="and 980 more"):
        read_annotation(write(tmp_path, "valence,arousal\n" + "x,y\n" * 1000))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere\.txt"):
        read_annotation(tmp_path / "nowhere.txt")


@pytest.mark.parametrize(
    ("trial", "expected"),
    [
        ("video59", ("video59", "largest")),
        ("video59_right", ("video59", "right")),
        ("video10_1_left", ("video10_1", "left")),
        ("the_left_one", ("the_left_one", "largest")),
        ("a_left_b_left", ("a_left_b", "left")),
    ],
)
def test_the_side_stands_at_the_end(trial: str, expected: tuple[str, str]) -> None:
    assert split_side(trial) == expected


def test_other_encodings_and_separators_are_one_fault(tmp_path: Path) -> None:
    path = write(tmp_path, "valence;arousal\n" + "0;0\n" * 30)
    with pytest.raises(
        RowFaults, match="line 1 is 'valence;arousal', separated by ';', expected commas. Save"
    ) as caught:
        read_annotation(path)
    assert caught.value.num_rows == 30
    path.write_bytes(b"valence,arousal\n0,0\n\xff\n")
    with pytest.raises(CorpusError, match="line 3 is not UTF-8"):
        read_annotation(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CorpusError, match="is a folder"):
        read_annotation(path)
