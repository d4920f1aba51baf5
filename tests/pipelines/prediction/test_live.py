"""A file that is still being written: a row per frame, equal to those of the finished file read as a whole."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from extract.media import growing
from tests.pipelines.prediction.recordings import (
    FACES,
    RATE,
    SIZE,
    SOUND,
    predict,
    read,
    save_model,
    write_recording,
)

pytestmark = pytest.mark.usefixtures("squares")


def grow(whole: Path, place: Path, pieces: int) -> threading.Thread:
    """Write a file as a recorder does, piece by piece."""
    data = whole.read_bytes()
    place.parent.mkdir(exist_ok=True)
    step = -(-len(data) // pieces)
    place.write_bytes(data[:step])

    def write() -> None:
        with place.open("ab", buffering=0) as file:
            for start in range(step, len(data), step):
                time.sleep(0.05)
                file.write(data[start : start + step])

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def follow_and_compare(whole: Path, *runs: Path) -> float:
    """The largest difference between the rows of a growing file and of the finished one."""
    models = [part for run in runs for part in ("--model", run)]
    offline = predict(whole, *models, "--out", "offline")
    assert offline.exit_code == 0, offline.output
    growing = Path("growing") / whole.name
    writer = grow(whole, growing, 12)
    result = predict(growing, "--live", "--patience", 0.5, *models, "--out", "online")
    writer.join()
    assert result.exit_code == 0, result.output
    expected, found = (read(Path(out) / f"{whole.stem}.csv") for out in ("offline", "online"))
    assert result.stdout == (Path("online") / f"{whole.stem}.csv").read_text(encoding="utf-8")
    assert list(found) == list(expected)
    for column in ("frame", "time_s", *{"face", "speech"} & expected.keys()):
        assert found[column] == expected[column], column
    figures = [name for name in found if name.startswith(("valence", "arousal")) and expected[name][0]]
    assert len(figures) == (4 if len(runs) > 1 else 2)
    apart = [np.abs(np.float64(found[name]) - np.float64(expected[name])).max() for name in figures]
    assert np.ptp(np.float64(expected["valence"])) > 1e-3
    return float(max(apart))


@pytest.mark.parametrize("suffix", [".ts", ".mkv", ".wav"])
def test_sound_of_a_growing_file(tmp_path: Path, suffix: str) -> None:
    if suffix == ".wav":
        recording = tmp_path / "r.wav"
        with av.open(str(recording), "w") as container:
            stream: Any = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
            wave = (8000 * np.sin(np.arange(31_111) ** 1.3 / 40)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            frame.sample_rate = 16_000
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    else:
        recording = write_recording(tmp_path / f"r{suffix}", 45, lambda index: True)
    assert follow_and_compare(recording, save_model(tmp_path / "run", "rnn", SOUND)) < 1e-4


def is_seen(index: int) -> bool:
    """Absent at the start, for a moment that a track bridges, and for longer."""
    return index >= 3 and index not in (22, 23) and not 38 <= index < 57


def test_faces_and_sound_of_a_growing_file(tmp_path: Path) -> None:
    """The crops of one person are those of the finished video, also where the face is lost; the rows of two networks together.

    The first one knows nothing before the first face.
    """
    recording = write_recording(tmp_path / "r.ts", 70, is_seen)
    first = save_model(tmp_path / "run", "rnn", SOUND | FACES, {"n_layers": 2}, drop_unseen=("visual",))
    second = save_model(tmp_path / "other", "tcn", FACES, {"channels_of": {}, "channels": (16, 8)}, seed=2)
    assert follow_and_compare(recording, first, second) < 1e-4
    assert read(Path("online/r.csv"))["face"] == [str(int(is_seen(index) or index in (22, 23))) for index in range(70)]


def test_an_answer_is_only_replaced_on_request(tmp_path: Path) -> None:
    """What was followed may never come again."""
    recording = write_recording(tmp_path / "r.mkv", 30, is_seen)
    model = save_model(tmp_path / "run", "rnn", SOUND)
    assert predict(recording, "--live", "--patience", 0, "--model", model, "--out", "o").exit_code == 0
    before = Path("o/r.csv").read_bytes()
    refused = predict(recording, "--live", "--patience", 0, "--model", model, "--out", "o")
    assert (refused.exit_code, Path("o/r.csv").read_bytes()) == (1, before)
    assert "is there already" in refused.stderr
    assert "--redo" in refused.stderr
    assert predict(recording, "--live", "--patience", 0, "--redo", "--model", model, "--out", "o").exit_code == 0


@pytest.mark.parametrize("patience", ["nan", "inf", "-1"])
def test_patience_is_a_number(tmp_path: Path, patience: str) -> None:
    result = predict(tmp_path / "r.mkv", "--live", "--patience", patience, "--model", tmp_path, "--out", "o")
    assert result.exit_code == 2
    assert "--patience" in result.stderr


def test_a_pipe_ends_with_its_writer(tmp_path: Path) -> None:
    """Without waiting."""
    recording = write_recording(tmp_path / "r.mkv", 30, is_seen)
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_bytes, args=(recording.read_bytes(),))
    writer.start()
    start = time.monotonic()
    model = save_model(tmp_path / "run", "rnn", SOUND)
    result = predict("pipe", "--live", "--patience", 300, "--model", model, "--out", "o")
    writer.join()
    assert result.exit_code == 0, result.output
    assert len(read(Path("o/pipe.csv"))["frame"]) == 30
    assert time.monotonic() - start < 100


def test_rows_come_while_the_recording_goes_on_and_stay_when_it_is_stopped(tmp_path: Path) -> None:
    recording = write_recording(tmp_path / "r.mkv", 100, is_seen)
    model = save_model(tmp_path / "run", "rnn", SOUND)
    os.mkfifo("pipe")
    stopped = threading.Event()

    def record() -> None:
        with open("pipe", "wb", buffering=0) as pipe:
            pipe.write(recording.read_bytes()[: recording.stat().st_size * 3 // 4])
            while not Path("o/pipe.csv").exists() or Path("o/pipe.csv").read_bytes().count(b"\n") < 60:
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does
            stopped.wait(60)

    recorder = threading.Thread(target=record)
    recorder.start()
    result = predict("pipe", "--live", "--model", model, "--out", "o")
    stopped.set()
    recorder.join()
    assert result.exit_code == 130, result.output
    count = len(read(Path("o/pipe.csv"))["frame"])
    assert 59 <= count < 80
    assert Path("o/pipe.csv").read_text().startswith(result.stdout)  # Ctrl-C may come before the last rows are shown
    assert result.stdout.count("\n") > count - 16
    assert f"{count} frames are in 'o/pipe.csv'" in result.stderr
    assert "go on" not in result.stderr


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # by libav's caller
@pytest.mark.parametrize("name", ["read", "_read"])
def test_an_interruption_while_it_waits_for_more_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """libav's caller swallows Ctrl-C in its reads, and takes it for the end; it may also come before any line of ours."""
    recording = write_recording(tmp_path / "r.mkv", 100, is_seen)
    model = save_model(tmp_path / "run", "rnn", SOUND)
    half = recording.stat().st_size // 2
    read_more = getattr(growing.GrowingFile, name)
    pressed: list[bool] = []

    def interrupt(file: growing.GrowingFile, size: int) -> bytes:
        if file._file.tell() > half and not pressed:
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)
        return read_more(file, min(size, half // 4))

    monkeypatch.setattr(growing.GrowingFile, name, interrupt)
    result = predict(recording, "--live", "--model", model, "--out", "o")
    assert result.exit_code == 130, result.output
    assert 10 < len(read(Path("o/r.csv"))["frame"]) < 90


@pytest.mark.parametrize(
    ("name", "modalities", "settings", "said"),
    [
        (
            "rnn",
            SOUND,
            {"bidirectional": True},
            "'bidirectional: true' also reads every window backwards; train it with 'bid",
        ),
        (
            "self_attention",
            SOUND,
            {},
            "'self_attention' reads all frames of a window together; train one that only looks back: rnn",
        ),
        ("late", SOUND | FACES, {}, "'late' counts a modality if it is seen anywhere in a window; train tcn"),
    ],
)
def test_what_would_have_to_look_ahead_is_refused(
    tmp_path: Path, name: str, modalities: dict[str, str], settings: dict, said: str
) -> None:
    recording = write_recording(tmp_path / "r.mkv", 5, is_seen)
    result = predict(
        recording, "--live", "--model", save_model(tmp_path / "run", name, modalities, settings), "--out", "o"
    )
    assert result.exit_code == 1
    assert re.search(said, result.output), result.output
    assert not Path("o/r.csv").exists()


def test_sources_that_cannot_be_followed(tmp_path: Path) -> None:
    sound = save_model(tmp_path / "sound", "rnn", SOUND)
    recording = write_recording(tmp_path / "r.mkv", 5, is_seen)
    empty = tmp_path / "empty.ts"
    empty.touch()
    whole = write_recording(tmp_path / "whole.mp4", 5, is_seen)
    data = whole.read_bytes()
    late = data.index(b"moov") - 4  # the index of a longer recording stands beyond what libav looks back at
    whole.write_bytes(data[:late] + (1 << 18).to_bytes(4, "big") + b"free" + bytes((1 << 18) - 8) + data[late:])
    for source, face, said in (
        ("nowhere.ts", "largest", "No media file or camera 'nowhere.ts'"),
        (empty, "largest", "Nothing has come from"),
        (whole, "largest", "fragmented MP4"),
        (tmp_path, "largest", "is a folder"),
        ("/dev/null", "largest", "cannot be read as a camera"),
    ):
        result = predict(source, "--live", "--patience", 0, "--model", sound, "--face", face, "--out", "o")
        assert result.exit_code == 1
        assert said in result.output, result.output
    Path("o").mkdir(exist_ok=True)
    Path("o/r.csv").write_text("mine")
    result = predict(recording, "--live", "--patience", 0, "--model", sound, "--out", "o")
    assert "'o/r.csv' exists and was not written by predict-affect" in result.output
    assert Path("o/r.csv").read_text() == "mine"


def test_a_file_is_finished_when_it_has_not_grown_for_some_time(tmp_path: Path) -> None:
    recording = write_recording(tmp_path / "r.ts", 30, is_seen)
    model = save_model(tmp_path / "run", "rnn", SOUND)
    start = time.monotonic()
    assert predict(recording, "--live", "--patience", 0, "--model", model, "--out", "o").exit_code == 0
    quick = time.monotonic() - start
    start = time.monotonic()
    result = predict(recording, "--live", "--patience", 2, "--redo", "--model", model, "--out", "o")
    assert result.exit_code == 0, result.output
    assert 1.5 < time.monotonic() - start - quick < 10
    assert len(read(Path("o/r.csv"))["frame"]) == 30


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["b.ts"], "one VIDEO, 2 are given"),
        (
            ["--overlay", "o.mp4", "--format", "vtt"],
            "goes without --format and --overlay (--format: rows are written as CSV",
        ),
        (["--window", "8"], "--window: the model goes from frame to frame"),
        (["--identity", "foamliu"], "--identity: people are known again after a cut when the whole video is known"),
        (["--recogniser", "pocketsphinx"], "words are recognised when a recording is finished"),
        (["--postprocess", "median"], "looks at the frames around each one, which are not known yet"),
    ],
)
def test_live_writes_rows_of_one_source(more: list[str], said: str) -> None:
    result = predict("a.ts", "--live", "--model", "run", "--out", "o", *more)
    assert (result.exit_code, said in result.output) == (2, True), result.output
    assert "--patience is for --live" in predict("a.ts", "--patience", 1, "--model", "run", "--out", "o").output


def test_a_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without an end or a file below it; here, libav draws ten pictures for it."""
    opened = av.open
    source = f"testsrc=size={SIZE}x{SIZE}:rate={RATE}:duration=0.4"
    monkeypatch.setattr(growing.av, "open", lambda path, format: opened(source, format="lavfi"))
    result = predict("/dev/null", "--live", "--model", save_model(tmp_path / "run", "rnn", FACES), "--out", "o")
    assert result.exit_code == 0, result.output
    assert read(Path("o/null.csv"))["frame"] == [str(frame) for frame in range(10)]
    result = predict("/dev/null", "--live", "--model", save_model(tmp_path / "sound", "rnn", SOUND), "--out", "other")
    assert "'/dev/null' has no sound, which the model reads." in result.output
