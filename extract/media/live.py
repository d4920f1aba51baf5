"""A medium that still grows, decoded as it comes: its pictures, its sound from the first picture on, and their clock so far."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from math import ceil
from pathlib import Path
from statistics import median_low
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock, PictureTimes
from cache.errors import MediaError
from extract.media.audio import RATE_HZ, Placer, Resampler, mix
from extract.media.container import default_stream, demux, moving_streams
from extract.media.growing import PATIENCE_S, GrowingFile, open_growing
from extract.media.timeline import largest_deviation, snap_rate, usual_rates

KEPT_S = 15  # of sound; the longest piece reaches 5 s before its frame
LATEST_S = 10  # that sound may come after its picture; a fragmented MP4 holds some seconds of each in turn
_SNAPPED = 10_000  # pictures over which a header's rate may be rounded


class LiveClock:
    """The frames of a medium so far, as `extract.media.timeline.Timeline.clock` counts those of a finished file.

    Frames follow the first of the usual rates that no picture has contradicted yet; if all are, the pictures' own times.

    Attributes:
        known: frames whose start and end are known.
    """

    def __init__(self, base: Fraction, nominal: Fraction) -> None:
        self._base = base
        rates = [snap_rate(nominal, _SNAPPED), nominal, *usual_rates(nominal)]
        self._rates = list(dict.fromkeys(rates))
        self._ticks = array("q")
        self._finished = False
        self.known = 0

    @classmethod
    def constant(cls, rate: Fraction) -> LiveClock:
        """A clock at one rate, for sound without pictures; its frames are counted from outside."""
        clock = cls(1 / rate, rate)
        clock._rates = [rate]
        return clock

    @property
    def is_regular(self) -> bool:
        """Whether all pictures so far came at one rate."""
        return bool(self._rates)

    def add(self, tick: int) -> None:
        """The next picture, in units of the base since the first one."""
        place = len(self._ticks)
        self._ticks.append(tick)
        while self._rates and abs(float(tick * self._base * self._rates[0]) - place) > largest_deviation(
            self._base, self._rates[0]
        ):
            del self._rates[0]
        self.known = max(self.known, len(self._ticks) - (0 if self._rates or self._finished else 1))

    def finish(self) -> None:
        """No picture follows."""
        self._finished = True
        self.known = max(self.known, len(self._ticks))

    def edge_s(self, frame: int) -> Fraction:
        """Start of a known frame, or the end of the last one, seconds after the first picture."""
        unit, (edge,) = self._edges(frame, frame + 1)
        return edge * unit

    def part(self, first: int, stop: int, start_s: float = 0.0) -> FrameClock:
        """Known frames; they are frames 1, 2, … of the result, whose time starts with that of the medium, at `start_s`."""
        unit, edges = self._edges(first, stop + 1)
        return FrameClock(1 / unit, len(edges) + 1, start_s, PictureTimes(unit, (0, *edges)))

    def _edges(self, first: int, stop: int) -> tuple[Fraction, list[int]]:
        """Unit in seconds, and edges of frames."""
        if self._rates:
            return 1 / self._rates[0], list(range(first, stop))
        edges = self._ticks[first:stop].tolist()
        if stop > len(self._ticks):
            steps = np.diff(np.frombuffer(self._ticks, np.int64)).tolist()
            edges.append(self._ticks[-1] + max(1, median_low(steps) if steps else 1))
        return self._base, edges


class LiveSound:
    """The sound of a medium so far at one rate.

    Attributes:
        rate_hz: samples per second.
        total: samples since the start.
    """

    def __init__(self, path: Path, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self.total = 0
        self._resampler = Resampler(path, rate_hz)
        self._blocks: list[NDArray[np.float32]] = []
        self._second = 0  # at which they start

    def add(self, rate: int, block: NDArray[np.float32]) -> None:
        """The next block."""
        self._take(self._resampler.add(rate, block))

    def finish(self) -> None:
        """No block follows."""
        self._take(self._resampler.finish())

    def since(self, second: int) -> NDArray[np.float32]:
        """Samples from a whole second on, which is not forgotten."""
        self._blocks = [np.concatenate(self._blocks)] if self._blocks else [np.zeros(0, np.float32)]
        return self._blocks[0][(second - self._second) * self.rate_hz :]

    def forget(self, second: int) -> None:
        """Drop what comes before a whole second."""
        second = min(second, self.total // self.rate_hz)
        if second > self._second:
            self._blocks = [self.since(second).copy()]
            self._second = second

    def _take(self, blocks: Iterator[NDArray[np.float32]]) -> None:
        for block in blocks:
            self._blocks.append(block)
            self.total += len(block)


class LiveMedium:
    """A medium that still grows.

    Attributes:
        path: of the file or device.
        clock: its frames so far: its pictures or, without any, ticks at a rate.
        finished: whether nothing follows.
        pixel_aspect: width of a stored pixel divided by its height.
        has_pictures: whether there is a video stream.
        has_sound: whether there is a sound stream.
        watchers: called with each decoded picture; its number counts the calls.
        damaged: packets of which all or a part could not be decoded.
        awaited_s: sound before this time is not awaited any more, seconds after the first picture; it may have ended, or its
            packets are damaged, and pictures would wait for it without end.
    """

    def __init__(self, path: Path, container: Any, file: GrowingFile | None, rate: Fraction) -> None:
        self.path, self._container, self._file = path, container, file
        self._video = default_stream(moving_streams(container))
        self._audio = next((one for one in container.streams.audio if one.codec_context is not None), None)
        self.has_pictures, self.has_sound = self._video is not None, self._audio is not None
        self.finished = False
        self.watchers: list[Callable[[av.VideoFrame], None]] = []
        self.damaged = 0
        self.awaited_s = Fraction(0)
        self._started: set[int] = set()
        self._sounds: dict[int, LiveSound] = {}
        self._early: list[tuple[Fraction | None, int, NDArray[np.float32]]] = []
        self._placer = None if self.has_pictures else Placer(path, None)
        self._rate = rate
        self._first = self._last = 0
        self._step = 1
        self.pixel_aspect = Fraction(1)
        self.clock = LiveClock.constant(rate)
        if self.has_pictures:
            self._video.thread_type = "SLICE"  # threads for whole pictures would hold some back
            nominal = Fraction(self._video.average_rate or self._video.guessed_rate or 25)
            self._step = max(1, round(1 / (nominal * self._video.time_base)))
            self.pixel_aspect = Fraction(self._video.sample_aspect_ratio or 1)
            self.clock = LiveClock(self._video.time_base, nominal)
        elif not self.has_sound:
            raise MediaError(f"'{path}' has neither pictures nor sound that can be decoded. Check the source.")

    @property
    def is_behind(self) -> bool:
        """Whether more has come that was not read yet."""
        return not self.finished and self._file is not None and self._file.has_more

    def sound(self, rate_hz: int) -> LiveSound:
        """The sound at a rate; to be asked for before reading."""
        return self._sounds.setdefault(rate_hz, LiveSound(self.path, rate_hz))

    def forget(self, frame: int) -> None:
        """Drop sound that no frame from this one on needs."""
        for sound in self._sounds.values():
            sound.forget(int(self.clock.edge_s(frame)) - KEPT_S)

    def read(self) -> Iterator[None]:
        """Decode to the end; returns to the caller whenever something new has come.

        Raises:
            MediaError: if what comes cannot be followed; everything before it was returned then, as at the end of a recording.
        """
        counted = None if self.has_pictures else self.sound(RATE_HZ)
        streams = [one for one in (self._video, self._audio if self._sounds else None) if one is not None]
        fault: MediaError | av.FFmpegError | None = None
        try:
            for packet in demux(self.path, self._container, streams):
                if self._file is not None:
                    self._file.raise_interruption()
                self._take(packet)
                if counted is not None:
                    self.clock.known = max(0, ceil(counted.total * self._rate / RATE_HZ - Fraction(1, 2)))
                yield
        except (MediaError, av.FFmpegError) as error:
            fault = error
        if self._file is not None:
            self._file.raise_interruption()
        for sound in self._sounds.values():
            sound.finish()
        self.clock.finish()
        if counted is not None and counted.total:
            self.clock.known = max(1, round(counted.total * self._rate / RATE_HZ))
        self.finished = True
        yield
        if isinstance(fault, av.FFmpegError) and self.clock.known:
            raise MediaError(
                f"'{self.path}' cannot be read beyond {self.clock.known} frames ({(fault.strerror or str(fault)).lower()}). Check the "
                "source, and follow it again."
            ) from fault
        if fault is not None:
            raise fault

    def _take(self, packet: Any) -> None:
        """Decode a packet; what is damaged is left out, since a stream does not come again."""
        if packet.size == 0 and packet.dts is not None:
            return
        frames, whole = [], not packet.is_corrupt
        try:
            frames = packet.decode()
        except av.FFmpegError:
            whole = False
        if not whole and packet.stream.index in self._started and not (self._file and self._file.ended):
            self._note_damage()  # which it is not before the first whole one, or where a recording was cut off
        if frames:
            self._started.add(packet.stream.index)
        for frame in frames:
            if packet.stream is self._video:
                self._show(frame)
            else:
                self._hear(frame)

    def _note_damage(self) -> None:
        self.damaged += 1
        if self.damaged == 1:
            warnings.warn(
                f"'{self.path}' is damaged after {self.clock.known} frames: packets were lost or cannot be decoded. It is followed on; "
                "pictures that are missing have no row, and missing sound is silence.",
                stacklevel=2,
            )

    def _show(self, frame: av.VideoFrame) -> None:
        time = frame.pts
        if self._placer is None:
            self._first = time or 0
            self._placer = Placer(self.path, self._first * self._video.time_base)
            self._last = self._first - self._step
        if time is None or time < self._last:  # counted, as in a stream without times or with those of storage
            time = self._last + self._step
        self._last = time
        self.clock.add(time - self._first)
        for watch in self.watchers:
            watch(frame)
        for early in self._early:
            self._place(*early)
        self._early = []
        self.awaited_s = (time - self._first) * self._video.time_base - LATEST_S

    def _hear(self, frame: av.AudioFrame) -> None:
        time = None if frame.pts is None or not frame.time_base else frame.pts * frame.time_base
        piece = time, frame.sample_rate, mix(frame)
        if self._placer is None:
            self._early.append(piece)
        else:
            self._place(*piece)

    def _place(self, time_s: Fraction | None, rate: int, samples: NDArray[np.float32]) -> None:
        assert self._placer is not None
        for placed_rate, block in self._placer.add(time_s, rate, samples):
            for sound in self._sounds.values():
                sound.add(placed_rate, block)


@contextmanager
def open_live(path: Path, rate: Fraction, patience_s: float = PATIENCE_S) -> Iterator[LiveMedium]:
    """Open a medium that still grows.

    Args:
        path: a file, a pipe, "-" for standard input, or a camera.
        rate: frames per second of sound without pictures.
        patience_s: how long a file may stay as it is before it counts as finished, seconds.

    Raises:
        MissingFileError: if there is no such file or device.
        MediaError: if nothing comes, or the format is unknown, or holds neither pictures nor sound.
    """
    with open_growing(path, patience_s) as (container, file):
        yield LiveMedium(path, container, file, rate)
