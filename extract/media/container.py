"""Media containers: opened safely, read stream by stream, and checked against the length in their header."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from cache.errors import AvFusionError, MediaError, MissingFileError

_COUNTED_FORMATS = {"mov", "aiff", "au", "flac", "mp3", "tta", "wv"}  # their headers count what each stream holds
_TOLERANCE_S = Fraction(1, 2)  # writers round lengths, and estimate the duration of the last packets
_PLACEHOLDER = 1 << 24  # pictures, a week's worth; AVI writers that cannot seek leave such numbers
_SOUND_PACKETS = 64  # tried before a stream counts as impossible to decode


def can_decode(codec: str) -> bool:
    """Whether the libraries of this machine can decode a codec, such as "h264"."""
    try:
        av.codec.Codec(codec, "r")
    except (av.error.FFmpegError, ValueError):
        return False
    return True


@contextmanager
def open_media(path: Path, *, ignore_length: bool = False) -> Iterator[Any]:
    """Open a container for reading; every fault of libav inside becomes a `MediaError`.

    Only local files are opened, even if a playlist disguised as a video asks for others.

    Args:
        path: the file.
        ignore_length: whether to read the sound of a wav file to the end of the file, whatever its header says.

    Raises:
        MissingFileError: if there is no such file.
        MediaError: if it is empty, of an unknown format, or a fault occurs while it is open.
    """
    if not path.exists():
        raise MissingFileError(f"No media file '{path}'. Check the path.")
    if not path.is_file():
        raise MediaError(f"'{path}' is a folder; expected a video or sound file. Give the files in it.")
    if path.stat().st_size == 0:
        raise MediaError(f"'{path}' is empty (0 bytes); expected a video or sound file. Copy or download it again.")
    options = {"protocol_whitelist": "file"} | ({"ignore_length": "1"} if ignore_length else {})
    with (
        media_faults(path),
        av.open(f"file:{path.absolute()}", container_options=options, metadata_errors="replace") as container,
    ):
        if container.format.name == "image2" or container.format.name.endswith("_pipe"):
            raise MediaError(
                f"'{path}' is a picture; expected a video or sound file. Give the recording that it is of."
            )
        yield container


@contextmanager
def media_faults(path: Path) -> Iterator[None]:
    """Convert any error of a media library to a `MediaError` that names the file.

    Raises:
        MediaError: instead of the library's own error.
    """
    try:
        yield
    except AvFusionError:
        raise
    except av.FFmpegError as error:
        raise damaged(path, error.strerror or str(error)) from error
    except (ValueError, LookupError, ArithmeticError, RuntimeError, OSError) as error:
        raise damaged(path, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def damaged(path: Path, what: str) -> MediaError:
    """The error for a file that cannot be read to its end."""
    return MediaError(
        f"'{path}' is truncated, damaged or of an unknown format ({what.rstrip('.').lower()}); expected a whole video or sound "
        "file. Copy or download it again. If it plays to its end, run 'ffmpeg -i OLD -c copy NEW'."
    )


def demux(path: Path, container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of one stream, the last one empty.

    Raises:
        MediaError: if another stream appears midway, for which PyAV raises an IndexError.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except IndexError as error:
            raise damaged(path, "another stream appears midway") from error
        if packet is None:
            return
        yield packet


def find_video(path: Path, container: Any) -> Any:
    """Find the video stream that a player shows: moving pictures before stills, among several the default one.

    Returns:
        The stream, or None if no video stream can be decoded. Cover pictures of sound files do not count.
    """
    usable = moving_streams(container)
    if len(usable) > 1:
        counts = _count_packets(path, *stamp(path))
        most = max(counts.get(one.index, 0) for one in usable)
        usable = [one for one in usable if 2 * counts.get(one.index, 0) >= most]
    return default_stream(usable)


def moving_streams(container: Any) -> list[Any]:
    """Video streams that can be decoded, without cover pictures."""
    cover = av.stream.Disposition.attached_pic
    known = [one for one in container.streams.video if one.codec_context is not None and one.time_base]
    return [one for one in known if not one.disposition & cover]


def default_stream(streams: list[Any]) -> Any:
    """The stream that is marked as the default one, else the first one; None if there is none."""
    chosen = (one for one in streams if one.disposition & av.stream.Disposition.default)
    return next(chosen, next(iter(streams), None))


def find_sound(path: Path) -> int | None:
    """Find the first sound stream that can be decoded, with a warning about earlier ones that cannot.

    Returns:
        Its index among all streams, or None.

    Raises:
        MissingFileError: if there is no such file.
        MediaError: if it is empty or of an unknown format.
    """
    return _find_sound(path, *stamp(path)) if path.is_file() else None


@functools.lru_cache(maxsize=256)
def _find_sound(path: Path, size: int, modified: int) -> int | None:
    with open_media(path) as container:
        indices = [one.index for one in container.streams.audio]
    chosen = next((index for index in indices if _can_be_decoded(path, index)), None)
    if chosen is not None and chosen != indices[0]:
        count = indices.index(chosen)
        warnings.warn(
            f"The first {count} of {len(indices)} sound streams of '{path}' cannot be decoded; number {count + 1} is used.",
            stacklevel=2,
        )
    return chosen


def _can_be_decoded(path: Path, index: int) -> bool:
    """Whether one of the first packets of a sound stream decodes to sound."""
    with open_media(path) as container:
        stream = container.streams[index]
        if stream.codec_context is None:
            return False
        for count, packet in enumerate(container.demux(stream)):
            try:
                if packet.decode():
                    return True
            except av.FFmpegError:
                pass  # the first packets of a cut recording may depend on missing ones
            if count == _SOUND_PACKETS:
                break
    return False


@functools.lru_cache(maxsize=256)
def _count_packets(path: Path, size: int, modified: int) -> Counter[int]:
    """Count the packets of each stream of a file."""
    with open_media(path) as container:
        return Counter(packet.stream.index for packet in demux(path, container, [*container.streams]) if packet.size)


def stamp(path: Path) -> tuple[int, int]:
    """Size and modification time of a file; cached results about it are valid as long as these do not change."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def check_end(path: Path, container: Any, stream: Any, end_s: Fraction) -> None:
    """Check that a file is as long as its header says; live recordings give no length and are not checked.

    Args:
        path: the file.
        container: the file, open.
        stream: the stream that was read.
        end_s: its end on the container's clock.

    Raises:
        MediaError: if it ends too early.
    """
    names = set(container.format.name.split(","))
    streams = container.streams
    stated_s = Fraction(0)
    if counted := bool(names & _COUNTED_FORMATS):
        stated_s = Fraction(((stream.start_time or 0) + (stream.duration or 0)) * (stream.time_base or 0))
    elif "avi" in names:
        known = (one for one in streams.video if one.time_base and one.frames < _PLACEHOLDER)
        stated_s = max((one.frames * one.time_base for one in known), default=stated_s)
    elif names & {"matroska", "flv"} and not all(one.duration for one in streams):  # else libav guessed by the bit rate
        stated_s = Fraction(container.duration or 0, av.time_base)
    least_s = stated_s - _TOLERANCE_S + Fraction(min(container.start_time or 0, 0), av.time_base)
    if end_s < least_s and not counted:  # another stream may be longer
        with open_media(path) as again:
            timed = (one for one in demux(path, again, [*again.streams]) if one.time_base and (one.pts or one.dts))
            ends_s = (((one.pts or one.dts or 0) + (one.duration or 0)) * one.time_base for one in timed)
            end_s = max(ends_s, default=end_s)
    if end_s < least_s:
        raise damaged(path, f"it breaks off after {float(end_s):.2f} of {float(stated_s):.2f} s")
