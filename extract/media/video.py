"""Pictures of a video on the label clock, as a player shows them, streamed with PyAV in constant memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from cache.clock import ALLOWED_DIFFERENCE, FrameClock
from cache.errors import MediaError, MissingFileError
from extract.media.container import damaged, demux, find_sound, media_faults, open_media
from extract.media.timeline import Timeline, check_clock, scan, video_stream

_SQUEEZE = 8  # a pixel that is flatter or taller than this is a slip of the writer


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video, from its packets rather than its header.

    Attributes:
        clock: one frame per picture that is presented.
        duration_s: from the first picture until the last one goes, as long as the container holds it.
        width: pixels, as displayed; 0 for a file that only has sound.
        height: likewise.
        has_audio: whether there is a sound stream that can be decoded.
    """

    clock: FrameClock
    duration_s: float
    width: int
    height: int
    has_audio: bool

    @property
    def rate(self) -> Fraction:
        """Frames per second by the intervals of the pictures, exact; the average where they vary."""
        return self.clock.rate

    @property
    def num_frames(self) -> int:
        """Pictures that are presented."""
        return self.clock.num_frames

    @property
    def varies(self) -> bool:
        """Whether the pictures follow no rate."""
        return self.clock.times is not None


@dataclass(frozen=True)
class _View:
    """Converts stored pictures to what a player shows: square pixels, then rotated or mirrored.

    Attributes:
        height: of a stored picture with square pixels.
        width: likewise.
        swapped: whether rows become columns.
        flipped: which axes (rows, columns) are then mirrored.
    """

    height: int
    width: int
    swapped: bool
    flipped: tuple[bool, bool]

    @classmethod
    def of(cls, frame: av.VideoFrame, pixel_aspect: Fraction) -> _View:
        """By the size and display matrix of a decoded picture; pixels are widened or heightened, none are lost."""
        height, width, aspect = frame.height, frame.width, pixel_aspect
        if not Fraction(1, _SQUEEZE) <= aspect <= _SQUEEZE:
            aspect = Fraction(1)
        height, width = (height, round(width * aspect)) if aspect >= 1 else (round(height / aspect), width)
        (a, b), (c, d) = _display_matrix(frame)  # a stored point (x, y) is shown at (a x + c y, b x + d y)
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(height, width, False, (d < 0, a < 0))
        return cls(height, width, True, (b < 0, c < 0))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width as shown."""
        return (self.width, self.height) if self.swapped else (self.height, self.width)

    def show(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A stored picture (H, W, 3) with square pixels, turned and mirrored."""
        if self.swapped:
            picture = picture.transpose(1, 0, 2)
        rows, columns = (-1 if flip else 1 for flip in self.flipped)
        return np.ascontiguousarray(picture[::rows, ::columns])


def _display_matrix(frame: av.VideoFrame) -> NDArray[np.int64]:
    """(2, 2) the turning and mirroring part of a picture's display matrix, the identity where there is none."""
    found: Any = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return np.eye(2, dtype=np.int64)
    matrix = np.frombuffer(bytes(found), np.int32).reshape(3, 3)[:2, :2].astype(np.int64)
    return matrix if matrix.any() else np.eye(2, dtype=np.int64)


def sha256_file(path: Path) -> str:
    """Digest of a file's bytes.

    Raises:
        MissingFileError: if there is no such file.
        MediaError: if it cannot be read.
    """
    if not path.is_file():
        raise MissingFileError(f"No file '{path}'. Check the path.")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MediaError(f"'{path}' cannot be read ({error.strerror or error}). Check its permissions.") from error


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
        height, width = _View.of(frame, timeline.pixel_aspect).shape
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

    Frame i of a clock of varying pictures is the i-th picture. Of any other clock it is the nearest picture by
    presentation time; exactly between two pictures the earlier one, which is on display then. At most two frames beyond
    the end of the video repeat its last picture. Memory is constant.

    Args:
        path: the video.
        clock: the label clock; `start_s` counts from the first picture.
        trial_id: the trial, for messages.
        max_side: if given, pictures are shrunk until the longer side has at most so many pixels.
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
    convert = _Converter(max_side, timeline.pixel_aspect)
    for index, frame in _pick(path, timeline, clock):
        if wanted is None or wanted(index):
            with media_faults(path):
                picture = convert(frame)
            yield index, picture


def _decode(path: Path, container: Any, stream: Any) -> Iterator[av.VideoFrame]:
    """Pictures in presentation order; empty packets (dropped pictures of AVI) would end the decoder early."""
    for packet in demux(path, container, stream):
        if packet.size or packet.dts is None:
            yield from packet.decode()


def _timed(path: Path, timeline: Timeline) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decoded pictures with their times, in ticks of the container."""
    times = timeline.times
    with open_media(path) as container:
        for position, frame in enumerate(_decode(path, container, video_stream(container, path))):
            time = frame.pts
            if timeline.counted or time is None:
                time = times[min(position, len(times) - 1)]
            yield time, frame


def _placed(path: Path, timeline: Timeline, clock: FrameClock) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Decoded pictures with their places on a clock, in frames: exact by time, or by number on a clock of pictures."""
    first, times, number = timeline.times[0], timeline.times, -1
    start = Fraction(clock.start_s) * clock.rate
    for time, frame in _timed(path, timeline):
        if clock.times is None:
            yield (time - first) * timeline.base * clock.rate - start, frame
            continue
        number += 1  # two pictures may have one time
        while number < len(times) - 1 and times[number] < time:
            number += 1
        yield Fraction(number), frame


def _pick(path: Path, timeline: Timeline, clock: FrameClock) -> Iterator[tuple[int, av.VideoFrame]]:
    """Nearest picture of every frame of a clock, one picture of look-behind."""
    index, before, before_place = 0, None, Fraction(0)
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


class _Converter:
    """Turns decoded pictures into RGB arrays as shown; the last one is kept for repeated frames.

    All have the size of the first one, as in a player's window, also where a stream changes its resolution.
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
