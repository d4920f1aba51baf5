"""Sound on the label clock: a click at a frame's centre stands in the middle of its window."""

from __future__ import annotations

import os
import random
import struct
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cache.clock import FrameClock, PictureTimes
from cache.errors import MediaError, MissingFileError, SettingError
from extract.media.audio import AudioWindows, _centre_samples, _place, count_samples, load_audio, open_sound

RATES = [Fraction(25), Fraction(30000, 1001), Fraction(30)]
FRAMES = (0, 1, 7, 29, 58)


def resident_mb() -> int:
    """Resident memory as Linux tells it, elsewhere 0."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20 if statm.is_file() else 0


def clicks(rate: Fraction, rate_hz: int, seconds: float = 3.0) -> NDArray[np.float32]:
    """A click at the centre of each of some frames."""
    sound = np.zeros(round(seconds * rate_hz), np.float32)
    for frame in FRAMES:
        sound[round((2 * frame + 1) / (2 * rate) * rate_hz)] = 0.9
    return sound


def check_clicks(samples: NDArray[np.float32], rate: Fraction, tolerance: int) -> None:
    windows = AudioWindows(samples, FrameClock(rate, 60))
    assert windows.valid.all()
    for frame, window in zip(FRAMES, windows.read(np.array(FRAMES)), strict=True):
        near = np.abs(window[4000 - 260 : 4000 + 260])  # no other click is nearer
        assert near.max() > 0.05
        assert abs(int(near.argmax()) - 260) <= tolerance, f"frame {frame}"


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("rate_hz", [16000, 44100, 48000, 11025])
def test_clicks_of_a_wav_file(tmp_path: Path, rate: Fraction, rate_hz: int) -> None:
    soundfile.write(tmp_path / "s.wav", clicks(rate, rate_hz), rate_hz)
    check_clicks(load_audio(tmp_path / "s.wav"), rate, 1)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(
    ("name", "codec", "tolerance"),
    [("v.mkv", "pcm_s16le", 1), ("v.avi", "pcm_s16le", 1), ("v.mkv", "flac", 1), ("v.mp4", "aac", 48)],
)
def test_clicks_of_a_video(
    tmp_path: Path, media: SimpleNamespace, rate: Fraction, name: str, codec: str, tolerance: int
) -> None:
    """The tolerance is in samples of 1/16 ms; AAC smears a click."""
    path = media.write_video(tmp_path / name, 90, rate, audio=clicks(rate, 48000), audio_codec=codec)
    check_clicks(load_audio(path), rate, tolerance)


@pytest.mark.parametrize("offset", [Fraction(0), Fraction(3, 10)])
@pytest.mark.parametrize("start", [Fraction(0), Fraction(1, 2)])
def test_sound_counts_from_the_first_picture(
    tmp_path: Path, media: SimpleNamespace, offset: Fraction, start: Fraction
) -> None:
    times = [start + Fraction(index, 25) for index in range(80)]
    sound = clicks(Fraction(25), 48000)
    path = media.write_video(
        tmp_path / "v.mkv", 80, 25, times=times, audio=sound, audio_codec="pcm_s16le", audio_offset_s=offset
    )
    samples = load_audio(path)
    expected = [(2 * frame + 1) / 50 + float(offset - start) for frame in FRAMES]
    found = np.flatnonzero((samples[1:-1] > 0.15) & (samples[1:-1] >= samples[2:]) & (samples[1:-1] > samples[:-2])) + 1
    np.testing.assert_allclose(found / 16000, [moment for moment in expected if moment > 0], atol=0.0011)
    assert len(samples) / 16000 == pytest.approx(3 + float(offset - start), abs=0.01)


def test_holes_in_the_sound_are_silence_of_their_length(tmp_path: Path) -> None:
    def frames() -> list[tuple[Fraction, int, NDArray[np.float32]]]:
        block = np.ones(1000, np.float32)
        times = [0, Fraction(1, 10), Fraction(1, 2), Fraction(11, 20), Fraction(651, 1000)]
        return [(Fraction(time), 10000, block) for time in times]

    sound = np.concatenate([block for _, block in _place(tmp_path, frames(), Fraction(0))])
    np.testing.assert_array_equal(sound[:2000], 1)
    np.testing.assert_array_equal(sound[2000:5000], 0)
    assert len(sound) == 7500, "an overlap of 50 ms is cut, one of 1 ms is left to the count of samples"


def test_sixteen_bits_are_exact(tmp_path: Path) -> None:
    values = np.array([0, 1, -1, 32767, -32768, 12345], np.int16)
    soundfile.write(tmp_path / "s.wav", values, 16000, subtype="PCM_16")
    samples = load_audio(tmp_path / "s.wav")
    assert samples.dtype == np.float32
    assert count_samples(tmp_path / "s.wav") == 6
    np.testing.assert_array_equal(samples, values / np.float32(32768))
    samples *= 2  # the array is the caller's own


@pytest.mark.parametrize(("name", "codec"), [("s.wav", "pcm_s16le"), ("s.mka", "pcm_s16le"), ("s.mka", "flac")])
def test_channels_are_averaged(tmp_path: Path, media: SimpleNamespace, name: str, codec: str) -> None:
    both = np.stack([np.full(16000, 0.5, np.float32), np.full(16000, -0.25, np.float32)])
    samples = load_audio(media.write_audio(tmp_path / name, both, codec, 16000))
    assert len(samples) == 16000
    np.testing.assert_allclose(samples, 0.125, atol=1e-4)


@pytest.mark.parametrize(("name", "codec"), [("s.wav", "pcm_s16le"), ("s.mka", "flac"), ("s.mp4", "aac")])
def test_six_channels_are_averaged(tmp_path: Path, name: str, codec: str) -> None:
    """5.1: each speaker is heard at a sixth of its loudness, the one for the bass too."""
    times = np.arange(48000) / 48000
    levels = np.array([0.1, 0.2, 0.3, 0.0, 0.5, 0.1], np.float32)
    tone = np.sin(2 * np.pi * 220 * times).astype(np.float32)
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=48000, layout="5.1")
        resampler = av.AudioResampler(format=stream.format.name, layout="5.1", rate=48000)
        for start in range(0, 48000, 4800):
            block = np.ascontiguousarray(levels[:, None] * tone[start : start + 4800])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="5.1")
            frame.sample_rate, frame.pts = 48000, start
            for converted in resampler.resample(frame):
                container.mux(stream.encode(converted))
        container.mux(stream.encode())
    samples = load_audio(tmp_path / name)
    assert len(samples) == pytest.approx(16000, abs=1024)  # aac fills up its last frame
    expected = levels.mean() * np.sin(2 * np.pi * 220 * np.arange(15000) / 16000)
    np.testing.assert_allclose(samples[4000:15000], expected[4000:], atol=0.01)  # aac swings in


def test_telephone_sound_in_a_video_stays_in_time(tmp_path: Path, media: SimpleNamespace) -> None:
    path = media.write_video(tmp_path / "v.mp4", 75, audio=clicks(Fraction(25), 8000), audio_rate=8000)
    check_clicks(load_audio(path), Fraction(25), 64)


def test_an_hour_of_sound(tmp_path: Path, media: SimpleNamespace) -> None:
    """The click in its last second is still in time, and its 230 MB of samples are not held in memory."""
    sound = np.zeros(3600 * 8000, np.float32)
    sound[-4000] = 0.9
    path = media.write_audio(tmp_path / "hour.m4a", sound, rate=8000)
    before = resident_mb()
    samples = open_sound(path)
    assert resident_mb() - before < 60
    assert len(samples) == pytest.approx(3600 * 16000, abs=2048)
    assert abs(int(np.abs(samples[-16000:]).argmax()) + len(samples) - 16000 - (3600 * 16000 - 8000)) <= 64
    clock = FrameClock(Fraction(25), 90_000)
    window = AudioWindows(samples, clock).read(np.array([89_987]))[0]  # its centre is 0.5 s before the end
    assert abs(int(np.abs(window).argmax()) - 4000) <= 400
    assert AudioWindows(samples, clock).valid.all()


def test_sound_under_a_wrong_name(tmp_path: Path, media: SimpleNamespace) -> None:
    path = media.write_audio(tmp_path / "s.mka", clicks(Fraction(25), 16000), "flac", 16000).rename(tmp_path / "s.mp4")
    check_clicks(load_audio(path), Fraction(25), 1)
    soundfile.write(tmp_path / "w.wav", clicks(Fraction(25), 16000), 16000)
    check_clicks(load_audio((tmp_path / "w.wav").rename(tmp_path / "w.mp3")), Fraction(25), 1)
    media.write_audio(tmp_path / "s.m4a", clicks(Fraction(25), 16000), "aac", 16000).rename(tmp_path / "s.wav")
    check_clicks(load_audio(tmp_path / "s.wav"), Fraction(25), 64)


@pytest.mark.parametrize("name", ["w.wav", "w.m4a", "w.mp4", "w.flac"])
def test_damaged_sound_never_fails_otherwise(tmp_path: Path, media: SimpleNamespace, name: str) -> None:
    if name == "w.mp4":
        whole = media.write_video(tmp_path / name, 50, audio=clicks(Fraction(25), 16000), audio_rate=16000).read_bytes()
    elif name == "w.m4a":
        whole = media.write_audio(tmp_path / name, clicks(Fraction(25), 16000), "aac", 16000).read_bytes()
    else:
        soundfile.write(tmp_path / name, clicks(Fraction(25), 16000), 16000)
        whole = (tmp_path / name).read_bytes()
    path = tmp_path / f"d{name}"
    for seed in range(25):
        chance, damaged = random.Random(seed), bytearray(whole)
        for _ in range(20):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with suppress(MediaError):
            samples = load_audio(path)
            assert np.isfinite(samples).all()
            assert np.abs(samples).max() <= 1


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
def test_sample_formats(tmp_path: Path, media: SimpleNamespace, codec: str) -> None:
    wave = np.sin(np.arange(16000) / 20).astype(np.float32) * 0.7
    path = media.write_audio(tmp_path / "s.mka", wave, codec, 16000)
    np.testing.assert_allclose(load_audio(path), wave, atol=0.01)


def test_loud_floats_are_clipped_and_no_numbers_refused(tmp_path: Path) -> None:
    sound = np.array([0, 2, -3, 0.5], np.float32)
    soundfile.write(tmp_path / "s.wav", sound, 16000, subtype="FLOAT")
    assert load_audio(tmp_path / "s.wav").tolist() == [0, 1, -1, 0.5]
    soundfile.write(tmp_path / "s.wav", np.array([0, np.nan], np.float32), 16000, subtype="FLOAT")
    with pytest.raises(MediaError, match="not numbers"):
        load_audio(tmp_path / "s.wav")


@pytest.mark.parametrize("rate_hz", [8000, 44100, 48000])
def test_resampling_keeps_tone_and_length(tmp_path: Path, rate_hz: int) -> None:
    times = np.arange(rate_hz * 5) / rate_hz
    soundfile.write(tmp_path / "s.wav", 0.5 * np.sin(2 * np.pi * 440 * times), rate_hz)
    samples = load_audio(tmp_path / "s.wav")
    assert len(samples) == pytest.approx(5 * 16000, abs=1)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(samples)) / 16000)
    np.testing.assert_allclose(samples[500:-500], expected[500:-500], atol=2e-4)


def test_sound_in_a_video_alone(tmp_path: Path, media: SimpleNamespace) -> None:
    samples = load_audio(media.write_audio(tmp_path / "s.m4a", clicks(Fraction(25), 48000)))
    check_clicks(samples, Fraction(25), 48)


def test_errors(tmp_path: Path, media: SimpleNamespace, capfd: pytest.CaptureFixture[str]) -> None:
    silent = media.write_video(tmp_path / "silent.mp4", 5)
    with pytest.raises(MediaError, match=r"'.*silent.mp4' has no audio stream .* leave the audio modality out\."):
        load_audio(silent)
    for name in ("none.wav", "none.mp4"):
        with pytest.raises(MissingFileError, match="No media file"):
            load_audio(tmp_path / name)
    for name in ("empty.wav", "empty.mp4"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(MediaError, match="is empty"):
            load_audio(tmp_path / name)
    for name in ("text.wav", "text.mp4"):
        (tmp_path / name).write_text("no sound in here\n" * 100)
        with pytest.raises(MediaError, match="truncated, damaged or"):
            load_audio(tmp_path / name)
    with pytest.raises(SettingError, match="rate 0 Hz"):
        load_audio(silent, 0)
    soundfile.write(tmp_path / "zero.wav", np.zeros(0), 16000)
    with pytest.raises(MediaError, match="without sound"):
        load_audio(tmp_path / "zero.wav")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_sound(tmp_path: Path, media: SimpleNamespace, share: float) -> None:
    soundfile.write(tmp_path / "w.wav", clicks(Fraction(25), 16000), 16000)
    media.write_video(tmp_path / "w.mp4", 50, audio=clicks(Fraction(25), 48000))
    for name in ("w.wav", "w.mp4"):
        whole, path = (tmp_path / name).read_bytes(), tmp_path / f"cut{name}"
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(MediaError, match="truncated, damaged"):
            load_audio(path)


def noise(seconds: float, rate_hz: int = 48000) -> NDArray[np.float32]:
    """Sound that takes as many bytes in every second."""
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * rate_hz)).astype(np.float32)


def encode(path: Path, codec: str, sound: NDArray[np.float32], rate_hz: int = 48000, **settings: Any) -> bytes:
    """Encode with settings of the container, or a `bit_rate`, and return the bytes."""
    bit_rate = settings.pop("bit_rate", None)
    with av.open(str(path), "w", container_options=settings) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        if bit_rate:
            stream.bit_rate = bit_rate
        for start in range(0, len(sound), 1152):
            frame = av.AudioFrame.from_ndarray(sound[None, start : start + 1152], "fltp", "mono")
            frame.sample_rate, frame.pts = rate_hz, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("s.mka", "aac"), ("s.mka", "flac"), ("s.mkv", "pcm_s16le"), ("s.webm", "libopus"), ("s.mp3", "mp3"),
        ("s.aiff", "pcm_s16be"), ("s.au", "pcm_s16be"), ("s.flac", "flac"), ("s.wv", "wavpack"), ("s.tta", "tta"),
        ("s.m4a", "aac"), ("s.mov", "pcm_s16le"), ("s.ogg", "flac"), ("s.opus", "libopus"),
        ("s.mp3", ""), ("s.aiff", ""), ("s.au", ""), ("s.flac", ""), ("s.ogg", "VORBIS"), ("s.ogg", "OPUS"),
    ],
)  # fmt: skip
def test_sound_that_breaks_off_is_refused(tmp_path: Path, media: SimpleNamespace, name: str, codec: str) -> None:
    """Files of ffmpeg and, without a codec or with a capital one, of libsndfile."""
    path = tmp_path / name
    if codec.islower():
        media.write_audio(path, noise(10), codec)
    else:
        soundfile.write(path, noise(10), 48000, subtype=codec or None)
    assert len(load_audio(path)) / 16000 == pytest.approx(10, abs=0.1)
    whole, ogg = path.read_bytes(), name in ("s.ogg", "s.opus")
    words = r"last Ogg page, .* rewrite it with 'ffmpeg -i OLD -c copy NEW'\." if ogg else r"truncated, damaged or"
    ends = [int(len(whole) * share) for share in (0.3, 0.6, 0.9)] + ogg * [whole.rfind(b"OggS"), len(whole) - 1]
    for end in ends:
        path.write_bytes(whole[:end])
        with pytest.raises(MediaError, match=words):
            load_audio(path)


def test_an_index_is_held_to_even_between_packets(tmp_path: Path) -> None:
    path = tmp_path / "s.m4a"
    whole = encode(path, "aac", noise(10), movflags="faststart")
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux() if packet.size]
    for end in ends[50:-50:40]:
        path.write_bytes(whole[:end])
        with pytest.raises(MediaError, match=r"breaks off after \d\.\d\d of \d+\.\d\d s"):
            load_audio(path)


@pytest.mark.parametrize("name", ["v.mkv", "v.avi", "v.mp4"])
@pytest.mark.parametrize("length_s", [4, 10])
def test_sound_shorter_than_the_pictures_is_whole(
    tmp_path: Path, media: SimpleNamespace, name: str, length_s: int
) -> None:
    path = media.write_video(tmp_path / name, 250, audio=noise(length_s), audio_codec="mp3")
    assert len(load_audio(path)) / 16000 == pytest.approx(length_s, abs=0.1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(MediaError, match="truncated, damaged"):
        load_audio(path)


def test_lengths_that_libav_guesses_are_not_held_to(tmp_path: Path) -> None:
    """A bit rate tells little: of a live recording with its overhead, and of MP3 that varies and counts nothing."""
    encode(tmp_path / "s.mka", "pcm_u8", noise(240, 8000), 8000, live="1")
    quiet = encode(tmp_path / "q.mp3", "mp3", noise(10), bit_rate=64000, write_xing="0", id3v2_version="0")
    loud = encode(tmp_path / "l.mp3", "mp3", noise(10), bit_rate=320000, write_xing="0", id3v2_version="0")
    (tmp_path / "s.mp3").write_bytes(quiet + loud)
    for name, length_s in (("s.mka", 240), ("s.mp3", 20)):
        with av.open(str(tmp_path / name)) as container:
            assert container.duration / av.time_base > length_s + 0.9, "the test needs a wrong guess"
        assert len(load_audio(tmp_path / name)) / 16000 == pytest.approx(length_s, abs=0.15)


def test_wav_written_to_a_pipe_is_whole(tmp_path: Path) -> None:
    """Programs that write to a pipe cannot know the length and leave the largest number."""
    path = tmp_path / "s.wav"
    soundfile.write(path, clicks(Fraction(25), 16000), 16000)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(data)
    check_clicks(load_audio(path), Fraction(25), 1)


@given(st.fractions(5, 120, max_denominator=1001), st.integers(1, 20_000), st.sampled_from([0.0, 0.5, -0.25, 1 / 3]))
def test_windows_never_drift(rate: Fraction, frame: int, start_s: float) -> None:
    centre = _centre_samples(FrameClock(rate, frame + 1, start_s), 16000)[frame]
    exact = (Fraction(start_s) + Fraction(2 * frame + 1) / (2 * rate)) * 16000
    assert abs(int(centre) - exact) <= Fraction(1, 2)


LENGTHS = {
    "sox": 0x7FFFF000, "arecord": 0x80000000, "nothing": 0, "ffmpeg": 0xFFFFFFFF, "obs": 0xFFFF1000, "less": 0xFFFFFFFF - 36,
    "own header": 96_000 + 44, "a block": 96_000 + 512,
}  # fmt: skip


@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("fields", [("data",), ("data", "RIFF")])
def test_lengths_that_cannot_be_are_unknown(tmp_path: Path, length: int, fields: tuple[str, ...]) -> None:
    path = tmp_path / "s.wav"
    soundfile.write(path, clicks(Fraction(25), 16000), 16000, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    for field in fields:
        place = data.index(field.encode()) + 4
        data[place : place + 4] = struct.pack("<I", length)
    path.write_bytes(data)
    samples = load_audio(path)
    assert len(samples) == 48000
    check_clicks(samples, Fraction(25), 0)


@pytest.mark.parametrize("kind", ["WAV", "RF64", "RIFX"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_every_kind_of_wav_is_held_to_its_length(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / "s.wav"
    sound = clicks(Fraction(25), 16000)
    form, endian = (kind, "FILE") if kind != "RIFX" else ("WAV", "BIG")
    soundfile.write(path, sound, 16000, subtype="PCM_16", format=form, endian=endian)
    whole = path.read_bytes()
    assert whole[:4] == {"WAV": b"RIFF"}.get(kind, kind.encode())
    assert len(load_audio(path)) == 48000
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(MediaError, match=r"truncated, damaged .* of 96000 bytes of sound"):
        load_audio(path)


@pytest.mark.parametrize(
    ("codec", "rate_hz"),
    [("adpcm_ms", 16000), ("adpcm_ima_wav", 16000), ("g722", 16000), ("mp2", 16000), ("pcm_alaw", 8000), ("flac", 16000),
     ("mp3", 16000), ("g726", 8000)],
)  # fmt: skip
def test_wav_holds_any_codec(tmp_path: Path, media: SimpleNamespace, codec: str, rate_hz: int) -> None:
    times = np.arange(3 * rate_hz) / rate_hz
    wave = (0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    samples = load_audio(media.write_audio(tmp_path / "s.wav", wave, codec, rate_hz))
    assert len(samples) / 16000 == pytest.approx(3, abs=0.15)
    spectrum = np.abs(np.fft.rfft(samples[16000:32000]))
    assert int(spectrum.argmax()) == pytest.approx(440, abs=2)


def test_gsm_in_wav(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "s.wav", 0.3 * np.sin(np.arange(48000) * 0.3), 16000, subtype="GSM610")
    assert len(load_audio(tmp_path / "s.wav")) / 16000 == pytest.approx(3, abs=0.05)


def mp3(path: Path, rate_hz: int, seconds: int) -> bytes:
    """A bare stream with a beep one second after its start."""
    sound = np.zeros(seconds * rate_hz, np.float32)
    sound[rate_hz : rate_hz + rate_hz // 10] = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate_hz // 10) / rate_hz)
    with av.open(str(path), "w", format="mp3", options={"write_xing": "0", "id3v2_version": "0"}) as container:
        stream = container.add_stream("libmp3lame", rate=rate_hz, layout="mono")
        for start in range(0, len(sound), 1152):
            frame = av.AudioFrame.from_ndarray(sound[None, start : start + 1152], "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, start, Fraction(1, rate_hz)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.mark.parametrize("rates_hz", [(44100, 48000), (48000, 32000, 44100)])
def test_positions_are_seconds_where_the_sampling_rate_changes(tmp_path: Path, rates_hz: tuple[int, ...]) -> None:
    (tmp_path / "mix.mp3").write_bytes(b"".join(mp3(tmp_path / "part.mp3", rate_hz, 6) for rate_hz in rates_hz))
    samples = load_audio(tmp_path / "mix.mp3")
    assert len(samples) / 16000 == pytest.approx(6 * len(rates_hz), abs=0.05 * len(rates_hz))
    loud = np.flatnonzero(np.abs(samples) > 0.2)
    beeps = loud[np.concatenate([[True], np.diff(loud) > 8000])] / 16000
    assert beeps.tolist() == pytest.approx([1 + 6 * part for part in range(len(rates_hz))], abs=0.1)


def test_the_first_sound_that_can_be_decoded(tmp_path: Path, media: SimpleNamespace) -> None:
    """The codec of the first of two streams becomes one that nobody knows."""
    path, sound = tmp_path / "s.mka", clicks(Fraction(25), 16000)
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, rate=16000, layout="mono") for codec in ("flac", "pcm_s16le")]
        for stream, gain in zip(streams, (0.1, 1.0), strict=True):
            values = (sound * gain * 32767).astype(np.int16)[None]
            for start in range(0, values.shape[1], 4096):
                frame = av.AudioFrame.from_ndarray(values[:, start : start + 4096], "s16", "mono")
                frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"A_FLAC", b"A_NONE"))
    with pytest.warns(
        UserWarning, match=r"first 1 of 2 sound streams of '.*s\.mka' cannot be decoded; number 2 is used"
    ):
        check_clicks(load_audio(path), Fraction(25), 1)


def test_windows_of_varying_pictures_lie_at_the_times_of_the_pictures() -> None:
    ticks = (0, 3, 4, 9, 15, 15, 27)
    clock = FrameClock(Fraction(3), 7, times=PictureTimes(Fraction(1, 10), ticks))
    samples = np.arange(48000, dtype=np.float32)
    windows = AudioWindows(samples, clock, 1 / 16000)
    ends = [*ticks[1:], 27 + 3]  # the last one lasts for the median interval, the lower one of two
    centres = [(start + end) / 20 * 16000 for start, end in zip(ticks, ends, strict=True)]
    assert windows.read(np.arange(7))[:, 0].tolist() == centres
    assert AudioWindows(samples[:40000], clock).valid.tolist() == [True] * 6 + [False]


def test_windows_after_an_hour() -> None:
    rate = Fraction(30000, 1001)
    num_frames = int(3600 * rate)
    centres = _centre_samples(FrameClock(rate, num_frames), 16000)
    for frame in (0, 1, 53_947, num_frames - 1):
        assert abs(int(centres[frame]) - Fraction(2 * frame + 1) / (2 * rate) * 16000) <= Fraction(1, 2)


def test_silence_beyond_both_ends() -> None:
    samples = np.arange(1, 16001, dtype=np.float32)  # one second
    windows = AudioWindows(samples, FrameClock(Fraction(10), 14))
    read = windows.read(np.array([0, 5, 9, 12]))
    assert (read.shape, read.dtype) == ((4, 8000), np.float32)
    assert read[0, :3200].max() == 0
    assert read[0, 3200] == 1
    np.testing.assert_array_equal(read[1], np.arange(4801, 12801))
    assert read[2, :4800].tolist() == np.arange(11201, 16001).tolist()
    assert read[2, 4800:].max() == 0
    assert read[3].max() == 0
    np.testing.assert_array_equal(np.flatnonzero(~windows.valid), [10, 11, 12, 13])


def test_windows_of_a_later_clock_and_of_other_lengths() -> None:
    samples = np.arange(32000, dtype=np.float32)
    shifted = AudioWindows(samples, FrameClock(Fraction(25), 10, 0.4)).read(np.array([3]))
    plain = AudioWindows(samples, FrameClock(Fraction(25), 20)).read(np.array([13]))
    np.testing.assert_array_equal(shifted, plain)
    assert AudioWindows(samples, FrameClock(Fraction(25), 2), window_s=0.66).read(np.array([1])).shape == (1, 10560)
    with pytest.raises(SettingError, match="at least one sample"):
        AudioWindows(samples, FrameClock(Fraction(25), 2), window_s=0)


def test_shared_speech(media: SimpleNamespace) -> None:
    path = media.shared / "speech_libri.wav"
    if not path.is_file():
        pytest.skip("no shared media here")
    expected, _ = soundfile.read(path, dtype="int16")
    np.testing.assert_array_equal(load_audio(path), expected / np.float32(32768))
    assert 4.1 < len(load_audio(media.shared / "people_1080p_aac.mp4")) / 16000 < 4.3
    assert 2.3 < len(load_audio(media.shared / "single_face.mp4")) / 16000 < 2.5


@pytest.mark.parametrize("length", [0, 1 << 62])
def test_long_wav_written_to_a_pipe_is_whole(tmp_path: Path, length: int) -> None:
    """RF64 keeps its length in 64 bits elsewhere, and writers that cannot go back leave it at nothing."""
    path = tmp_path / "s.wav"
    soundfile.write(path, clicks(Fraction(25), 16000), 16000, subtype="PCM_16", format="RF64")
    data = bytearray(path.read_bytes())
    place = data.index(b"ds64") + 8
    data[place : place + 24] = struct.pack("<QQQ", length, length, length)
    path.write_bytes(data)
    samples = load_audio(path)
    assert len(samples) == 48000
    check_clicks(samples, Fraction(25), 0)
