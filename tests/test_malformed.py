"""Every parser of what comes from outside reads or refuses: a seeded part of benchmarks/malformed.py, and inputs that once hung."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.malformed import parsers, try_all
from cache.errors import AvFusionError
from extract.corpora.muse import MuSe
from extract.words.transcripts import read_words


@pytest.mark.parametrize("seed", [1, 2])
def test_malformed_inputs_are_read_or_refused(tmp_path: Path, seed: int) -> None:
    table, faults = try_all(40 * len(parsers()), seed, tmp_path)
    assert not faults
    assert sum(counts["refused"] for counts in table.values()) > 100
    assert not any(counts["several lines"] for counts in table.values())


CUE = "1\n00:00:01,000 --> 00:00:02,000\n"


@pytest.mark.parametrize("body", ["{\\" * 200_000, "<" * 200_000, "&#" * 100_000, "<00:" * 100_000, "--> " * 100_000])
def test_no_cue_takes_long(tmp_path: Path, body: str) -> None:
    """The first one took over a minute, which a person who waits for the tests would notice."""
    (tmp_path / "a.srt").write_text(f"{CUE}{body}\n")
    with suppress(AvFusionError):
        read_words(tmp_path / "a.srt")


@pytest.mark.parametrize("last", ["1000000000000", "4e300"])
def test_no_timestamp_asks_for_a_clock_of_gigabytes(tmp_path: Path, last: str) -> None:
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata/partition.csv").write_text("Id,Partition\n1,train\n")
    for target in ("valence", "arousal"):
        (tmp_path / "label_segments" / target).mkdir(parents=True)
        labels = tmp_path / "label_segments" / target / "1.csv"
        labels.write_text(f"timestamp,value\n0,0.1\n500,0.1\n{last},0.2\n")
    with pytest.raises(AvFusionError, match=r"in 3 rows, expected at most 1000 ticks for a row"):
        MuSe().read(tmp_path)
