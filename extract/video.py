"""Video frames on the label clock, streamed with PyAV in constant memory.

Times are exact fractions of a second after the first frame that is presented. Containers lie about
their length, their rate and (AVI) even about the order of frames, so the packets are counted and
their timestamps sorted before anything is decoded.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from cache.clock import ALLOWED_DIFFERENCE, FrameClock
from cache.errors import MediaError, MissingFileError, ShapeError

DECODER_THREADS = 4  # more add memory (one picture each), hardly speed
_FIRST_PACKETS = 64  # decoders reorder at most 16 pictures, so the earliest one is among these
_NTSC = Fraction(1000, 1001)
_COUNTED_FORMATS = {"mov", "aiff", "au", "flac", "mp3", "tta", "wv"}  # their headers count what each stream holds
_TOLERANCE_S = Fraction(1, 2)  # writers round lengths, and guess how long the last packets last
_PLACEHOLDER = 1 << 24  # pictures: a week; AVI writers that cannot go back leave such numbers


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds, by its packets rather than by its header.

    Attributes:
        rate: frames per second, exact; the average where the rate varies.
        num_frames: pictures that are presented.
        duration_s: from the first picture to the end of the last one.
        width: pixels, as displayed.
        height: pixels, as displayed.
        has_audio: whether there is a sound stream.
        rotation: degrees counter-clockwise by which stored pictures are turned for display.
    """

    rate: Fraction
    num_frames: int
    duration_s: float
    width: int
    height: int
    has_audio: bool
    rotation: int


@dataclass(frozen=True)
class _Timeline:
    """Presentation times of a stream's packets, sorted, in units of `base` seconds."""

    base: Fraction
    times: array[int]
    last_duration: int
    nominal_rate: Fraction
    counted: bool  # frames must be given these times by their position: their own are out of order
    num_packets: int  # with those that are stored but not presented

    @property
    def span_s(self) -> Fraction:
        """Seconds from the first picture to the end of the last one."""
        return (self.times[-1] - self.times[0] + self.last_duration) * self.base

    @cached_property
    def rate(self) -> Fraction:
        """Nominal rate where it explains the number of pictures, else the average one."""
        number, rate = len(self.times), self.nominal_rate
        if rate <= 0 or abs(self.span_s * rate - number) > 1:
            rate = (number / self.span_s).limit_denominator(1_000_000)
        for usual in (Fraction(round(rate)), round(rate) * _NTSC):
            if abs(rate - usual) * max(4 * number, 10_000) < rate:
                return usual
        return rate


def check_span(trial_id: str, span_s: Fraction, clock: FrameClock, path: Path) -> None:
    """Refuse a video that is longer or shorter than the clock that the corpus read from it.

    Args:
        trial_id: for the message.
        span_s: of the pictures, seconds.
        clock: of the trial.
        path: of the video.

    Raises:
        ShapeError: if the clock has over two ticks more or less than the video lasts.
    """
    ticks = round((span_s - Fraction(clock.start_s)) * clock.rate)
    if abs(ticks - clock.num_frames) > ALLOWED_DIFFERENCE:
        raise ShapeError(
            f"Trial '{trial_id}' has {clock.num_frames} frames at {float(clock.rate):g} per second, but '{path}' lasts "
            f"{float(span_s):.2f} s, which is {ticks} of them; a difference of {ALLOWED_DIFFERENCE} is allowed. If the file "
            "has changed since the corpus was built, run 'avfusion corpus build' again."
        )


def sha256_file(path: Path) -> str:
    """Digest of a file's bytes.

    Raises:
        MissingFileError: if there is no such file.
    """
    if not path.is_file():
        raise MissingFileError(f"No file '{path}'. Check the path.")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def probe(path: Path) -> VideoInfo:
    """Count the pictures of a video and decode the first one.

    Raises:
        MissingFileError: if there is no such file.
        MediaError: if it is empty, truncated, of no known format, or has no pictures.
    """
    timeline = _scan(path)
    with open_media(path) as container:
        has_audio = bool(container.streams.audio)
        frame = next(_decode(path, container, _video_stream(container, path)), None)
        if frame is None:
            raise _damaged(path, "no picture can be decoded")
        rotation = _rotation(frame)
        width, height = (frame.width, frame.height) if rotation % 180 == 0 else (frame.height, frame.width)
    return VideoInfo(timeline.rate, len(timeline.times), float(timeline.span_s), width, height, has_audio, rotation)


