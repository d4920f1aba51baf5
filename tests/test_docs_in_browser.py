"""The pages of docs/ on a phone: nothing is wider than the window but what scrolls by itself, nothing fails or is fetched from a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browsers import Browser, needs_browser, open_browser
from tests.test_docs import build, copy_pages

pytestmark = [needs_browser, pytest.mark.slow]
WIDTH = 390
TOO_WIDE = """[...document.querySelectorAll('article *')].filter((each) => {
  if (each.getBoundingClientRect().right <= WIDTH + 1) return false;
  for (let above = each.parentElement; above.tagName != 'ARTICLE'; above = above.parentElement)
    if (getComputedStyle(above).overflowX != 'visible') return false;
  return true;
}).map((each) => each.outerHTML.slice(0, 100))""".replace("WIDTH", str(WIDTH))


def look(browser: Browser, page: Path) -> dict[str, object]:
    """What is wrong with a page; a folder without a server cannot be searched, which the theme tries."""
    browser.events.clear()
    browser.open(page, WIDTH, 844)
    faults = {
        "scrolls": browser.run("document.documentElement.scrollWidth") > WIDTH,
        "too wide": browser.run(TOO_WIDE),
        "failed": [
            each for each in browser.faults() if not each.get("entry", {}).get("url", "").endswith("/search.js")
        ],
        "fetched": [url for url in browser.fetched() if not url.startswith("file:")],
    }
    return {what: found for what, found in faults.items() if found}


def test_pages_fit_a_phone(tmp_path: Path) -> None:
    result = build(copy_pages(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    pages = sorted(path for path in (tmp_path / "site").rglob("*.html") if path.name != "404.html")
    assert len(pages) > 20
    with open_browser(tmp_path / "chromium") as browser:
        assert {page.name: found for page in pages if (found := look(browser, page))} == {}
