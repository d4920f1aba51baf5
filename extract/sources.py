"""What a backbone reads of a trial: its crops, its sound or its words, one input per frame."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cache.clock import FrameClock
from cache.errors import MissingFileError
from cache.manifest import Manifest, Trial
from cache.names import encode_trial_id
from extract.audio import RATE_HZ, AudioWindows, load_audio, sound_clock
from extract.backbone import Backbone
from extract.crops import CropReader
from extract.inputs import ImageInput, LogMelInput, WaveInput, WordsInput
from extract.logmel import LogMelPatches
from extract.timeline import check_clock, first_picture_s, scan
from extract.transcripts import read_words
from extract.video import probe, sha256_file
from extract.wordpieces import WordRows
from extract.words import spread_words


class Source(Protocol):
    """Inputs of one trial, in rows; every frame uses one row, or none, and several frames may share one.

    `digest` is cheap to ask for; `load` does the work that reading needs once.
    """

    def digest(self) -> str:
        """Digest of the bytes that the backbone reads."""

    def load(self) -> NDArray[np.int64]:
        """Get ready to read; (T,) the row that each frame uses, -1 where it has no input."""

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Inputs (N, …) of these rows; called from several threads."""


def frame_rows(valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rows of a source with one row per frame.

    >>> frame_rows(np.array([True, False, True]))
    array([ 0, -1,  2])
    """
    return np.where(valid, np.arange(len(valid)), -1)


class CropSource:
    """Face crops of a trial, resized to the backbone's input."""

    def __init__(self, path: Path, trial: Trial, image: ImageInput) -> None:
        self._reader = CropReader(path, trial.clock)
        self._image = image

    def digest(self) -> str:
        """Digest of the crops by frame number."""
        return self._reader.digest()

    def load(self) -> NDArray[np.int64]:
        """(T,) the frame itself where a crop exists."""
        return frame_rows(self._reader.valid)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(N, size, size, 3) uint8 RGB."""
        return self._image.cut(self._reader.read(rows, self._image.read_size, self._image.resize))


class AudioSource:
    """Windows of a trial's sound, one centred on each frame."""

    def __init__(self, path: Path, trial: Trial, wave: WaveInput) -> None:
        self._path, self._trial, self._wave = path, trial, wave

    def digest(self) -> str:
        """Digest of the media file."""
        return sha256_file(self._path)

    def load(self) -> NDArray[np.int64]:
        """Decode the sound; (T,) the frame itself where the sound covers it.

        Raises:
            ShapeError: if the pictures beside the sound contradict the clock; the sound would be shifted too.
        """
        samples = _load_sound(self._path, self._trial, self._wave.rate_hz)
        self._windows = AudioWindows(samples, self._trial.clock, self._wave.window_s, self._wave.rate_hz)
        return frame_rows(self._windows.valid)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, S) float32 in [-1, 1]."""
        return self._windows.read(rows)


class LogMelSource:
    """Log-mel patches of a trial's sound, one per frame, from one spectrogram of the whole sound."""

    def __init__(self, path: Path, trial: Trial, patch: LogMelInput) -> None:
        self._path, self._trial, self._patch = path, trial, patch

    def digest(self) -> str:
        """Digest of the media file."""
        return sha256_file(self._path)

    def load(self) -> NDArray[np.int64]:
        """Decode and transform the sound; (T,) the frame itself where the sound covers it.

        Raises:
            ShapeError: if the pictures beside the sound contradict the clock; the sound would be shifted too.
        """
        samples = _load_sound(self._path, self._trial, RATE_HZ)
        self._patches = LogMelPatches(samples, self._trial.clock, self._patch.start)
        return frame_rows(self._patches.valid)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, 96, 64) float32."""
        return self._patches.read(rows)


class WordsSource:
    """Words of a trial's transcript within their sentences; the frames of a word share its row.

    Attributes:
        unreached: after `load`, indices of the words that no frame falls into.
    """

    unreached: tuple[int, ...] = ()

    def __init__(self, path: Path, trial: Trial, words: WordsInput) -> None:
        self._path, self._trial, self._words = path, trial, words

    def digest(self) -> str:
        """Digest of the transcript."""
        return sha256_file(self._path)

    def load(self) -> NDArray[np.int64]:
        """Read and spell the words; (T,) the word that each frame falls into, -1 where none is said."""
        words = read_words(self._path)
        self._rows = WordRows(words, self._words.speller, self._words.max_tokens, self._words.pause_s)
        spread = spread_words(words, self._trial.clock)
        self.unreached = spread.unreached
        return spread.rows

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N, 2, max_tokens) int64."""
        return self._rows.read(rows)


