"""Pictures of a video on the label clock, as a player shows them, streamed with PyAV in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from cache.clock import ALLOWED_DIFFERENCE, FrameClock
from extract.media.container import damaged, demux, find_sound, media_faults, open_media
from extract.media.timeline import Timeline, check_clock, scan, video_stream

_SQUEEZE = 8  # flatter or taller pixels are an error in the file


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video, from its packets instead of its header.

    Attributes:
        clock: one frame per picture that is presented.
        duration_s: from the first picture to the end of the last one.
        width: pixels, as displayed; 0 for a file that only has sound.
        height: likewise.
        has_audio: whether a sound stream can be decoded.
    """

    clock: FrameClock
    duration_s: float
    width: int
    height: int
    has_audio: bool

    @property
    def rate(self) -> Fraction:
        """Frames per second, exact; the average if it varies."""
        return self.clock.rate

    @property
    def num_frames(self) -> int:
        """Pictures that are presented."""
        return self.clock.num_frames

    @property
    def varies(self) -> bool:
        """Whether the frame rate is variable."""
        return self.clock.times is not None


@dataclass(frozen=True)
class _View:
    """Converts stored pictures to what a player shows: square pixels, then rotated or mirrored.

    Attributes:
        height: of a stored picture after conversion to square pixels.
        width: likewise.
        swapped: whether rows and columns are swapped.
        flipped: whether rows and columns are then mirrored.
    """

    height: int
    width: int
    swapped: bool
    flipped: tuple[bool, bool]

    @classmethod
    def of(cls, frame: av.VideoFrame, pixel_aspect: Fraction) -> _View:
        """The view of a decoded picture, by its size and display matrix; pixels are only ever stretched."""
        aspect = pixel_aspect if Fraction(1, _SQUEEZE) <= pixel_aspect <= _SQUEEZE else Fraction(1)
        height = round(frame.height / min(aspect, Fraction(1)))
        width = round(frame.width * max(aspect, Fraction(1)))
        (a, b), (c, d) = _display_matrix(frame)  # a stored point (x, y) is shown at (a x + c y, b x + d y)
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(height, width, False, (d < 0, a < 0))
        return cls(height, width, True, (b < 0, c < 0))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width as shown."""
        return (self.width, self.height) if self.swapped else (self.height, self.width)

    def show(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Rotate and mirror a stored picture (H, W, 3) with square pixels."""
        if self.swapped:
            picture = picture.transpose(1, 0, 2)
        rows, columns = (-1 if flip else 1 for flip in self.flipped)
        return np.ascontiguousarray(picture[::rows, ::columns])


def _display_matrix(frame: av.VideoFrame) -> NDArray[np.int64]:
    """(2, 2) rotation and mirroring of a picture's display matrix; the identity if it has none."""
    found: Any = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return np.eye(2, dtype=np.int64)
    matrix = np.frombuffer(bytes(found), np.int32).reshape(3, 3)[:2, :2].astype(np.int64)
    return matrix if matrix.any() else np.eye(2, dtype=np.int64)


def shown_size(frame: av.VideoFrame, pixel_aspect: Fraction) -> tuple[int, int]:
    """Height and width of a decoded picture as a player shows it."""
    return _View.of(frame, pixel_aspect).shape


def probe(path: Path) -> VideoInfo:
    """Count the pictures of a video and decode the first one.

    Raises:
        MissingFileError: if there is no such file.
        MediaError: if it is empty, truncated, of an unknown format, or has no pictures.
    """
    timeline = scan(path)
    with open_media(path) as container:
        frame = next(_decode(path, container, video_stream(container, path)), None)
        if frame is None:
            raise damaged(path, "no picture can be decoded")
        height, width = shown_size(frame, timeline.pixel_aspect)
    duration_s = max(float(timeline.end_s), timeline.clock.duration_s)
    return VideoInfo(timeline.clock, duration_s, width, height, find_sound(path) is not None)


