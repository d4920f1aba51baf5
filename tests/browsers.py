"""Chromium for tests of pages, asked through its DevTools protocol; Debian has it as `apt-get install chromium`."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
connection = pytest.importorskip("websockets.sync.client", reason="needs websockets, an extra of development")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; Debian has it: apt-get install chromium")
_PATIENCE_S = 30.0
_SHOWN = "document.readyState == 'complete'"


class Browser:
    """One page in headless Chromium."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **arguments: Any) -> Any:
        """Send a command; returns its answer, and keeps the events before it."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": arguments}))
        while True:
            message = json.loads(self._socket.recv(timeout=_PATIENCE_S))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def run(self, script: str) -> Any:
        """Value of an expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(
        self, path: Path, width: int = 1280, height: int = 900, scheme: str = "light", until: str = _SHOWN
    ) -> None:
        """Open a file in a window of a size, and wait until an expression holds in it."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Page.navigate", url=path.resolve().as_uri())
        end = time.monotonic() + _PATIENCE_S
        while not self.run(until):
            assert time.monotonic() < end, self.faults()
            time.sleep(0.05)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            own = {"text": text} if text and kind == "keyDown" else {}
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **own)

    def tab_to(self, name: str) -> None:
        """Press Tab until an element has the focus."""
        for _ in range(200):
            if self.run("document.activeElement.id") == name:
                return
            self.press("Tab", 9)
        raise AssertionError(f"'{name}' cannot be reached with Tab")

    def picture(self, path: Path) -> bytes:
        """A picture of the whole page, also saved."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        answer = self.ask("Page.captureScreenshot", captureBeyondViewport=True, clip={**size, "scale": 1})
        content = base64.b64decode(answer["data"])
        path.write_bytes(content)
        return content

    def faults(self) -> list[Any]:
        """Errors and warnings so far."""
        bad = {"Runtime.exceptionThrown", "Log.entryAdded"}
        return [e["params"] for e in self.events if e["method"] in bad] + [
            e["params"]
            for e in self.events
            if e["method"] == "Runtime.consoleAPICalled" and e["params"]["type"] in ("error", "warning")
        ]

    def fetched(self) -> list[str]:
        """Addresses that were asked for, without the page itself and data inside it."""
        sent = (e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent")
        return [url for url in sent if not url.startswith(("data:", "blob:")) and not url.endswith("report.html")]


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """A page of a new Chromium, which keeps what it remembers in a folder."""
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--hide-scrollbars",
    ]
    with subprocess.Popen(
        [str(CHROMIUM), *flags, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            address = _address(folder / "DevToolsActivePort")
            with connection.connect(address, max_size=None) as socket:
                yield Browser(socket)
        finally:
            process.terminate()


def _address(path: Path) -> str:
    """Address of the first page, once Chromium has told its port."""
    from http.client import HTTPConnection

    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        if path.exists() and (lines := path.read_text().splitlines()):
            asked = HTTPConnection("127.0.0.1", int(lines[0]))
            asked.request("GET", "/json/list")
            pages = [each for each in json.loads(asked.getresponse().read()) if each["type"] == "page"]
            asked.close()
            if pages:
                return str(pages[0]["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise AssertionError("Chromium did not start")
