"""Process numbers: which processes of this machine are alive."""

from __future__ import annotations

import os

_LARGEST = 2**31 - 1  # on any system


def parse_pid(text: str) -> int | None:
    """The number of a process; None for any other text.

    >>> parse_pid("4711"), parse_pid("-1"), parse_pid("")
    (4711, None, None)
    """
    pid = int(text[:11]) if text.isascii() and text.isdecimal() else 0
    return pid if is_pid(pid) else None


def is_pid(pid: int) -> bool:
    """Whether a number can be that of a process; 0 and below mean groups of processes."""
    return 0 < pid <= _LARGEST


def is_alive(pid: int) -> bool:
    """Whether a process with this number exists, whoever owns it."""
    if not is_pid(pid):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # owned by another user
        return True
    return True
