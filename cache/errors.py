"""Every error that a user can cause, each with a sentence that says what to do.

The form of a message: what, with its value; what was expected; what to do. Ids and paths are in quotes, numbers have
units. Each type also inherits a suitable builtin (never `KeyError`, whose text prints in quotes), so that a caller may
catch either.
"""

from collections.abc import Mapping, Sequence

_LONGEST_TEXT = 450  # characters of a library's text in a message of ours


class AvFusionError(Exception):
    """Base of all errors of this project; the command line prints its text and exits with 1."""


class SettingError(AvFusionError, ValueError):
    """A parameter has a value outside its declared set or range.

    Attributes:
        faults: setting → what is wrong with its value; empty if the message is not about individual settings.
    """

    def __init__(self, message: str = "", faults: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.faults = dict(faults or {})


class UnknownNameError(AvFusionError, LookupError):
    """A backbone, fusion model, corpus, trial or modality of this name does not exist."""


class ShapeError(AvFusionError, ValueError):
    """Arrays do not fit each other or their declared shape."""


class MissingFileError(AvFusionError, FileNotFoundError):
    """A file or folder that was named does not exist."""


class MediaError(AvFusionError, OSError):
    """A media file is empty, truncated, in an unknown format, or lacks the requested stream."""


class CorpusError(AvFusionError, ValueError):
    """The corpus contradicts itself: counts, names, labels or partitions. The message lists all faults together."""


class WeightsError(AvFusionError, ValueError):
    """Weights are missing, do not fit the network, or do not have the promised sha256."""


class StoreError(AvFusionError, RuntimeError):
    """A feature store is unfinished, damaged, or has another version."""


class VersionError(StoreError):
    """Written by a newer version of avfusion."""


class UnreachableError(StoreError):
    """The server of a URL does not answer or refuses access; the state of its content is unknown."""


class FingerprintError(StoreError):
    """Features were made with settings, weights or sources other than those requested."""


class LeakError(AvFusionError, ValueError):
    """Weights have seen trials that they would be scored on."""


class TrialsFailedError(AvFusionError, RuntimeError):
    """Some trials failed; every other trial was finished and kept."""


def plain_error(error: Exception) -> str:
    """One sentence for a failed trial: the message of our own errors, else the error's type and text.

    >>> plain_error(ZeroDivisionError("division by zero"))
    "ZeroDivisionError: division by zero. Check the trial's files; if they play or open elsewhere, report this with one of them."
    """
    if isinstance(error, AvFusionError):
        return str(error)
    if isinstance(error, MemoryError):
        return "Out of memory. Free some, or cut the recording into shorter ones."
    kind = type(error).__name__
    text = short_text(error)
    what = kind if text == kind else f"{kind}: {text}"
    return f"{what}. Check the trial's files; if they play or open elsewhere, report this with one of them."


def list_faults(faults: Sequence[str], most: int) -> str:
    """Faults on one line, separated by semicolons; those after the first `most` are only counted.

    >>> list_faults(["no sound", "no words", "no face"], 2)
    'no sound; no words; and 1 more'
    """
    more = [f"and {len(faults) - most} more"] if len(faults) > most else []
    return "; ".join([*faults[:most], *more])


def counted(number: int, what: str) -> str:
    """A number of things, in the plural unless there is one.

    >>> counted(1, "trial"), counted(2, "trial")
    ('1 trial', '2 trials')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


def with_full_stop(text: str) -> str:
    """A sentence with the full stop that it lacks; a question keeps its mark.

    >>> with_full_stop("expected bert. Did you mean 'bert'?"), with_full_stop("expected bert")
    ("expected bert. Did you mean 'bert'?", 'expected bert.')
    """
    return text if text.endswith(("?", ".")) else f"{text}."


def short_text(error: Exception) -> str:
    """The text of an error on one line, without full stop and the long context that libraries add; else its type."""
    return " ".join(str(error).split())[:_LONGEST_TEXT].rstrip(".") or type(error).__name__
