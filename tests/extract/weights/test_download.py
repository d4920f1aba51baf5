"""Downloads from a server of this machine that hangs, cuts off, lies about sizes, or hands out pages."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from extract.weights import download as downloads
from extract.weights.download import download

CONTENT = bytes(range(256)) * 40
Answer = Callable[[BaseHTTPRequestHandler], None]


def send(
    content: bytes, *, length: int | None = None, kind: str = "application/octet-stream", code: int = 200
) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        request.send_header("Content-Type", kind)
        if length is not None:
            request.send_header("Content-Length", str(length))
        request.end_headers()
        request.wfile.write(content)

    return answer


def redirect(place: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", place)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def stall(request: BaseHTTPRequestHandler) -> None:
    send(CONTENT[:100], length=len(CONTENT))(request)
    time.sleep(1.5)


def drip(request: BaseHTTPRequestHandler) -> None:
    send(b"", length=len(CONTENT))(request)
    with contextlib.suppress(OSError):  # the other side has enough of it
        for _ in range(30):
            request.wfile.write(b"x")
            time.sleep(0.05)


def tear_chunks(request: BaseHTTPRequestHandler) -> None:
    request.protocol_version = "HTTP/1.1"
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.wfile.write(b"64\r\n" + bytes(30))


ANSWERS: dict[str, Answer] = {
    "/fine.pt": send(CONTENT, length=len(CONTENT)),
    "/unsized.pt": send(CONTENT),
    "/gone.pt": send(b"no", length=2, code=404),
    "/cut.pt": send(CONTENT[:-1], length=len(CONTENT)),
    "/torn.pt": tear_chunks,
    "/silent.pt": lambda request: time.sleep(1.5),
    "/stalled.pt": stall,
    "/dripping.pt": drip,
    "/vast.pt": send(b"", length=10**12),
    "/endless.pt": send(CONTENT * 50),
    "/lying.pt": send(CONTENT * 50, length=10),
    "/empty.pt": send(b"", length=0),
    "/page.pt": send(b"<html>", kind="text/html; charset=utf-8"),
    "/moved.pt": redirect("/fine.pt"),
    "/login.pt": redirect("/page.pt"),
    "/circle.pt": redirect("/circle.pt"),
    "/away.pt": redirect("http://example.org/fine.pt"),
    "/file.pt": redirect("file:///etc/passwd"),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ANSWERS[self.path](self)

    def log_message(self, format: str, *arguments: object) -> None:
        """Silence."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, address: object) -> None:
        """Silence: clients leave."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of the server."""
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT_S", 0.4)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def accept(path: Path) -> None:
    """Any file is right."""


@pytest.mark.parametrize("name", ["fine", "unsized", "moved"])
def test_a_whole_file_arrives(server: str, tmp_path: Path, name: str) -> None:
    seen = []
    download(f"{server}/{name}.pt", tmp_path / "deep/w.pt", len(CONTENT), seen.append)
    assert [path.read_bytes() for path in (tmp_path / "deep").iterdir()] == [CONTENT]
    assert [(path.suffix, path.name[0]) for path in seen] == [(".pt", ".")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gone", "the server responded with 404"),
        ("cut", "it was cut off after 10239 of 10240 bytes"),
        ("torn", "it was cut off or garbled: IncompleteRead"),
        ("silent", "no response for 0.4 s"),
        ("stalled", "no response for 0.4 s"),
        ("dripping", "bytes came in 0 s"),
        ("vast", "it has 1000000000000 bytes, more than the 100000 allowed"),
        ("endless", "it has more than the 100000 bytes allowed"),
        ("empty", "it is empty"),
        ("page", "/page.pt' is a web page, not a file"),
        ("login", "/page.pt' is a web page, not a file"),
        ("circle", "the server responded with 302"),
        ("away", "'http://example.org/fine.pt' is not https"),
        ("file", "the server responded with 302"),
    ],
)
def test_anything_else_leaves_nothing(server: str, tmp_path: Path, name: str, text: str) -> None:
    started = time.monotonic()
    with pytest.raises((OSError, ValueError)) as caught:
        download(f"{server}/{name}.pt", tmp_path / "w.pt", 100_000, accept)
    assert text in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - started < 1.4


def test_bytes_beyond_the_promised_length_are_not_read(server: str, tmp_path: Path) -> None:
    download(f"{server}/lying.pt", tmp_path / "w.pt", 100, accept)
    assert (tmp_path / "w.pt").read_bytes() == CONTENT[:10]


def test_what_is_refused_does_not_replace_what_is_there(server: str, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"old")

    def refuse(path: Path) -> None:
        raise ValueError(f"{path.stat().st_size} bytes are wrong")

    with pytest.raises(ValueError, match="10240 bytes are wrong"):
        download(f"{server}/fine.pt", tmp_path / "w.pt", 100_000, refuse)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("url", ["http://example.org/w.pt", "ftp://example.org/w.pt", "file:///etc/passwd", "w.pt"])
def test_other_protocols_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match=f"'{url}' is not https"):
        download(url, tmp_path / "w.pt", 100, accept)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    with pytest.raises(OSError, match="Connection refused"):
        download(f"http://localhost:{port}/w.pt", tmp_path / "w.pt", 100, accept)
