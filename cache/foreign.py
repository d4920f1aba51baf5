"""Files from other programs: their names and contents, and the errors of libraries as one sentence."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import AvFusionError, CorpusError, MediaError, MissingFileError, short_text
from cache.names import encode_trial_id


@contextmanager
def reading(
    what: str,
    expected: str,
    remedy: str = "Replace or remove it, and import again.",
    kind: type[AvFusionError] = CorpusError,
) -> Iterator[None]:
    """Turn whatever a library raises about damaged content into one sentence.

    Args:
        what: what is being read, as the start of the sentence, with quotes.
        expected: what it should be, in words.
        remedy: what to do.
        kind: type of error to raise.

    Raises:
        AvFusionError: of this kind, for any error except our own and MemoryError.
    """
    try:
        yield
    except (AvFusionError, MemoryError):
        raise
    except UnicodeDecodeError as error:
        found = error.object[error.start]
        raise kind(
            f"{what} is not UTF-8 text (byte 0x{found:02x} at position {error.start}), expected {expected}. Save it as UTF-8."
        ) from error
    except Exception as error:
        raise kind(f"{what} cannot be read as {expected} ({one_line(error)}). {remedy}") from error


def one_line(error: Exception) -> str:
    """The short text of an error, for messages that name the file themselves."""
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else short_text(error)


def sha256_file(path: Path) -> str:
    """Digest of a file's bytes, hex.

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


def match_names(names: Iterable[str], known: Iterable[str], where: Path) -> dict[str, str]:
    """Trial id → name in a file; a name that differs from a known id only in Unicode form matches that id.

    Args:
        names: names in the file.
        known: ids in the manifest; empty without a manifest.
        where: path for messages.

    Raises:
        CorpusError: if two names match the same trial, or a name is not UTF-8.
        UnknownNameError: if a name is too long for a folder.
    """
    ids = set(known)
    by_form = {unicodedata.normalize("NFC", trial_id): trial_id for trial_id in sorted(ids)}
    found: dict[str, str] = {}
    for name in names:
        trial_id = name if name in ids else by_form.get(unicodedata.normalize("NFC", name), name)
        if trial_id in found:
            raise CorpusError(
                f"'{where}' has trial '{trial_id}' twice, under names that differ only in Unicode form. Remove one of them."
            )
        try:
            encode_trial_id(trial_id)
        except UnicodeEncodeError as error:
            raise CorpusError(
                f"'{where}' has a name that is not UTF-8: '{name}'. Rename it and import again."
            ) from error
        found[trial_id] = name
    return found


def are_features(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether an array can be features: numbers (T, D), T and D at least 1; integers and booleans count as numbers."""
    return len(shape) == 2 and min(shape) > 0 and dtype.kind in "fiub"


def take_features(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Numbers (T, D) as floats; integers and booleans become float32.

    Raises:
        CorpusError: if the array is not numbers of shape (T, D).
    """
    if not are_features(array.shape, array.dtype):
        raise CorpusError(
            f"{where} holds {array.dtype} of shape {array.shape}; expected numbers (T, D), at least one row and one "
            "column. Fix or remove it, and import again."
        )
    return array if array.dtype.kind == "f" else array.astype(np.float32)


def take_marks(array: NDArray[Any], num_frames: int, where: str) -> NDArray[np.bool_]:
    """The mask of valid frames (T,), from booleans or from numbers that are 0 where a frame is not valid.

    Raises:
        CorpusError: if the array has another shape or type.
    """
    if array.shape != (num_frames,) or array.dtype.kind not in "biuf":
        raise CorpusError(
            f"{where} holds {array.dtype} of shape {array.shape}; expected {num_frames} marks, one for each row. Fix or remove "
            "it, and import again."
        )
    return array.astype(bool)
