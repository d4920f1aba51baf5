"""Windows: cut trials into the pieces that a fusion model sees, and stitch its outputs back together.

Training cuts [Karas2022, Section 4.1; Zhang2023, Section 3.4]; inference cuts and stitches: if windows overlap, the
prediction of a frame is the mean over the windows that contain it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.errors import SettingError, ShapeError

TAILS = ("align", "pad", "drop")


@dataclass(frozen=True)
class Window:
    """Frames `start, start + stride, …` below `stop` of one trial.

    Attributes:
        trial_id: the trial.
        start: first frame, 0-based.
        stop: one past the last frame.
        stride: step between frames; more than 1 if windows are dilated.
    """

    trial_id: str
    start: int
    stop: int
    stride: int = 1

    @property
    def frames(self) -> range:
        """The frames of the trial, in order."""
        return range(self.start, self.stop, self.stride)

    @property
    def rows(self) -> slice:
        """The same as a slice."""
        return slice(self.start, self.stop, self.stride)

    @property
    def num_frames(self) -> int:
        """Number of frames of the trial in the window; the rest up to the model's length is padding."""
        return len(self.frames)


def cut_windows(
    lengths: Mapping[str, int], length: int, hop: int, dilation: int = 1, tail: str = "align"
) -> tuple[Window, ...]:
    """Cut trials into windows, trial after trial.

    With `dilation` N every trial is read as N interleaved sequences, one per offset 0 … N-1, of every N-th frame,
    and each of them is cut separately; with `hop == length` every frame is then used once [Karas2022, Section 4.1].
    Windows start at 0, hop, 2 hop, …; `tail` determines what happens to frames after the last whole window:

    * `align`: one more window of the last `length` frames, [0, 300) and [1, 301) of 301 frames [Zhang2023's code];
    * `pad`: one more window at the next start, shorter than `length`;
    * `drop`: they are left out.

    A sequence shorter than `length` becomes one short window, which the bank pads (none with `drop`).

    Args:
        lengths: trial id → number of frames.
        length: frames in a window, at least 1.
        hop: frames between starts, 1 … length, so that no frame is between two windows.
        dilation: keep one frame in this many, at least 1.
        tail: align, pad or drop.

    Raises:
        SettingError: if a number is out of range or the tail rule is unknown.
    """
    if length < 1 or not 1 <= hop <= length or dilation < 1 or tail not in TAILS:
        raise SettingError(
            f"Windows of {length} frames with hop {hop}, dilation {dilation} and tail '{tail}' do not exist; expected "
            f"length >= 1, 1 <= hop <= length, dilation >= 1 and tail one of {', '.join(TAILS)}. Change the setting."
        )
    return tuple(
        Window(trial_id, offset + dilation * first, offset + dilation * (last - 1) + 1, dilation)
        for trial_id, num_frames in lengths.items()
        for offset in range(min(dilation, num_frames))
        for first, last in _cut_sequence(len(range(offset, num_frames, dilation)), length, hop, tail)
    )


def _cut_sequence(num_frames: int, length: int, hop: int, tail: str) -> Iterator[tuple[int, int]]:
    """Half-open pieces of a sequence of `num_frames` frames."""
    stop = start = 0
    for start in range(0, num_frames - length + 1, hop):
        stop = start + length
        yield start, stop
    if stop == num_frames or tail == "drop":
        return
    if tail == "align" or stop == 0:
        yield max(0, num_frames - length), num_frames
    else:
        yield start + hop, num_frames


def stitch(windows: Sequence[Window], values: NDArray[np.floating], num_frames: int) -> NDArray[np.float64]:
    """Put the values of one trial's windows back on its frames, averaging where windows overlap.

    Args:
        windows: windows of one trial, in any order.
        values: (N, L, C), one row per window; values in padding are ignored.
        num_frames: T, frames of the trial.

    Returns:
        (T, C), summed in float64.

    Raises:
        ShapeError: if the values do not match the windows, several trials are mixed, or a frame is in no window.
    """
    names = {window.trial_id for window in windows}
    if len(names) != 1 or values.ndim != 3 or len(values) != len(windows):
        raise ShapeError(
            f"{len(windows)} windows of {len(names)} trials and values of shape {values.shape}; expected one trial and (N, L, C)."
        )
    used = np.array([window.num_frames for window in windows])
    end = max(window.stop for window in windows)
    if used.max() > values.shape[1] or end > num_frames:
        raise ShapeError(
            f"Windows of up to {used.max()} frames end at frame {end}; expected at most {values.shape[1]} frames, ending by {num_frames}."
        )
    starts, strides = (np.array([getattr(window, name) for window in windows]) for name in ("start", "stride"))
    steps = np.arange(values.shape[1])
    inside = steps < used[:, None]
    frames = (starts[:, None] + strides[:, None] * steps)[inside]
    counts = np.bincount(frames, minlength=num_frames)
    if not counts.all():
        raise ShapeError(
            f"Trial '{names.pop()}': frame {int(np.argmin(counts))} of {num_frames} is in no window; cut with tail 'align' or 'pad'."
        )
    kept = values[inside]
    sums = [np.bincount(frames, weights=kept[:, column], minlength=num_frames) for column in range(values.shape[2])]
    return np.stack(sums, axis=1) / counts[:, None] if sums else np.zeros((num_frames, 0))
