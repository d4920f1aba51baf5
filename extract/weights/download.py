"""Verified, atomic downloads.

Only this module reaches the network, apart from the libraries that `extract.weights.hub` calls.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

MAX_BYTES = 2 * 1024**3
TIMEOUT_S = 30.0
"""For connecting, for each response, and for how long a download may be slower than `SLOWEST`."""
SLOWEST = 1024  # bytes/s
_BLOCK = 1 << 20


def download(url: str, path: Path, max_bytes: int, check: Callable[[Path], None]) -> None:
    """Download a file under a temporary name, check it, and rename it.

    Args:
        url: https; http only from this machine.
        path: where to put it.
        max_bytes: larger files are rejected.
        check: raises if the file is not the expected one.

    Raises:
        OSError: if the server cannot be reached, refuses or stalls, or the disk is full.
        ValueError: if the file is too large, truncated, a web page, uses another protocol, or fails `check`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        with partial.open("wb") as file:
            _fetch(url, file, max_bytes)
            file.flush()
            os.fsync(file.fileno())
        check(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _fetch(url: str, file: IO[bytes], max_bytes: int) -> None:
    _require_safe(url)
    opener = urllib.request.build_opener(_SafeRedirects)
    request = urllib.request.Request(url, headers={"User-Agent": "avfusion", "Accept-Encoding": "identity"})
    try:
        with contextlib.closing(opener.open(request, timeout=TIMEOUT_S)) as response:
            if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
                raise ValueError(f"'{response.geturl()}' is a web page, not a file")
            expected = _length(response.headers.get("Content-Length"))
            if expected is not None and expected > max_bytes:
                raise ValueError(f"it has {expected} bytes, more than the {max_bytes} allowed")
            received = _copy(response, file, max_bytes)
    except TimeoutError as error:
        raise TimeoutError(f"no response for {TIMEOUT_S:g} s") from error
    except http.client.HTTPException as error:
        raise ValueError(f"it was cut off or garbled: {type(error).__name__}") from error
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            raise OSError(f"the server responded with {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise TimeoutError(f"no response for {TIMEOUT_S:g} s") from error
        raise OSError(f"{error.reason}") from error
    if expected is not None and received != expected:
        raise ValueError(f"it was cut off after {received} of {expected} bytes")
    if not received:
        raise ValueError("it is empty")


def _copy(response: Any, file: IO[bytes], max_bytes: int) -> int:
    """Write the content to a file and return its size.

    Raises:
        ValueError: if it is too large, or comes too slowly.
    """
    received = before = 0
    since = time.monotonic()
    while block := response.read1(_BLOCK):
        received += len(block)
        if received > max_bytes:
            raise ValueError(f"it has more than the {max_bytes} bytes allowed")
        file.write(block)
        waited = time.monotonic() - since
        if waited >= TIMEOUT_S:
            if received - before < SLOWEST * waited:
                raise ValueError(f"only {received - before} bytes came in {waited:.0f} s")
            before = received
            since = time.monotonic()
    return received


def _length(header: str | None) -> int | None:
    return int(header) if header is not None and header.isascii() and header.isdecimal() else None


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        with contextlib.closing(fp):
            _require_safe(newurl, req.full_url.startswith("http:"))
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_safe(url: str, plain: bool = True) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (plain and parts.scheme == "http" and _is_this_machine(parts.hostname or "")):
        return
    raise ValueError(f"'{url}' is not https")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
