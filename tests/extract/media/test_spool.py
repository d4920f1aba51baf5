"""Long sound lies in a file without a name: the same bits as from memory, and nothing is left of it."""

from __future__ import annotations

import os
import tempfile
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cache.clock import FrameClock
from cache.errors import StoreError
from extract.inputs.spectrogram import LogMelPatches
from extract.media import spool
from extract.media.audio import AudioWindows
from extract.media.spool import Spool


def fill(rows: np.ndarray, width: int | None = None) -> Spool:
    found = Spool(width)
    for start in range(0, len(rows), 7):
        found.append(rows[start : start + 7])
    return found


@pytest.mark.parametrize("width", [None, 3])
def test_slices_are_those_of_the_array(width: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(40, width) if width else 40).astype(np.float32)
    kept = fill(rows, width)
    monkeypatch.setattr(spool, "IN_MEMORY", 60)
    filed = fill(rows, width)
    for wanted in (slice(None), slice(3, 9), slice(38, 60), slice(9, 3), slice(-4, None), slice(0)):
        for found in (kept, filed):
            np.testing.assert_array_equal(found[wanted], rows[wanted])
    assert len(kept) == len(filed) == 40


def test_pieces_have_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 40_000).astype(np.float32)
    clock = FrameClock(Fraction(25), 62)
    frames = np.arange(62)

    def pieces(sound: Spool) -> list[np.ndarray]:
        patches = [LogMelPatches(sound, clock, start).read(frames) for start in ("ahead", "centred")]
        return [AudioWindows(sound, clock).read(frames), *patches]

    kept = pieces(fill(samples))
    monkeypatch.setattr(spool, "IN_MEMORY", 10_000)
    for one, other in zip(kept, pieces(fill(samples)), strict=True):
        assert one.tobytes() == other.tobytes()


def test_the_file_goes_with_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    found = fill(np.zeros(10, np.float32))
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert list(tmp_path.iterdir()) == []
    del found
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_full_disk_is_named_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY", 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", partial(Path("/dev/full").open, "w+b", buffering=0))
    with pytest.raises(StoreError, match=r"temporary file.*No space left.*TMPDIR"):
        fill(np.zeros(10, np.float32))
