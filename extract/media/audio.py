"""The sound of a trial on the label clock: 16 kHz mono, sample 0 at the video's first picture.

Sound is decoded and resampled in blocks; long sound is kept in a temporary file (16 kHz: 230 MB per hour), from which the
windows are cut, so that memory does not grow with its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.errors import MediaError, SettingError
from extract.media.container import check_end, damaged, demux, find_sound, media_faults, open_media
from extract.media.spool import Spool
from extract.media.timeline import first_picture_s
from extract.media.video import probe
from extract.media.wav import Block, read_known
from extract.media.wav import check_length as check_wav_length

RATE_HZ = 16000
WINDOW_S = 0.5
_TOLERANCE_S = Fraction(1, 25)  # if they differ by more, timestamps take precedence over the count of samples
_LONGEST_HOLE_S = 3600  # timestamps that jump further, or beyond a day, are wrong
_LONGEST_S = 24 * 3600
_BLOCK = 1 << 16  # samples of silence at a time
_FULL_SCALE = {"u1": 128.0, "i2": 32768.0, "i4": 2147483648.0}
_OGG_PAGE = 27 + 255 + 255 * 255  # the largest one, bytes
_MP3_FRAME = 1 << 12  # no frame is larger
_MP3_COUNT = re.compile(rb"\xff[\xe0-\xff].{11,36}(Xing|Info|VBRI)", re.DOTALL)


class Samples(Protocol):
    """Sound (S,) float32 mono in [-1, 1], read by slices: an array, or a `Spool`."""

    def __len__(self) -> int: ...

    def __getitem__(self, wanted: slice, /) -> NDArray[np.float32]: ...


def load_audio(path: Path, rate_hz: int = RATE_HZ) -> NDArray[np.float32]:
    """The sound of a file as one array of the caller's own; arguments and errors as for `open_sound`."""
    return open_sound(path, rate_hz)[:].copy()


def open_sound(path: Path, rate_hz: int = RATE_HZ) -> Spool:
    """Decode, mix to mono (mean of the channels) and resample (soxr HQ) the sound of a file.

    In a container with pictures, sample 0 is at the first picture: earlier sound is cut off, sound that starts later is
    preceded by silence, and gaps are filled with silence.

    Args:
        path: a video, a container with sound only, or a sound file.
        rate_hz: samples per second of the result.

    Returns:
        (S,) float32 mono in [-1, 1], read by slices; 16-bit samples are exactly n / 32768 where nothing is resampled.

    Raises:
        MissingFileError: if there is no such file.
        MediaError: if it is empty, truncated, of an unknown format, or has no sound that can be decoded.
        SettingError: if the rate is not positive.
        StoreError: if there is no space for a temporary file.
    """
    samples = Spool()
    for block in _blocks(path, rate_hz):
        samples.append(block)
    return samples


def count_samples(path: Path, rate_hz: int = RATE_HZ) -> int:
    """Number of samples that `open_sound` has, whose errors this has too."""
    return sum(map(len, _blocks(path, rate_hz)))


def _blocks(path: Path, rate_hz: int) -> Iterator[NDArray[np.float32]]:
    """The samples of `open_sound`, one or more, in blocks."""
    if rate_hz < 1:
        raise SettingError(f"Sampling rate {rate_hz} Hz; expected at least 1. Change the parameters of the backbone.")
    blocks = read_known(path) or _place(path, _decode(path), first_picture_s(path))
    resampler = Resampler(path, rate_hz)
    added = chain.from_iterable(resampler.add(rate, block) for rate, block in blocks)
    empty = True
    with media_faults(path):
        for block in chain(added, resampler.finish()):
            empty = empty and not len(block)
            yield block
    if empty:
        raise MediaError(f"'{path}' has a sound stream without sound; expected samples. Copy or download it again.")


