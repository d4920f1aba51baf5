"""Frames by presentation time: every picture's own code says which one it is."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from cache.clock import FrameClock
from cache.errors import MediaError, MissingFileError, ShapeError
from cache.foreign import sha256_file
from extract.media.timeline import first_picture_s
from extract.media.video import probe, read_frames, shrunk_size

NTSC = Fraction(30000, 1001)

STATM = Path("/proc/self/statm")


def resident_mb() -> int:
    """Resident memory as Linux tells it, elsewhere 0."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20 if STATM.is_file() else 0


def codes(media: SimpleNamespace, path: Path, clock: FrameClock) -> list[int]:
    frames = list(read_frames(path, clock, "P1"))
    assert [index for index, _ in frames] == list(range(clock.num_frames))
    return [media.read_code(picture) for _, picture in frames]


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.avi", "v.mov"])
@pytest.mark.parametrize("rate", [Fraction(25), NTSC, Fraction(60)])
def test_constant_rate_is_read_frame_by_frame(
    tmp_path: Path, media: SimpleNamespace, name: str, rate: Fraction
) -> None:
    path = media.write_video(tmp_path / name, 70, rate)
    info = probe(path)
    assert (info.rate, info.num_frames, info.width, info.height) == (rate, 70, 64, 48)
    assert info.duration_s == pytest.approx(70 / rate, abs=0.002)
    assert codes(media, path, FrameClock(rate, 70)) == list(range(70))


