"""A recording that is followed goes on where a part of it is lost, damaged or not there, and says so."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from extract.inputs.waves import WaveInput
from extract.media.live import LATEST_S, LiveMedium, open_live
from tests.pipelines.prediction.recordings import (
    FACES,
    RATE,
    SOUND,
    predict,
    read,
    save_model,
    write_recording,
)

pytestmark = pytest.mark.usefixtures("squares")
PACKET = 188  # bytes of MPEG-TS
SOUND_STREAM = 0x101


Harm = Callable[[list[bytes], random.Random], list[bytes]]


def stream_id(packet: bytes) -> int:
    return int.from_bytes(packet[1:3], "big") & 0x1FFF


def split(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [data[start : start + PACKET] for start in range(0, len(data), PACKET)]


def lose(packets: list[bytes], rng: random.Random) -> list[bytes]:
    """One in twenty is lost, as by a weak network."""
    return [packet for place, packet in enumerate(packets) if place < 20 or rng.random() > 0.05]


def garble(packets: list[bytes], rng: random.Random) -> list[bytes]:
    """Some hold something else."""
    return [
        packet if place < 20 or rng.random() > 0.03 else packet[:4] + rng.randbytes(PACKET - 4)
        for place, packet in enumerate(packets)
    ]


@pytest.mark.filterwarnings("always:.*is damaged after")
@pytest.mark.parametrize("harm", [lose, garble])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_damaged_stream_is_followed_to_its_end(tmp_path: Path, harm: Harm, seed: int) -> None:
    whole = write_recording(tmp_path / "whole.ts", 100, lambda index: True)
    damaged = tmp_path / "r.ts"
    damaged.write_bytes(b"".join(harm(split(whole), random.Random(seed))))
    model = save_model(tmp_path / "run", "rnn", SOUND | FACES)
    result = predict(damaged, "--live", "--patience", 0, "--model", model, "--out", "o")
    assert result.exit_code == 0, result.output
    times = np.float64(read(Path("o/r.csv"))["time_s"])
    assert 60 < len(times) <= 100
    assert (np.diff(times) > 0).all()
    assert times[-1] > 90 / RATE
    said = " ".join(result.stderr.split())
    assert "is damaged after" in said
    assert "incomplete parts of" in said
    assert ("did not come at one rate, or some were lost" in said) == bool(np.ptp(np.diff(times)) > 0.001)


def test_rows_before_a_fault_that_ends_a_stream_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those which wait for later ones."""
    recording = write_recording(tmp_path / "r.mkv", 100, lambda index: True)
    take, count = LiveMedium._take, 0

    def fail(medium: LiveMedium, packet: Any) -> None:
        nonlocal count
        count += packet.stream is medium._video
        if count > 60:
            raise av.error.OSError(5, "Input/output error")
        take(medium, packet)

    monkeypatch.setattr(LiveMedium, "_take", fail)
    model = save_model(tmp_path / "run", "rnn", FACES)
    result = predict(recording, "--live", "--patience", 0, "--model", model, "--out", "o")
    assert result.exit_code == 1
    assert len(read(Path("o/r.csv"))["frame"]) == 60
    assert "cannot be read beyond 60 frames (input/output error)" in result.stderr


def test_pictures_do_not_wait_without_end_for_sound_that_has_ended(tmp_path: Path) -> None:
    """Rows are those of the finished file all the same."""
    seconds = LATEST_S + 5
    whole = write_recording(tmp_path / "whole.ts", seconds * RATE, lambda index: True)
    packets = split(whole)
    kept = len(packets) // seconds * 2
    part = tmp_path / "r.ts"
    part.write_bytes(
        b"".join(one for place, one in enumerate(packets) if place < kept or stream_id(one) != SOUND_STREAM)
    )
    waits = []
    with open_live(part, Fraction(RATE), 0) as medium:
        follower = WaveInput(16_000, 0.1).follow(medium, None)
        waits += [medium.clock.known - follower.ready() for _ in medium.read() if not medium.finished]
    assert RATE < max(waits) <= (LATEST_S + 1) * RATE


def test_what_a_recording_lacks_is_left_out(tmp_path: Path) -> None:
    """As for a finished one."""
    video = write_recording(tmp_path / "r.mkv", 40, lambda index: True)
    silent = tmp_path / "silent.mkv"
    _drop_sound(video, silent)
    model = save_model(tmp_path / "run", "rnn", SOUND | FACES)
    assert predict(silent, "--model", model, "--out", "offline").exit_code == 0
    result = predict(silent, "--live", "--patience", 0, "--model", model, "--out", "online")
    assert result.exit_code == 0, result.output
    assert "has no sound, which the model reads" in " ".join(result.stderr.split())
    expected, found = (read(Path(folder) / "silent.csv") for folder in ("offline", "online"))
    assert found["speech"] == expected["speech"] == ["0"] * 40
    assert np.abs(np.float64(found["valence"]) - np.float64(expected["valence"])).max() < 1e-4


def _drop_sound(source: Path, target: Path) -> None:
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)


def test_closed_standard_input(tmp_path: Path) -> None:
    code = "import os; os.close(0); from pathlib import Path; from extract.media.growing import open_growing; open_growing(Path('-')).__enter__()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MediaError: Standard input cannot be read (bad file descriptor). Pipe a recording in" in result.stderr