def _decode(path: Path) -> Iterator[tuple[Fraction | None, int, NDArray[np.float32]]]:
    """Decoded frames: time on the container's clock (s), samples per second, (S,) mono."""
    length = check_wav_length(path) if path.is_file() else ""
    with open_media(path, ignore_length=length == "open") as container:
        found = find_sound(path)
        known = [one for one in container.streams.audio if one.codec_context is not None]
        stream = next(iter(known), None) if found is None else container.streams[found]
        if stream is None:
            raise MediaError(
                f"'{path}' has no audio stream that can be decoded; expected sound. Add the sound as a file of its "
                "own, or leave the audio modality out."
            )
        started = False
        end_s = Fraction(0)
        for packet in demux(path, container, stream):
            if packet.is_corrupt and not length:
                raise damaged(path, "the sound breaks off")
            if packet.size == 0 and packet.dts is not None:
                continue
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                if started:
                    raise
                continue  # the first packets of a cut recording may depend on missing ones
            for frame in frames:
                started = True
                time = None if frame.pts is None or not frame.time_base else frame.pts * frame.time_base
                end_s = (end_s if time is None else time) + Fraction(frame.samples, frame.sample_rate)
                yield time, frame.sample_rate, mix(frame)
        _check_whole(path, container, stream, end_s)


def _check_whole(path: Path, container: Any, stream: Any, end_s: Fraction) -> None:
    """Raise if the sound is shorter than the file says; files that give no length are not checked."""
    names = set(container.format.name.split(","))
    if "ogg" in names and not _ogg_is_finished(path):
        raise MediaError(
            f"'{path}' ends without the mark of the last Ogg page, so it is truncated or its recording was never "
            "finished; expected a whole sound file. Copy or download it again; if nothing is missing, rewrite it "
            "with 'ffmpeg -i OLD -c copy NEW'."
        )
    if "mp3" not in names or _mp3_is_counted(path):
        check_end(path, container, stream, end_s)


def _ogg_is_finished(path: Path) -> bool:
    """Whether the last page is complete and marked as the last one."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _OGG_PAGE))
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    sizes = page[27 : 27 + page[26]] if len(page) > 26 else b""
    return len(sizes) > 0 and bool(page[5] & 4) and len(page) >= 27 + len(sizes) + sum(sizes)


def _mp3_is_counted(path: Path) -> bool:
    """Whether a header before the first sound gives the number of frames; otherwise libav estimates the length."""
    with open_media(path) as container, path.open("rb") as file:
        position = next(container.demux()).pos or 0
        file.seek(max(0, position - _MP3_FRAME))
        return bool(_MP3_COUNT.search(file.read(min(position, _MP3_FRAME))))


def mix(frame: av.AudioFrame) -> NDArray[np.float32]:
    """Mean of the channels of a decoded frame, (S,) in [-1, 1]."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(frame.samples, -1).T
    kind = samples.dtype.str[1:]
    if kind in _FULL_SCALE:
        offset = 128 if kind == "u1" else 0
        return ((samples.astype(np.float64).mean(axis=0) - offset) / _FULL_SCALE[kind]).astype(np.float32)
    return samples.mean(axis=0, dtype=np.float64).astype(np.float32)


def _place(
    path: Path, frames: Iterable[tuple[Fraction | None, int, NDArray[np.float32]]], origin_s: Fraction | None
) -> Iterator[Block]:
    """Decoded frames as `Placer` lays them out."""
    placer = Placer(path, origin_s)
    for time_s, rate, samples in frames:
        yield from placer.add(time_s, rate, samples)


class Placer:
    """Lays decoded frames out from `origin_s` (the first sound if None), without gaps or overlaps."""

    def __init__(self, path: Path, origin_s: Fraction | None) -> None:
        self._path, self._origin_s = path, origin_s
        self._position_s = Fraction(0)  # seconds, since the sampling rate may change

    def add(self, time_s: Fraction | None, rate: int, samples: NDArray[np.float32]) -> Iterator[Block]:
        """What follows the earlier frames.

        Raises:
            MediaError: if the sound jumps too far.
        """
        if self._origin_s is None:
            self._origin_s = time_s or Fraction(0)
        away_s = Fraction(0) if time_s is None else time_s - self._origin_s - self._position_s
        if abs(away_s) <= _TOLERANCE_S and self._position_s:
            away_s = Fraction(0)
        if away_s > _LONGEST_HOLE_S or self._position_s > _LONGEST_S:
            raise damaged(self._path, f"the sound jumps by {float(away_s):.0f} s")
        away = round(away_s * rate)
        for start in range(0, away, _BLOCK):
            yield rate, np.zeros(min(_BLOCK, away - start), np.float32)
        rest = samples[-away:] if away < 0 else samples
        yield rate, rest
        self._position_s += Fraction(max(away, 0) + len(rest), rate)