def read_frames(
    path: Path,
    clock: FrameClock,
    trial_id: str,
    *,
    max_side: int | None = None,
    wanted: Callable[[int], bool] | None = None,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the picture of every tick of a clock, nearest by presentation time.

    A tick exactly between two pictures takes the earlier one, which is on display then. At most two
    ticks beyond the end of the video repeat its last picture. Memory is constant.

    Args:
        path: the video.
        clock: the label clock; `start_s` counts from the first picture.
        trial_id: the trial, for messages.
        max_side: if given, pictures are shrunk until the longer side has at most so many pixels.
        wanted: if given, ticks for which it is false are skipped, and not converted.

    Yields:
        (tick, (H, W, 3) uint8 RGB picture, upright); a repeated picture is the same array, not a copy.

    Raises:
        MissingFileError: if there is no such file.
        MediaError: if it is empty, truncated, of no known format, or has no pictures.
        ShapeError: if its length differs from the clock's by more than two ticks.
    """
    convert = _Converter(max_side)
    for tick, frame in _pick(path, clock, trial_id):
        if wanted is None or wanted(tick):
            yield tick, convert(frame)


@contextmanager
def open_media(path: Path) -> Iterator[Any]:
    """Open a container for reading; every fault of libav inside becomes a `MediaError`.

    Only local files are opened, whatever a playlist disguised as a video may ask for.

    Raises:
        MissingFileError: if there is no such file.
        MediaError: if it is empty, of no known format, or a fault occurs while it is open.
    """
    if not path.exists():
        raise MissingFileError(f"No media file '{path}'. Check the path.")
    if not path.is_file():
        raise MediaError(f"'{path}' is a folder; expected a video or sound file. Check the path.")
    if path.stat().st_size == 0:
        raise MediaError(f"'{path}' is empty (0 bytes); expected a video or sound file. Copy or download it again.")
    options = {"protocol_whitelist": "file"}
    try:
        with av.open(f"file:{path.absolute()}", container_options=options, metadata_errors="replace") as container:
            yield container
    except av.FFmpegError as error:
        raise _damaged(path, error.strerror or str(error)) from error


def demux(path: Path, container: Any, stream: Any) -> Iterator[Any]:
    """Packets of one stream, the last one empty.

    Raises:
        MediaError: if another stream turns up midway, which PyAV answers with an IndexError.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except IndexError as error:
            raise _damaged(path, "another stream turns up midway") from error
        if packet is None:
            return
        yield packet


def check_end(path: Path, container: Any, stream: Any, end_s: Fraction) -> None:
    """Refuse a file that ends before its header promises; nothing is known of live recordings.

    Args:
        path: of the file.
        container: the same, open.
        stream: the one that was read.
        end_s: where it ends, in the container's own time.

    Raises:
        MediaError: if that is too early.
    """
    names, streams, promised_s = set(container.format.name.split(",")), container.streams, Fraction(0)
    if counted := bool(names & _COUNTED_FORMATS):
        promised_s = Fraction(((stream.start_time or 0) + (stream.duration or 0)) * (stream.time_base or 0))
    elif "avi" in names:
        known = (one for one in streams.video if one.time_base and one.frames < _PLACEHOLDER)
        promised_s = max((one.frames * one.time_base for one in known), default=promised_s)
    elif names & {"matroska", "flv"} and not all(one.duration for one in streams):  # else libav guessed by the bit rate
        promised_s = Fraction(container.duration or 0, av.time_base)
    least_s = promised_s - _TOLERANCE_S + Fraction(min(container.start_time or 0, 0), av.time_base)
    if end_s < least_s and not counted:  # another stream may be the longest one
        with open_media(path) as again:
            timed = (one for one in demux(path, again, [*again.streams]) if one.time_base and (one.pts or one.dts))
            ends_s = (((one.pts or one.dts or 0) + (one.duration or 0)) * one.time_base for one in timed)
            end_s = max(ends_s, default=end_s)
    if end_s < least_s:
        raise _damaged(path, f"it breaks off after {float(end_s):.2f} of {float(promised_s):.2f} s")


def first_picture_s(path: Path) -> Fraction | None:
    """Moment of the first picture in the container's own time, seconds; None without a video stream.

    Raises:
        MissingFileError: if there is no such file.
        MediaError: if it is empty or of no known format.
    """
    with open_media(path) as container:
        stream = _find_video(container)
        if stream is None:
            return None
        timeline = _timeline(path, container, stream, _FIRST_PACKETS)
    return timeline.times[0] * timeline.base if timeline.times else None


def _damaged(path: Path, what: str) -> MediaError:
    return MediaError(
        f"'{path}' is truncated, damaged or of no known format ({what.lower()}); expected a whole video or sound "
        "file. Copy or download it again. If it plays to its end, run 'ffmpeg -i OLD -c copy NEW'."
    )


def _find_video(container: Any) -> Any:
    """First video stream that can be decoded and is not a cover picture, or None."""
    cover = av.stream.Disposition.attached_pic
    usable = (one for one in container.streams.video if one.codec_context is not None and one.time_base)
    return next((stream for stream in usable if not stream.disposition & cover), None)


def _video_stream(container: Any, path: Path) -> Any:
    stream = _find_video(container)
    if stream is None:
        raise MediaError(f"'{path}' has no video stream that can be decoded; expected a video. Check the path.")
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = DECODER_THREADS
    return stream


def _scan(path: Path) -> _Timeline:
    """Timestamps of all pictures of a video, without decoding them."""
    with open_media(path) as container:
        stream = _video_stream(container, path)
        timeline = _timeline(path, container, stream)
        if not timeline.times:
            raise _damaged(path, "it holds no pictures")
        if "mov" in container.format.name.split(",") and timeline.num_packets < stream.frames:
            raise _damaged(path, f"it breaks off after {timeline.num_packets} of {stream.frames} pictures")
        check_end(path, container, stream, (timeline.times[-1] + timeline.last_duration) * timeline.base)
    return timeline


def _timeline(path: Path, container: Any, stream: Any, limit: int | None = None) -> _Timeline:
    """Timestamps of the first `limit` pictures in storage order, then sorted."""
    nominal = stream.average_rate or stream.guessed_rate or Fraction(25)
    usual_duration = max(1, round(1 / (nominal * stream.time_base)))
    times, last, duration, skipped = array("q"), None, 0, 0
    lags: set[int | None] = set()
    for packet in demux(path, container, stream):
        if packet.is_corrupt:
            raise _damaged(path, f"it breaks off after {len(times)} pictures")
        if packet.size == 0 or packet.is_discard:
            skipped += packet.is_discard
            continue
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None:  # a bare stream without a container
            time = len(times) * usual_duration
        elif len(lags) < 2:
            lags.add(time - packet.dts if packet.dts is not None else None)
        if last is None or time >= last:
            last, duration = time, packet.duration or usual_duration
        times.append(time)
        if len(times) == limit:
            break
    counted = not lags or (len(lags) == 1 and bool(stream.codec_context.has_b_frames))
    return _Timeline(
        stream.time_base, array("q", sorted(times)), duration, Fraction(nominal), counted, len(times) + skipped
    )


def _decode(path: Path, container: Any, stream: Any) -> Iterator[av.VideoFrame]:
    """Pictures in presentation order; empty packets (dropped pictures of AVI) would end the decoder early."""
    for packet in demux(path, container, stream):
        if packet.size or packet.dts is None:
            yield from packet.decode()


def _timed(path: Path, timeline: _Timeline) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Decoded pictures with their moments after the first picture, seconds."""
    first, base, times = timeline.times[0], timeline.base, timeline.times
    with open_media(path) as container:
        for position, frame in enumerate(_decode(path, container, _video_stream(container, path))):
            time = frame.pts
            if timeline.counted or time is None:
                time = times[min(position, len(times) - 1)]
            yield (time - first) * base, frame


def _pick(path: Path, clock: FrameClock, trial_id: str) -> Iterator[tuple[int, av.VideoFrame]]:
    """Nearest picture of every tick, one picture of look-behind."""
    timeline = _scan(path)
    check_span(trial_id, timeline.span_s, clock, path)
    start, period, tick = Fraction(clock.start_s), 1 / clock.rate, 0
    before: av.VideoFrame | None = None
    before_s = Fraction(0)
    for time_s, frame in _timed(path, timeline):
        if before is not None:
            middle_s = (before_s + time_s) / 2
            while start + tick * period <= middle_s:
                yield tick, before
                tick += 1
                if tick == clock.num_frames:
                    return
        before, before_s = frame, time_s
    if before is None:
        raise _damaged(path, "no picture can be decoded")
    end_s = before_s + timeline.last_duration * timeline.base
    missing = clock.num_frames - max(tick, round((end_s - start) * clock.rate))
    if missing > ALLOWED_DIFFERENCE:
        raise _damaged(path, f"pictures can be decoded up to {float(end_s):.3f} of {float(timeline.span_s):.3f} s only")
    for rest in range(tick, clock.num_frames):
        yield rest, before


def _rotation(frame: av.VideoFrame) -> int:
    """Quarter turns of the display matrix, degrees counter-clockwise in {0, 90, 180, 270}."""
    return round(frame.rotation / 90) * 90 % 360


class _Converter:
    """Turns decoded pictures into upright RGB arrays; the last one is kept for repeated ticks."""

    def __init__(self, max_side: int | None) -> None:
        self._max_side = max_side
        self._reformatter = VideoReformatter()
        self._last: tuple[av.VideoFrame, NDArray[np.uint8]] | None = None

    def __call__(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        if self._last is None or self._last[0] is not frame:
            self._last = frame, self._convert(frame)
        return self._last[1]

    def _convert(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        height, width = shrunk_size(frame.height, frame.width, self._max_side)
        small = self._reformatter.reformat(frame, width, height, "rgb24", interpolation="AREA", threads=1)
        return np.ascontiguousarray(np.rot90(small.to_ndarray(), _rotation(frame) // 90))


def shrunk_size(height: int, width: int, max_side: int | None) -> tuple[int, int]:
    """Size with the longer side at most `max_side` pixels; never enlarged.

    >>> shrunk_size(1080, 1920, 640), shrunk_size(240, 320, 640)
    ((360, 640), (240, 320))
    """
    longer = max(height, width)
    if max_side is None or longer <= max_side:
        return height, width
    return max(1, round(height * max_side / longer)), max(1, round(width * max_side / longer))
