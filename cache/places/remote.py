"""File systems behind URLs, whose libraries raise errors of their own: each becomes one sentence here."""

from __future__ import annotations

import functools
from typing import Any

from cache.errors import AvFusionError, UnreachableError


class GuardedFileSystem:
    """A file system of fsspec; what its library raises beyond the errors of Python becomes an `UnreachableError`."""

    def __init__(self, system: Any, url: str) -> None:
        self._system, self._url = system, url

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_system", "_url"):  # asked for while unpickling
            raise AttributeError(name)
        method = getattr(self._system, name)

        @functools.wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return method(*arguments, **options)
            except Exception as error:
                told = told_plainly(error, self._url)
                if told is error:
                    raise
                raise told from error

        return call


def told_plainly(error: Exception, url: str) -> Exception:
    """The error itself if it is of Python or ours; else what could not be reached, why, and what to do."""
    if isinstance(error, (OSError, AvFusionError)) or type(error).__module__ == "builtins":
        return error
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return UnreachableError(f"'{url}' cannot be reached: {reason}. Check the address, the credentials and the network.")
