"""File systems behind URLs; turns the errors of their libraries into one sentence."""

from __future__ import annotations

import functools
from typing import Any

from cache.errors import AvFusionError, UnreachableError, short_text


class GuardedFileSystem:
    """An fsspec file system that raises its library's own errors as `UnreachableError`."""

    def __init__(self, system: Any, url: str) -> None:
        self._system, self._url = system, url

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_system", "_url"):  # looked up while unpickling
            raise AttributeError(name)
        method = getattr(self._system, name)

        @functools.wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return method(*arguments, **options)
            except Exception as error:
                wrapped = wrap_remote_error(error, self._url)
                if wrapped is error:
                    raise
                raise wrapped from error

        return call


def wrap_remote_error(error: Exception, url: str) -> Exception:
    """Wrap a third-party error in an `UnreachableError`; pass Python's and our own errors through."""
    if isinstance(error, (OSError, AvFusionError)) or type(error).__module__ == "builtins":
        return error
    return UnreachableError(
        f"'{url}' cannot be reached: {short_text(error)}. Check the address, the credentials and the network."
    )