def read_frames(
    path: Path,
    clock: FrameClock,
    trial_id: str,
    *,
    max_side: int | None = None,
    wanted: Callable[[int], bool] | None = None,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the picture of every frame of a clock.

    On a clock of picture times, frame i is the i-th picture. On any other clock, it is the nearest picture by presentation
    time; exactly between two pictures the earlier one, which is on display then. At most two frames beyond the end of the
    video repeat its last picture. Memory is constant.

    Args:
        path: the video.
        clock: the label clock; `start_s` counts from the first picture.
        trial_id: the trial, for messages.
        max_side: if given, pictures are shrunk until the longer side has at most this many pixels.
        wanted: if given, frames for which it is false are skipped, and not converted.

    Yields:
        (frame, (H, W, 3) uint8 RGB picture, upright, with square pixels); a repeated picture is the same array, not a copy.

    Raises:
        MissingFileError: if there is no such file.
        MediaError: if it is empty, truncated, of an unknown format, or has no pictures.
        ShapeError: if its length differs from the clock's by more than two frames.
    """
    timeline = scan(path)
    check_clock(trial_id, timeline, clock, path)
    convert = Converter(max_side, timeline.pixel_aspect)
    for index, frame in _pick(path, timeline, clock):
        if wanted is None or wanted(index):
            with media_faults(path):
                picture = convert(frame)
            yield index, picture


def read_twofold(
    path: Path, clock: FrameClock, trial_id: str, max_side: int
) -> Iterator[tuple[int, NDArray[np.uint8], Callable[[], NDArray[np.uint8]]]]:
    """Yield the shrunk picture of every frame of a clock, and what returns its original: arguments and errors as of `read_frames`.

    The latter keeps the decoded picture in memory, 1.5 bytes per pixel.
    """
    timeline = scan(path)
    check_clock(trial_id, timeline, clock, path)
    small, full = (Converter(side, timeline.pixel_aspect) for side in (max_side, None))

    def convert(to: Converter, frame: av.VideoFrame) -> NDArray[np.uint8]:
        with media_faults(path):
            return to(frame)

    for index, frame in _pick(path, timeline, clock):
        yield index, convert(small, frame), partial(convert, full, frame)


def _decode(path: Path, container: Any, stream: Any) -> Iterator[av.VideoFrame]:
    """Pictures in presentation order, without empty packets (dropped pictures in AVI), which would end the decoder."""
    for packet in demux(path, container, stream):
        if packet.size or packet.dts is None:
            yield from packet.decode()


def timed_pictures(path: Path, timeline: Timeline) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield decoded pictures with their times in ticks of the container.

    Raises:
        MediaError: if the video is damaged.
    """
    times = timeline.times
    with open_media(path) as container:
        for position, frame in enumerate(_decode(path, container, video_stream(container, path))):
            time = frame.pts
            if timeline.counted or time is None:
                time = times[min(position, len(times) - 1)]
            yield time, frame


def _placed(path: Path, timeline: Timeline, clock: FrameClock) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Decoded pictures with their exact position on a clock, in frames; on a clock of picture times, their index."""
    times = timeline.times
    number = -1
    start = Fraction(clock.start_s) * clock.rate
    for time, frame in timed_pictures(path, timeline):
        if clock.times is None:
            yield (time - times[0]) * timeline.base * clock.rate - start, frame
            continue
        number += 1  # two pictures may have one time
        while number < len(times) - 1 and times[number] < time:
            number += 1
        yield Fraction(number), frame


def _pick(path: Path, timeline: Timeline, clock: FrameClock) -> Iterator[tuple[int, av.VideoFrame]]:
    """The nearest picture of every frame of a clock; only the previous picture is kept."""
    index = 0
    before = None
    before_place = Fraction(0)
    for place, frame in _placed(path, timeline, clock):
        if before is not None:
            middle = (before_place + place) / 2
            while index <= middle:
                yield index, before
                index += 1
                if index == clock.num_frames:
                    return
        before, before_place = frame, place
    if before is None:
        raise damaged(path, "no picture can be decoded")
    last = 1 if clock.times is not None else timeline.last_duration * timeline.base * clock.rate
    end = round(before_place + last)
    if clock.num_frames - max(index, end) > ALLOWED_DIFFERENCE:
        raise damaged(path, f"pictures can be decoded up to frame {end} of {clock.num_frames} only")
    for rest in range(index, clock.num_frames):
        yield rest, before


class Converter:
    """Converts decoded pictures to RGB arrays as displayed; the last one is kept for repeated frames.

    All are scaled to the size of the first one, as in a player's window, even if the stream changes its resolution.

    Args:
        max_side: see `read_frames`.
        pixel_aspect: width of a stored pixel divided by its height.
    """

    def __init__(self, max_side: int | None, pixel_aspect: Fraction) -> None:
        self._max_side, self._pixel_aspect = max_side, pixel_aspect
        self._reformatter = VideoReformatter()
        self._view: _View | None = None
        self._last: tuple[av.VideoFrame, NDArray[np.uint8]] | None = None

    def __call__(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        if self._last is None or self._last[0] is not frame:
            self._last = frame, self._convert(frame)
        return self._last[1]

    def _convert(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        if self._view is None:
            self._view = _View.of(frame, self._pixel_aspect)
        height, width = shrunk_size(self._view.height, self._view.width, self._max_side)
        small: Any = self._reformatter.reformat(frame, width, height, "rgb24", interpolation="AREA", threads=1)
        return self._view.show(small.to_ndarray())


def shrunk_size(height: int, width: int, max_side: int | None) -> tuple[int, int]:
    """Size with the longer side at most `max_side` pixels; never enlarged.

    >>> shrunk_size(1080, 1920, 640), shrunk_size(240, 320, 640)
    ((360, 640), (240, 320))
    """
    longer = max(height, width)
    if max_side is None or longer <= max_side:
        return height, width
    return max(1, round(height * max_side / longer)), max(1, round(width * max_side / longer))