@pytest.mark.parametrize("name", ["v.mp4", "v.avi", "v.mkv", "v.ts"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_reordered_pictures_keep_their_moments(tmp_path: Path, media: SimpleNamespace, name: str, codec: str) -> None:
    """AVI has no presentation times: the pictures of H.264 come out with their times in disorder."""
    path = media.write_video(tmp_path / name, 60, 25, codec=codec, options={"bf": "3"})
    assert probe(path).num_frames == 60
    assert codes(media, path, FrameClock(Fraction(25), 60)) == list(range(60))


def test_variable_rate_takes_the_nearest_picture(tmp_path: Path, media: SimpleNamespace) -> None:
    chance = random.Random(3)
    times = [Fraction(0)]
    for _ in range(79):
        times.append(times[-1] + Fraction(chance.choice([10, 20, 30, 40, 90, 150]), 1000))
    path = media.write_video(tmp_path / "v.mkv", 80, 25, times=times)
    num_frames = round((times[-1] + Fraction(1, 25)) * 25)
    expected = []
    for tick in range(num_frames):
        apart = [abs(time - Fraction(tick, 25)) for time in times]
        expected.append(apart.index(min(apart)))  # the earlier one of two that are as near
    assert codes(media, path, FrameClock(Fraction(25), num_frames)) == expected
    assert len(set(expected)) < min(num_frames, 80), "the test needs repeated and skipped pictures"


def test_average_rate_of_a_variable_rate_video(tmp_path: Path, media: SimpleNamespace) -> None:
    times = [Fraction(index // 2 * 3 + index % 2, 50) for index in range(60)]  # 20 and 40 ms in turn
    info = probe(media.write_video(tmp_path / "v.mkv", 60, 25, times=times))
    assert info.num_frames == 60
    assert info.rate * Fraction(info.duration_s) == pytest.approx(60, abs=1)


def test_clock_of_another_rate(tmp_path: Path, media: SimpleNamespace) -> None:
    path = media.write_video(tmp_path / "v.mp4", 40, 20)
    assert codes(media, path, FrameClock(Fraction(10), 20)) == list(range(0, 40, 2))
    doubled = codes(media, path, FrameClock(Fraction(40), 80))
    assert doubled == [tick // 2 for tick in range(80)]


@pytest.mark.parametrize("name", ["v.mp4", "v.ts", "v.mkv"])
def test_start_time_is_not_a_gap(tmp_path: Path, media: SimpleNamespace, name: str) -> None:
    times = [Fraction(3, 2) + Fraction(index, 25) for index in range(30)]
    path = media.write_video(tmp_path / name, 30, 25, times=times)
    assert codes(media, path, FrameClock(Fraction(25), 30)) == list(range(30))
    assert first_picture_s(path) >= Fraction(3, 2)


def test_clock_that_starts_later(tmp_path: Path, media: SimpleNamespace) -> None:
    path = media.write_video(tmp_path / "v.mp4", 50, 25)
    assert codes(media, path, FrameClock(Fraction(25), 40, 0.4)) == list(range(10, 50))


def vary(seed: int, number: int) -> list[Fraction]:
    """Moments of pictures between 20 and 400 ms apart."""
    chance = random.Random(seed)
    steps = [Fraction(chance.choice([20, 33, 34, 67, 100, 400]), 1000) for _ in range(number - 1)]
    return [sum(steps[:place], Fraction(0)) for place in range(number)]


VARYING = {
    "15 to 30": [Fraction(i, 15) for i in range(60)] + [4 + Fraction(i, 30) for i in range(60)],
    "jitter": [Fraction(i, 30) + Fraction(random.Random(i).choice([0, 3, 7]), 1000) for i in range(120)],
    "gap": [Fraction(i + 12 * (i > 40), 25) for i in range(120)],
    "random": vary(5, 120),
}


@pytest.mark.parametrize("times", VARYING.values(), ids=VARYING)
@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.mov"])
def test_frame_i_of_varying_pictures_is_picture_i(
    tmp_path: Path, media: SimpleNamespace, name: str, times: list[Fraction]
) -> None:
    path = media.write_video(tmp_path / name, 120, 30, times=times)
    info = probe(path)
    assert (info.varies, info.num_frames) == (True, 120)
    assert codes(media, path, info.clock) == list(range(120))
    assert info.clock.times_s().tolist() == pytest.approx([float(time - times[0]) for time in times], abs=0.0011)
    assert float(info.rate) == pytest.approx(119 / float(times[-1] - times[0]), rel=1e-3)
    for number in (118, 119, 121, 122):  # a corpus may have up to two labels more or fewer
        expected = [min(index, 119) for index in range(number)]
        assert codes(media, path, info.clock.resized(number)) == expected


def test_two_pictures_of_one_time(tmp_path: Path, media: SimpleNamespace) -> None:
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        for index, ticks in enumerate([0, 40, 80, 80, 120, 160]):
            packet = av.Packet(
                bytes(stream.encode(av.VideoFrame.from_ndarray(media.draw_code(index, 48, 64), "rgb24"))[0])
            )
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, ticks, ticks, Fraction(1, 1000)
            packet.is_keyframe = True
            container.mux(packet)
    info = probe(path)
    assert info.clock.times is not None
    assert info.clock.times.intervals == [40, 40, 0, 40, 40]
    assert codes(media, path, info.clock) == list(range(6))


@pytest.mark.parametrize("held_s", [Fraction(1, 10), Fraction(1, 2), Fraction(2)])
@pytest.mark.parametrize("rate", [Fraction(24), NTSC])
@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.mov"])
def test_a_last_picture_that_is_held_changes_no_rate(
    tmp_path: Path, media: SimpleNamespace, name: str, rate: Fraction, held_s: Fraction
) -> None:
    path, base = tmp_path / name, Fraction(1, 90000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = base
        packets = []
        for index in range(48):
            frame = av.VideoFrame.from_ndarray(media.draw_code(index, 48, 64), "rgb24")
            frame.pts, frame.time_base = round(index / rate / base), base
            packets += stream.encode(frame)
        packets += stream.encode()
        packets[-1].duration = round(held_s / base)
        container.mux(packets)
    info = probe(path)
    assert info.clock == FrameClock(rate, 48)
    assert codes(media, path, info.clock) == list(range(48))
    assert info.duration_s == pytest.approx(float(47 / rate + held_s), abs=0.1) or name == "v.mkv"


@pytest.mark.parametrize(
    "rate", [Fraction(24000, 1001), Fraction(24), Fraction(25), NTSC, Fraction(30), Fraction(50), Fraction(15)]
)
@pytest.mark.parametrize("name", ["v.mkv", "v.flv", "v.mp4", "v.ts"])
def test_regular_to_within_a_tick_has_a_rate(tmp_path: Path, media: SimpleNamespace, name: str, rate: Fraction) -> None:
    """Matroska and FLV round to milliseconds."""
    info = probe(media.write_video(tmp_path / name, 90, rate, codec="flv1" if name == "v.flv" else "libx264"))
    assert info.clock == FrameClock(rate, 90)


def test_the_times_of_another_file_are_refused(tmp_path: Path, media: SimpleNamespace) -> None:
    path = media.write_video(tmp_path / "v.mkv", 120, 30, times=VARYING["random"])
    clock = probe(path).clock
    media.write_video(path, 120, 30, times=VARYING["15 to 30"])
    with pytest.raises(ShapeError, match=r"Trial 'P1' has 120 frames .* run 'avfusion corpus build' again\."):
        next(read_frames(path, clock, "P1"))


def write_second(path: Path, media: SimpleNamespace, still: bool, default: int | None) -> Path:
    """A file of two video streams: one picture, or every picture 128, and then the real ones."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, rate=25) for codec in ("mjpeg", "mpeg4")]
        for stream, form in zip(streams, ("yuvj420p", "yuv420p"), strict=True):
            stream.height, stream.width, stream.pix_fmt = 48, 64, form
            if default is not None:
                stream.disposition = (
                    av.stream.Disposition.default if stream.index == default else av.stream.Disposition(0)
                )
        for index in range(50):
            for stream, code in zip(streams, (128, index), strict=True):
                if stream is streams[0] and still and index:
                    continue
                frame = av.VideoFrame.from_ndarray(media.draw_code(code, 48, 64), "rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", ["v.mkv", "v.mp4", "v.mov", "v.avi"])
@pytest.mark.parametrize(
    ("still", "default", "expected"), [(True, None, 1), (True, 0, 1), (False, 1, 1), (False, 0, 0)]
)
def test_the_stream_that_a_player_shows(
    tmp_path: Path, media: SimpleNamespace, name: str, still: bool, default: int | None, expected: int
) -> None:
    """The one that moves; of two that move the default one."""
    if name == "v.avi" and default == 1:
        pytest.skip("AVI has no default streams")
    path = write_second(tmp_path / name, media, still, default)
    info = probe(path)
    assert (info.clock, first_picture_s(path)) == (FrameClock(Fraction(25), 50), 0)
    assert codes(media, path, info.clock) == ([128] * 50 if expected == 0 else list(range(50)))


TURNS = {  # (a, b, c, d): a stored point (x, y) is shown at (a x + c y, b x + d y)
    (1, 0, 0, 1): lambda p: p,
    (-1, 0, 0, 1): lambda p: p[:, ::-1],
    (1, 0, 0, -1): lambda p: p[::-1],
    (-1, 0, 0, -1): lambda p: p[::-1, ::-1],
    (0, 1, -1, 0): lambda p: np.rot90(p, -1),
    (0, -1, 1, 0): lambda p: np.rot90(p),
    (0, 1, 1, 0): lambda p: p.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda p: np.rot90(p, 2).transpose(1, 0, 2),
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("name", ["v.mp4", "v.mov"])
def test_display_matrices(tmp_path: Path, name: str, turn: tuple[int, int, int, int]) -> None:
    """All eight ways to turn and mirror, against numpy; every corner has a colour of its own."""
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:24, :32], stored[:24, 32:], stored[24:, :32], stored[24:, 32:] = 250, 170, 90, 10
    path, (a, b, c, d) = tmp_path / name, turn
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        values = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
        stream.set_display_matrix(values)
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(stored, "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    expected = TURNS[turn](stored)
    info = probe(path)
    assert (info.height, info.width) == expected.shape[:2]
    _, picture = next(read_frames(path, info.clock, "P1"))
    assert picture.shape == expected.shape
    assert np.abs(picture.astype(int) - expected).mean() < 6


@pytest.mark.parametrize(
    ("aspect", "size", "expected"),
    [
        (Fraction(64, 45), (576, 720), (576, 1024)),
        (Fraction(128, 117), (576, 720), (576, 788)),
        (Fraction(4, 3), (1080, 1440), (1080, 1920)),
        (Fraction(10, 11), (480, 704), (528, 704)),
        (Fraction(1), (48, 64), (48, 64)),
        (Fraction(1, 100), (48, 64), (48, 64)),
    ],
)
def test_pixels_become_square(
    tmp_path: Path, media: SimpleNamespace, aspect: Fraction, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(media.draw_code(index, *size), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    info = probe(path)
    assert (info.height, info.width) == expected
    for index, picture in read_frames(path, info.clock, "P1"):
        assert picture.shape == (*expected, 3)
        assert media.read_code(picture) == index
    _, small = next(read_frames(path, info.clock, "P1", max_side=64))
    assert small.shape[:2] == shrunk_size(*expected, 64)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotation_is_applied(tmp_path: Path, media: SimpleNamespace, rotation: int) -> None:
    path = media.write_video(tmp_path / "v.mp4", 6, rotation=rotation)
    info = probe(path)
    assert (info.width, info.height) == ((48, 64) if rotation % 180 else (64, 48))
    for index, picture in read_frames(path, FrameClock(Fraction(25), 6), "P1"):
        assert picture.shape == (info.height, info.width, 3)
        assert media.read_code(np.rot90(picture, -rotation // 90)) == index


@pytest.mark.parametrize(
    ("pix_fmt", "size"), [("yuv420p10le", (48, 64)), ("gray", (48, 64)), ("yuv444p", (49, 63)), ("bgra", (33, 65))]
)
def test_odd_content_becomes_rgb(tmp_path: Path, media: SimpleNamespace, pix_fmt: str, size: tuple[int, int]) -> None:
    path = media.write_video(tmp_path / "v.mkv", 20, codec="ffv1", pix_fmt=pix_fmt, size=size)
    for index, picture in read_frames(path, FrameClock(Fraction(25), 20), "P1"):
        assert (picture.shape, picture.dtype) == ((*size, 3), np.uint8)
        assert picture.flags.c_contiguous
        assert media.read_code(picture) == index


def test_colours_stay_in_order(tmp_path: Path, media: SimpleNamespace) -> None:
    def draw(index: int, height: int, width: int) -> np.ndarray:
        return np.full((height, width, 3), (200, 100, 30), np.uint8)

    path = media.write_video(tmp_path / "v.mkv", 2, codec="ffv1", pix_fmt="yuv444p", draw=draw)
    _, picture = next(read_frames(path, FrameClock(Fraction(25), 2), "P1"))
    assert np.abs(picture.astype(int) - (200, 100, 30)).max() <= 3


@pytest.mark.parametrize("extra", [-2, -1, 1, 2])
def test_up_to_two_frames_more_or_less(tmp_path: Path, media: SimpleNamespace, extra: int) -> None:
    path = media.write_video(tmp_path / "v.mp4", 30)
    found = codes(media, path, FrameClock(Fraction(25), 30 + extra))
    assert found == [min(index, 29) for index in range(30 + extra)]


@pytest.mark.parametrize("extra", [-3, 3, 40])
def test_more_than_two_is_refused_before_anything_is_read(tmp_path: Path, media: SimpleNamespace, extra: int) -> None:
    path = media.write_video(tmp_path / "v.mp4", 60)
    with pytest.raises(ShapeError) as caught:
        next(read_frames(path, FrameClock(Fraction(25), 60 + extra), "P23"))
    said = str(caught.value)
    for value in (
        "'P23'",
        f"{60 + extra} frames",
        "25 per second",
        f"'{path}'",
        "2.40 s",
        "60 of them",
        "2 is allowed",
    ):
        assert value in said
    assert "run 'avfusion corpus build' again" in said


def test_repeated_ticks_share_an_array_and_unwanted_ones_are_skipped(tmp_path: Path, media: SimpleNamespace) -> None:
    path = media.write_video(tmp_path / "v.mp4", 20, 10)
    frames = dict(read_frames(path, FrameClock(Fraction(20), 40), "P1", wanted=lambda tick: tick % 4 < 2))
    assert sorted(frames) == [tick for tick in range(40) if tick % 4 < 2]
    assert frames[4] is frames[5]


def test_shrinking(tmp_path: Path, media: SimpleNamespace) -> None:
    path = media.write_video(tmp_path / "v.mp4", 12, size=(96, 128))
    for index, picture in read_frames(path, FrameClock(Fraction(25), 12), "P1", max_side=64):
        assert picture.shape == (48, 64, 3)
        assert media.read_code(picture) == index
    assert shrunk_size(1, 10_000, 640) == (1, 640)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="No media file '.*no.mp4'. Check the path"):
        probe(tmp_path / "no.mp4")
    with pytest.raises(MediaError, match="is a folder; expected"):
        probe(tmp_path)
    for name in ("face.jpg", "face.png"):
        Image.new("RGB", (64, 48)).save(tmp_path / name)
        with pytest.raises(MediaError, match=f"{name}' is a picture; expected a video"):
            probe(tmp_path / name)
    with pytest.raises(MissingFileError, match="No file"):
        sha256_file(tmp_path / "no.mp4")


def test_files_that_are_no_videos(tmp_path: Path, media: SimpleNamespace, capfd: pytest.CaptureFixture[str]) -> None:
    empty, text, sound = tmp_path / "empty.mp4", tmp_path / "text.mp4", tmp_path / "sound.m4a"
    empty.write_bytes(b"")
    text.write_text("#EXTM3U\nnothing that could be played\n" * 50)
    media.write_audio(sound, np.zeros(48000, np.float32))
    for path, words in [(empty, "is empty"), (text, "unknown format"), (sound, "no video stream")]:
        with pytest.raises(MediaError, match=words) as caught:
            probe(path)
        assert str(path) in str(caught.value)
        assert str(caught.value).count("\n") == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("index_first", [False, True])
def test_truncated_videos_are_refused(
    tmp_path: Path, media: SimpleNamespace, capfd: pytest.CaptureFixture[str], share: float, index_first: bool
) -> None:
    options = {"movflags": "faststart"} if index_first else None
    whole = media.write_video(tmp_path / "w.mp4", 60, codec="libx264", container_options=options).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: int(len(whole) * share)])
    for attempt in (lambda: probe(path), lambda: list(read_frames(path, FrameClock(Fraction(25), 60), "P1"))):
        with pytest.raises(MediaError, match="truncated, damaged or") as caught:
            attempt()
        assert "Copy or download it again." in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_videos_cut_between_packets_are_refused(tmp_path: Path, media: SimpleNamespace) -> None:
    whole = media.write_video(tmp_path / "w.mp4", 60, container_options={"movflags": "faststart"}).read_bytes()
    path = tmp_path / "cut.mp4"
    for size in range(len(whole) - 120, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(MediaError):
            probe(path)


def noise(index: int, height: int, width: int) -> np.ndarray:
    """A picture that takes as many bytes as every other one."""
    return np.random.default_rng(index).integers(0, 255, (height, width, 3), dtype=np.uint8)


def hum(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * 44100)).astype(np.float32)


CONTAINERS = [
    ("w.mkv", "libx264", "aac", {}),
    ("w.mkv", "mpeg4", "flac", {}),
    ("w.webm", "libvpx", "libopus", {}),
    ("w.avi", "mpeg4", "mp3", {}),
    ("w.avi", "libx264", "pcm_s16le", {}),
    ("w.flv", "libx264", "aac", {}),
    ("w.flv", "flv1", "mp3", {}),
    ("w.mov", "mpeg4", "pcm_s16le", {"movflags": "faststart"}),
    ("w.mp4", "libx264", "aac", {"movflags": "frag_keyframe+empty_moov"}),
]


@pytest.mark.parametrize(("name", "codec", "audio_codec", "options"), CONTAINERS)
@pytest.mark.parametrize("sound_s", [0, 7, 10])
def test_a_promised_length_is_held_to(
    tmp_path: Path,
    media: SimpleNamespace,
    name: str,
    codec: str,
    audio_codec: str,
    options: dict[str, str],
    sound_s: float,
) -> None:
    rate_hz = 48000 if audio_codec == "libopus" else 44100
    path = media.write_video(
        tmp_path / name,
        250,
        25,
        codec=codec,
        draw=noise,
        container_options=options,
        audio=hum(sound_s) if sound_s else None,
        audio_codec=audio_codec,
        audio_rate=rate_hz,
    )
    assert probe(path).duration_s == pytest.approx(10, abs=0.1)
    whole = path.read_bytes()
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(MediaError, match="truncated, damaged or"):
            probe(path)


def test_the_message_names_both_lengths(tmp_path: Path, media: SimpleNamespace) -> None:
    path = media.write_video(tmp_path / "w.mkv", 250, 25, draw=noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"it breaks off after [45]\.\d\d of 10\.00 s\); expected a whole video"):
        probe(path)


SLOW = [Fraction(10 * index + 7 * (index % 2), 3) for index in range(12)]  # pictures up to 6 s apart


@pytest.mark.parametrize("name", ["w.mkv", "w.webm", "w.avi", "w.flv", "w.mov"])
@pytest.mark.parametrize(
    "settings",
    [
        {"audio": hum(25)},
        {"audio": hum(3), "audio_offset_s": Fraction(4)},
        {"audio": hum(8), "times": [Fraction(5, 2) + Fraction(index, 25) for index in range(250)]},
        {"num_frames": 12, "times": SLOW},
        {"num_frames": 12, "times": SLOW, "audio": hum(5)},
        {"num_frames": 8, "rate": Fraction(1, 5)},
        {"options": {"bf": "3", "g": "30"}},
    ],
)
def test_whole_videos_are_never_found_short(
    tmp_path: Path, media: SimpleNamespace, name: str, settings: dict[str, Any]
) -> None:
    """Sound that ends before or after the pictures, late starts, slow and varying rates, reordered pictures."""
    codec, audio_codec = {"webm": ("libvpx", "libopus"), "avi": ("mpeg4", "mp3")}.get(name[2:], ("libx264", "aac"))
    rate_hz = 48000 if audio_codec == "libopus" else 44100
    arguments = {"num_frames": 250, "rate": 25, "codec": codec, "audio_codec": audio_codec, "audio_rate": rate_hz}
    assert probe(media.write_video(tmp_path / name, **arguments | settings)).duration_s > 9


@pytest.mark.parametrize("name", ["w.mkv", "w.webm"])
def test_live_recordings_promise_no_length(tmp_path: Path, media: SimpleNamespace, name: str) -> None:
    codec = "libvpx" if name == "w.webm" else "libx264"
    path = media.write_video(tmp_path / name, 250, 25, codec=codec, draw=noise, container_options={"live": "1"})
    assert probe(path).duration_s == pytest.approx(10, abs=0.1)


def test_avi_written_to_a_pipe_is_whole(tmp_path: Path, media: SimpleNamespace) -> None:
    """libav leaves 2^30 as the number of pictures where it cannot go back."""
    path = media.write_video(tmp_path / "w.avi", 50)
    data = bytearray(path.read_bytes())
    place = data.index(b"strh") + 40
    assert int.from_bytes(data[place : place + 4], "little") in (50, 51)
    data[place : place + 4] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(data)
    assert probe(path).num_frames == 50


def test_damaged_videos_never_fail_otherwise(tmp_path: Path, media: SimpleNamespace) -> None:
    clock = FrameClock(Fraction(25), 30)
    for name in ("w.mp4", "w.avi", "w.mkv", "w.ts"):
        whole = media.write_video(tmp_path / name, 30).read_bytes()
        path = tmp_path / f"v{Path(name).suffix}"
        for seed in range(25):
            chance, damaged = random.Random(seed), bytearray(whole)
            for _ in range(20):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            path.write_bytes(damaged)
            with suppress(MediaError, ShapeError):
                assert len(list(read_frames(path, clock, "P1"))) == 30


@pytest.mark.parametrize(
    ("made", "named"), [("w.mp4", "v.avi"), ("w.mkv", "v.mp4"), ("w.avi", "v.wav"), ("w.mp4", "v")]
)
def test_a_wrong_extension_does_not_matter(tmp_path: Path, media: SimpleNamespace, made: str, named: str) -> None:
    path = media.write_video(tmp_path / made, 30).rename(tmp_path / named)
    assert codes(media, path, FrameClock(Fraction(25), 30)) == list(range(30))


def test_an_hour(tmp_path: Path, media: SimpleNamespace) -> None:
    path = media.write_video(tmp_path / "hour.mp4", 7200, 2, codec="libx264", options={"preset": "ultrafast"})
    info = probe(path)
    assert (info.num_frames, info.rate, info.duration_s) == (7200, 2, 3600)
    before = resident_mb()
    for index, picture in read_frames(path, FrameClock(Fraction(2), 7200), "P1"):
        if index % 100 == 0 or index > 7190:
            assert media.read_code(picture) == index % 256
    assert index == 7199
    assert resident_mb() - before < 20, "7200 pictures are 66 MB"


def test_shared_media(media: SimpleNamespace) -> None:
    path = media.shared / "people_1080p_aac.mp4"
    if not path.is_file():
        pytest.skip("no shared media here")
    info = probe(path)
    assert (info.rate, info.num_frames, info.width, info.height) == (25, 105, 1920, 1080)
    assert info.has_audio
