"""The page in a real browser: no error, nothing fetched, and everything works by keyboard, on a phone and in the dark.

Without Chromium these tests are skipped.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.browsers import Browser, needs_browser, open_browser

pytestmark = needs_browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A page of a new Chromium."""
    with open_browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


READY = "document.documentElement?.dataset.ready == 'all'"
MODEL = "Bokeh.documents.map((made) => made.get_model_by_name('{}')).find(Boolean)"
SETTLED = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 100))))"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_opens_without_errors_and_fetches_nothing(
    browser: Browser, evaluated: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    browser.events.clear()
    browser.open(evaluated.page, width, 900, scheme, READY)
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
    browser.open(evaluated.page, until=READY)
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
    browser.open(evaluated.page, until=READY)
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
    browser.open(evaluated.page, until=READY)
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
    browser.open(evaluated.page, until=READY)
    length = f"(({{start, end}}) => end - start)({MODEL.format('time')})"
    whole = browser.run(length)
    browser.tab_to("zoom-in")
    browser.press("Enter", 13, "\r")
    assert browser.run(length) == pytest.approx(whole / 2)
    browser.run("for (let i = 0; i < 30; i++) document.getElementById('zoom-in').click()")
    assert browser.run(length) > 0.05  # some frames, not a part of one
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
