"""Presentation times of a video's pictures, from its packets instead of its header.

Headers are often wrong about length and rate, and in AVI even about the order of pictures, so the packets are counted and
their timestamps sorted before anything is decoded.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cache.clock import ALLOWED_DIFFERENCE, FrameClock, PictureTimes
from cache.errors import MediaError, ShapeError
from extract.media.container import check_end, damaged, demux, find_video, open_media, stamp

DECODER_THREADS = 4  # more cost memory (one picture each) for little speed
_FIRST_PACKETS = 64  # decoders reorder at most 16 pictures, so the earliest one is among these
_NTSC = Fraction(1000, 1001)
_LARGEST_SHARE = 0.25  # of a frame: largest deviation of a picture in a regular video, however coarse its timestamps
_ROUNDING = 1e-6  # frames


@dataclass(frozen=True)
class Timeline:
    """Presentation times of a stream's packets, sorted, in units of `base` seconds.

    Attributes:
        base: seconds per tick of the container.
        times: of each picture, ticks.
        last_duration: how long the last picture is shown, ticks.
        nominal_rate: pictures per second according to the header.
        counted: whether pictures get these times by position, because their own are out of order.
        num_packets: including those that are not presented.
        pixel_aspect: width of a stored pixel divided by its height.
    """

    base: Fraction
    times: array[int]
    last_duration: int
    nominal_rate: Fraction
    counted: bool
    num_packets: int
    pixel_aspect: Fraction

    @property
    def end_s(self) -> Fraction:
        """Seconds from the first picture to the end of the last one."""
        return (self.times[-1] - self.times[0] + self.last_duration) * self.base

    @cached_property
    def clock(self) -> FrameClock:
        """One frame per picture: a constant rate if the pictures follow one to within a tick, else their own times.

        The rate is that of the intervals between pictures, regardless of how long the last one is shown.
        """
        number = len(self.times)
        ticks = np.frombuffer(self.times, np.int64) - self.times[0]
        own = PictureTimes(self.base, tuple(ticks.tolist()))
        if number == 1 or not ticks[-1]:
            rate = self.nominal_rate if self.nominal_rate > 0 else 1 / (max(self.last_duration, 1) * self.base)
            return FrameClock(snap_rate(rate, number), number, times=own if number > 1 else None)
        mean = Fraction(number - 1) / (int(ticks[-1]) * self.base)
        for rate in self._candidates(mean, number):
            places = ticks * (self.base.numerator * rate.numerator / (self.base.denominator * rate.denominator))
            if np.abs(places - np.arange(number)).max() <= largest_deviation(self.base, rate):
                return FrameClock(rate, number)
        return FrameClock(mean.limit_denominator(1_000_000), number, times=own)

    def _candidates(self, mean: Fraction, number: int) -> Iterator[Fraction]:
        """Rates that the pictures may follow, the most likely first."""
        if self.nominal_rate > 0:
            yield snap_rate(self.nominal_rate, number)
            yield self.nominal_rate
        yield from usual_rates(mean)
        yield mean.limit_denominator(1_000_000)
        yield mean


def largest_deviation(base: Fraction, rate: Fraction) -> float:
    """How far a picture may be from its place at a constant rate, frames, with timestamps in units of `base` seconds."""
    return min(float(base * rate), _LARGEST_SHARE) + _ROUNDING


def usual_rates(rate: Fraction) -> list[Fraction]:
    """The integer and the NTSC rate next to a rate, the nearer one first."""
    usual = [one for one in (Fraction(round(rate)), round(rate) * _NTSC) if one]
    return sorted(usual, key=lambda one: abs(one - rate))


def snap_rate(rate: Fraction, number: int) -> Fraction:
    """The integer or NTSC rate that differs from this one only by rounding over so many pictures, or else the rate itself."""
    for usual in (Fraction(round(rate)), round(rate) * _NTSC):
        if abs(rate - usual) * max(4 * number, 10_000) < rate:
            return usual
    return rate


def check_clock(trial_id: str, timeline: Timeline, clock: FrameClock, path: Path) -> None:
    """Check that a video fits the clock of its trial.

    Args:
        trial_id: for the message.
        timeline: of the video.
        clock: of the trial.
        path: of the video.

    Raises:
        ShapeError: if the clock is more than two frames longer or shorter, or has the times of other pictures.
    """
    again = "If the file has changed since the corpus was built, run 'avfusion corpus build' again."
    own = timeline.clock
    if clock.times is not None:
        common = min(own.num_frames, clock.num_frames)
        if abs(own.num_frames - clock.num_frames) > ALLOWED_DIFFERENCE or own.resized(common) != clock.resized(common):
            raise ShapeError(f"Trial '{trial_id}' has {clock}, but '{path}' has {own}, or at other times. {again}")
        return
    start_s = Fraction(clock.start_s)
    shown = max(timeline.end_s, Fraction(own.duration_s))  # including the last picture
    least, most = (round((end_s - start_s) * clock.rate) for end_s in (Fraction(own.duration_s), shown))
    if not least - ALLOWED_DIFFERENCE <= clock.num_frames <= most + ALLOWED_DIFFERENCE:
        raise ShapeError(
            f"Trial '{trial_id}' has {clock.num_frames} frames at {clock.rate_hz:g} per second, but '{path}' lasts "
            f"{own.duration_s:.2f} s, which is {least} of them; a difference of {ALLOWED_DIFFERENCE} is allowed. {again}"
        )


def scan(path: Path) -> Timeline:
    """Timestamps of all pictures of a video, without decoding them.

    Raises:
        MissingFileError: if there is no such file.
        MediaError: if it is empty, truncated, of an unknown format, or has no pictures.
    """
    return _scan(path, *(stamp(path) if path.is_file() else (0, 0)))


@functools.lru_cache(maxsize=16)  # one video is scanned for its clock, its crops and its sound
def _scan(path: Path, size: int, modified: int) -> Timeline:
    with open_media(path) as container:
        stream = video_stream(container, path)
        timeline = _read(path, container, stream)
        if not timeline.times:
            raise damaged(path, "it holds no pictures")
        if "mov" in container.format.name.split(",") and timeline.num_packets < stream.frames:
            raise damaged(path, f"it breaks off after {timeline.num_packets} of {stream.frames} pictures")
        check_end(path, container, stream, (timeline.times[-1] + timeline.last_duration) * timeline.base)
    return timeline


def first_picture_s(path: Path) -> Fraction | None:
    """Time of the first picture on the container's clock, seconds; None without a video stream.

    Raises:
        MissingFileError: if there is no such file.
        MediaError: if it is empty or of an unknown format.
    """
    with open_media(path) as container:
        stream = find_video(path, container)
        if stream is None:
            return None
        timeline = _read(path, container, stream, _FIRST_PACKETS)
    return timeline.times[0] * timeline.base if timeline.times else None


def video_stream(container: Any, path: Path) -> Any:
    """The video stream that a player shows, set up for decoding with several threads.

    Raises:
        MediaError: if there is none.
    """
    stream = find_video(path, container)
    if stream is None:
        raise MediaError(f"'{path}' has no video stream that can be decoded; expected a video. Check the path.")
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = DECODER_THREADS
    return stream


def _read(path: Path, container: Any, stream: Any, limit: int | None = None) -> Timeline:
    """Timestamps of the first `limit` pictures in storage order, then sorted."""
    nominal = stream.average_rate or stream.guessed_rate or Fraction(25)
    usual_duration = max(1, round(1 / (nominal * stream.time_base)))
    times = array("q")
    last: int | None = None
    duration = skipped = 0
    lags: set[int | None] = set()
    for packet in demux(path, container, stream):
        if packet.is_corrupt:
            raise damaged(path, f"it breaks off after {len(times)} pictures")
        if packet.size == 0 or packet.is_discard:
            skipped += packet.is_discard
            continue
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None:  # a bare stream without a container
            time = len(times) * usual_duration
        elif len(lags) < 2:
            lags.add(time - packet.dts if packet.dts is not None else None)
        if last is None or time >= last:
            last = time
            duration = packet.duration or usual_duration
        times.append(time)
        if len(times) == limit:
            break
    counted = not lags or (len(lags) == 1 and bool(stream.codec_context.has_b_frames))
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    times = array("q", sorted(times))
    return Timeline(stream.time_base, times, duration, Fraction(nominal), counted, len(times) + skipped, aspect)
