"""The page in a real browser: no error, nothing fetched, and everything works by keyboard, on a phone and in the dark.

Chromium is asked through its DevTools protocol. Without it these tests are skipped: Debian has it as `apt-get install chromium`.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
connection = pytest.importorskip("websockets.sync.client", reason="needs websockets, an extra of development")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; Debian has it: apt-get install chromium")
_PATIENCE_S = 30.0


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

    def open(self, path: Path, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Open a file in a window of a size, and wait until its script is through."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Page.navigate", url=path.resolve().as_uri())
        end = time.monotonic() + _PATIENCE_S
        while self.run("document.documentElement?.dataset.ready") != "all":
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


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A page of a new Chromium."""
    folder = tmp_path_factory.mktemp("chromium")
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


MODEL = "Bokeh.documents.map((made) => made.get_model_by_name('{}')).find(Boolean)"
SETTLED = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 100))))"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_opens_without_errors_and_fetches_nothing(
    browser: Browser, evaluated: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    browser.events.clear()
    browser.open(evaluated.page, width, 900, scheme)
    browser.run(SETTLED)
    picture = browser.picture(tmp_path / "page.png")
    assert browser.faults() == []
    assert browser.fetched() == []
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert not [event for event in browser.events if event["method"] == "Page.javascriptDialogOpening"]
    assert (
        browser.run("document.querySelectorAll('img[src=\"x\"], [onerror], [onmouseover], td i, th i, th b').length")
        == 0
    )
    grey = np.asarray(Image.open(io.BytesIO(picture)).convert("L"), float)
    assert (grey.mean() > 160) == (scheme == "light")
    assert grey.std() > 10, "something is drawn"


def test_a_trial_is_chosen_by_keyboard(browser: Browser, evaluated: Any) -> None:
    browser.open(evaluated.page)
    browser.run(SETTLED)
    before = browser.run(f"Array.from({MODEL.format('frames')}.data['line-0-0'])")
    drawn = browser.run(DRAWN)
    browser.tab_to("trial")
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid", "focus is visible"
    browser.press("ArrowDown", 40)
    browser.run(SETTLED)
    assert browser.run("document.getElementById('trial').selectedOptions[0].textContent") == evaluated.trials[1]
    assert browser.run(f"Array.from({MODEL.format('frames')}.data['line-0-0'])") != before
    assert browser.run(DRAWN) != drawn
    browser.tab_to("next")
    browser.press("Enter", 13, "\r")
    assert browser.run("document.getElementById('trial').selectedOptions[0].textContent") == evaluated.trials[2]
    assert browser.run("document.getElementById('next').disabled")


DRAWN = """(() => {
  const drawn = [];
  const walk = (node) => {
    for (const child of [...node.children, ...(node.shadowRoot ? [node.shadowRoot] : [])]) {
      if (child.tagName === "CANVAS") drawn.push(child.toDataURL());
      walk(child);
    }
  };
  walk(document.getElementById("timeline"));
  return drawn.join();
})()"""
"""What is on the canvases of the timeline."""


def test_moments_have_faces_and_figures(browser: Browser, evaluated: Any) -> None:
    browser.open(evaluated.page)
    browser.tab_to("moment")
    for _ in range(20):
        browser.press("ArrowRight", 39)
    assert browser.run("document.getElementById('moment-text').textContent") == "0.80 s"
    assert browser.run(
        "document.getElementById('face').src.startsWith('data:image/jpeg') && !document.getElementById('face').hidden"
    )
    assert browser.run("document.getElementById('face').alt") == "Face at 0.8 seconds"
    assert "valence 0.84, arousal 0.54" in browser.run("document.getElementById('values').textContent")
    browser.run(
        "document.getElementById('moment').value = 100; document.getElementById('moment').dispatchEvent(new Event('input'))"
    )
    assert browser.run("document.getElementById('face').hidden")
    assert browser.run("document.getElementById('no-face').textContent") == "no face"


def test_pointing_at_a_panel_chooses_the_moment(browser: Browser, evaluated: Any) -> None:
    browser.open(evaluated.page)
    browser.run("document.getElementById('timeline').scrollIntoView()")
    browser.run(SETTLED)
    place = browser.run(
        "(({x, y, width}) => ({x, y, width}))(document.getElementById('timeline').getBoundingClientRect())"
    )
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=place["x"] + place["width"] / 2, y=place["y"] + 80)
    browser.run(SETTLED)
    assert 80 < int(browser.run("document.getElementById('moment').value")) < 120
    assert browser.faults() == []


def test_zoom_lines_and_errors_are_buttons(browser: Browser, evaluated: Any) -> None:
    browser.open(evaluated.page)
    length = f"(({{start, end}}) => end - start)({MODEL.format('time')})"
    whole = browser.run(length)
    browser.tab_to("zoom-in")
    browser.press("Enter", 13, "\r")
    assert browser.run(length) == pytest.approx(whole / 2)
    browser.tab_to("whole")
    browser.press("Enter", 13, "\r")
    assert browser.run(length) == pytest.approx(whole)
    browser.run("document.querySelectorAll('#lines-legend button')[2].click()")
    assert browser.run(f"{MODEL.format('line-2-1')}.visible") is False
    curves = f"{MODEL.format('curves')}.x_range"
    shown = browser.run(f"{curves}.end")
    browser.run(f"{curves}.setv({{start: 0.5, end: 0.6}})")
    browser.tab_to("all-epochs")
    browser.press("Enter", 13, "\r")
    assert browser.run(f"{curves}.end") == shown
    first = "document.querySelector('#by-trial tbody th').textContent"
    worst = browser.run(first)
    browser.run("document.getElementById('order').click()")
    assert browser.run(first) != worst
    browser.run("document.querySelectorAll('#by-trial tbody button')[0].click()")
    assert browser.run("document.getElementById('trial').selectedOptions[0].textContent") == browser.run(first)
    assert browser.run("document.activeElement.id") == "trial"