class Resampler:
    """Converts blocks to another rate, in [-1, 1]; sample 0 stays sample 0."""

    def __init__(self, path: Path, rate_hz: int) -> None:
        self._path, self._rate_hz = path, rate_hz
        self._current = 0
        self._stream: soxr.ResampleStream | None = None

    def add(self, rate: int, block: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """What is known with the next block.

        Raises:
            MediaError: if samples are not numbers.
        """
        if rate != self._current:
            yield from self.finish()
            self._current = rate
            other = rate != self._rate_hz
            self._stream = soxr.ResampleStream(rate, self._rate_hz, 1, "float32", "HQ") if other else None
        yield self._checked(block if self._stream is None else self._stream.resample_chunk(block))

    def finish(self) -> Iterator[NDArray[np.float32]]:
        """What is left at the end."""
        if self._stream is not None:
            yield self._checked(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))

    def _checked(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.isfinite(block).all():
            raise damaged(self._path, "it has samples that are not numbers")
        return np.clip(block, -1, 1, dtype=np.float32)


def sound_clock(path: Path, rate: Fraction) -> FrameClock:
    """Clock of a file that only has sound, with the given rate.

    Raises:
        MissingFileError: if there is no such file.
        MediaError: if it is empty, truncated, of an unknown format, or has no sound that can be decoded.
    """
    return FrameClock(rate, max(1, round(count_samples(path) * rate / RATE_HZ)))


class AudioWindows:
    """Windows of sound centred on frames, padded with silence at both ends.

    A window is centred between the start and the end of its frame, (2f + 1) / (2 rate) seconds after the clock's start
    [Karas2022, Section 4.1]; places are exact fractions, so nothing drifts. (Karas' code shifts the last windows inwards and
    pads on the left; here the window stays centred.)

    Attributes:
        valid: (T,) bool, true where the centre of the frame lies inside the sound.
    """

    def __init__(
        self,
        samples: Samples,
        clock: FrameClock,
        window_s: float = WINDOW_S,
        rate_hz: int = RATE_HZ,
    ) -> None:
        """Prepare the windows of a trial.

        Args:
            samples: (S,) float32 mono, sample 0 at the first picture.
            clock: the label clock.
            window_s: length of a window, seconds.
            rate_hz: samples per second.

        Raises:
            SettingError: if a window is shorter than one sample.
        """
        self.window = round(window_s * rate_hz)
        if self.window < 1:
            raise SettingError(f"Window of {window_s} s at {rate_hz} Hz; expected at least one sample.")
        self._samples = samples
        centres = _centre_samples(clock, rate_hz)
        self._starts = centres - self.window // 2
        self.valid = (centres >= 0) & (centres < len(samples))

    def read(self, frames: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, W) float32 windows of these frames.

        Args:
            frames: (N,) 0-based frames.
        """
        windows = np.zeros((len(frames), self.window), np.float32)
        for row, start in zip(windows, self._starts[np.asarray(frames, np.int64)].tolist(), strict=True):
            first = max(start, 0)
            stop = min(start + self.window, len(self._samples))
            if first < stop:
                row[first - start : stop - start] = self._samples[first:stop]
        return windows


def _centre_samples(clock: FrameClock, rate_hz: int) -> NDArray[np.int64]:
    """(T,) the sample nearest to the centre of each frame, halves rounded up."""
    places, scale = clock.moments(rate_hz, centred=True)
    return np.array([(2 * place + scale) // (2 * scale) for place in places], np.int64)


def media_clock(path: Path, rate: Fraction) -> FrameClock:
    """The clock of a loose file: the video's own pictures, or ticks of `rate` over a file that only has sound.

    Raises:
        MissingFileError: if there is no such file.
        MediaError: if it is empty, truncated, or holds neither pictures nor sound.
    """
    return probe(path).clock if first_picture_s(path) is not None else sound_clock(path, rate)
