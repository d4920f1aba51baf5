"""Downloads: whole and checked, or not at all.

The only place that reaches the network, beside the libraries that `extract.weights.hub` and torchvision's detectors call.
"""

from __future__ import annotations

import contextlib
import hashlib
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
"""For the connection and for each answer of the server; slower than `SLOWEST` for as long counts as no answer."""
SLOWEST = 1024  # bytes/s
_BLOCK = 1 << 20


def download(url: str, path: Path, max_bytes: int, check: Callable[[Path], None]) -> None:
    """Fetch a file: under a temporary name, checked, on disk, and only then under its own.

    Args:
        url: https; http only on this machine.
        path: of the file.
        max_bytes: above which it is refused.
        check: raises where the file is not what was expected.

    Raises:
        OSError: if the server cannot be reached, refuses, stalls, or there is no room.
        ValueError: if it is too large, truncated, a page, of another protocol, or what `check` raises.
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


def digest_file(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, file: IO[bytes], max_bytes: int) -> None:
    _require_safe(url)
    opener = urllib.request.build_opener(_SafeRedirects)
    request = urllib.request.Request(url, headers={"User-Agent": "avfusion", "Accept-Encoding": "identity"})
    try:
        with contextlib.closing(opener.open(request, timeout=TIMEOUT_S)) as answer:
            if answer.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
                raise ValueError(f"'{answer.geturl()}' is a page, not a file")
            expected = _length(answer.headers.get("Content-Length"))
            if expected is not None and expected > max_bytes:
                raise ValueError(f"it has {expected} bytes, more than the {max_bytes} allowed")
            received = _copy(answer, file, max_bytes)
    except TimeoutError as error:
        raise TimeoutError(f"no answer for {TIMEOUT_S:g} s") from error
    except http.client.HTTPException as error:
        raise ValueError(f"it was cut off or garbled: {type(error).__name__}") from error
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            raise OSError(f"the server answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise TimeoutError(f"no answer for {TIMEOUT_S:g} s") from error
        raise OSError(f"{error.reason}") from error
    if expected is not None and received != expected:
        raise ValueError(f"it was cut off after {received} of {expected} bytes")
    if not received:
        raise ValueError("it is empty")


def _copy(answer: Any, file: IO[bytes], max_bytes: int) -> int:
    """Bytes received; what the server sends beyond the limit, or drop by drop, ends it."""
    received = before = 0
    since = time.monotonic()
    while block := answer.read1(_BLOCK):
        received += len(block)
        if received > max_bytes:
            raise ValueError(f"it has more than the {max_bytes} bytes allowed")
        file.write(block)
        waited = time.monotonic() - since
        if waited >= TIMEOUT_S:
            if received - before < SLOWEST * waited:
                raise ValueError(f"only {received - before} bytes came in {waited:.0f} s")
            before, since = received, time.monotonic()
    return received


def _length(header: str | None) -> int | None:
    return int(header) if header is not None and header.isascii() and header.isdecimal() else None


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https alone."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        with contextlib.closing(fp):  # what follows needs no more of it
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