class AbsentSource:
    """The medium that a trial does not have, among trials that do: no frame has input.

    Args:
        trial: the trial.
    """

    def __init__(self, trial: Trial) -> None:
        self._num_frames = trial.clock.num_frames

    def digest(self) -> str:
        """Says that there is nothing."""
        return "absent"

    def load(self) -> NDArray[np.int64]:
        """(T,) -1."""
        return np.full(self._num_frames, -1, np.int64)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Never called: no frame uses a row."""
        raise AssertionError(f"{len(rows)} rows of a medium that is absent")


def _load_sound(path: Path, trial: Trial, rate_hz: int) -> NDArray[np.float32]:
    """(S,) the sound of a trial, after a look at the pictures beside it."""
    if first_picture_s(path) is not None:
        check_clock(trial.id, scan(path), trial.clock, path)
    return load_audio(path, rate_hz)


def crops_path(manifest: Manifest, trial: Trial, crops: Path | None) -> Path:
    """Where the crops of a trial are: the corpus's own, else our zip.

    Raises:
        MissingFileError: if there are none.
    """
    if "crops" in trial.media:
        return manifest.path(trial, "crops")
    path = None if crops is None else crops / f"{encode_trial_id(trial.id)}.zip"
    if path is None or not path.is_file():
        raise MissingFileError(
            f"Trial '{trial.id}' has no face crops{f' at {path}' if path else ''}. Run 'avfusion crops' first."
        )
    return path


def lacks(trial: Trial, source: str) -> bool:
    """Whether a trial has nothing of what a backbone reads: crops (or a video to make them of), audio or words."""
    return source not in trial.media and not (source == "crops" and "video" in trial.media)


def require_medium(manifest: Manifest, trials: Sequence[Trial], source: str) -> None:
    """Refuse trials none of which has what a backbone reads.

    Raises:
        MissingFileError: naming the first trial and what it has.
    """
    lacking = [trial for trial in trials if lacks(trial, source)]
    if lacking and all(lacks(trial, source) for trial in trials):
        manifest.path(lacking[0], "video" if source == "crops" else source)


def open_source(backbone: Backbone, manifest: Manifest, trial: Trial, crops: Path | None) -> Source:
    """The source that a backbone reads.

    Raises:
        MissingFileError: if the medium was removed, or its crops were not made yet.
    """
    if lacks(trial, backbone.source):
        return AbsentSource(trial)
    if isinstance(backbone.input, ImageInput):
        return CropSource(crops_path(manifest, trial, crops), trial, backbone.input)
    if isinstance(backbone.input, LogMelInput):
        return LogMelSource(manifest.path(trial, "audio"), trial, backbone.input)
    if isinstance(backbone.input, WordsInput):
        return WordsSource(manifest.path(trial, "words"), trial, backbone.input)
    assert isinstance(backbone.input, WaveInput)
    return AudioSource(manifest.path(trial, "audio"), trial, backbone.input)


def media_clock(path: Path, rate: Fraction) -> FrameClock:
    """The clock of a loose file: the video's own pictures, or ticks of `rate` over a file that only has sound.

    Raises:
        MissingFileError: if there is no such file.
        MediaError: if it is empty, truncated, or holds neither pictures nor sound.
    """
    return probe(path).clock if first_picture_s(path) is not None else sound_clock(path, rate)
