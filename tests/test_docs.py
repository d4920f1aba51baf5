"""The pages of docs/ and of the docstrings build without a warning, and say what is asked of them."""

from __future__ import annotations

import importlib
import logging
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import griffe
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cache", "extract", "fusion", "pipelines")


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=300)


def copy_pages(folder: Path) -> Path:
    """What the pages are made of, in a folder."""
    shutil.copy(ROOT / "zensical.toml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    for package in PACKAGES:
        (folder / package).symlink_to(ROOT / package)
    return folder


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """What the pages are made of, in a folder of its own."""
    return copy_pages(tmp_path)


@pytest.mark.slow
def test_pages_build_without_warnings_and_have_every_public_name(copied: Path) -> None:
    result = build(copied)
    assert result.returncode == 0, result.stdout + result.stderr
    for package in PACKAGES:
        page = (copied / f"site/reference/{package}.html").read_text(encoding="utf-8")
        for name in importlib.import_module(package).__all__:
            assert re.search(rf'id="[a-z_.]+\.{name}"', page), f"{package}.{name}"
    assert "Raises" in (copied / "site/reference/cache.html").read_text(encoding="utf-8")
    assert all(
        (copied / "site" / path.relative_to(copied / "docs")).with_suffix(".html").is_file()
        for path in (copied / "docs").rglob("*.md")
    )
    pages = [path.read_text(encoding="utf-8") for path in (copied / "site").rglob("*.html")]
    assert not [
        found for page in pages for found in re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?:[^"]+"', page)
    ]


def test_every_page_is_in_the_navigation() -> None:
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    sections = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    named = [
        place
        for section in sections
        for places in section.values()
        for place in ([places] if isinstance(places, str) else places)
    ]
    assert sorted(named) == sorted(pages)


@pytest.mark.slow
def test_a_link_to_nowhere_is_an_error(copied: Path) -> None:
    page = copied / "docs/design.md"
    page.write_text(f"{page.read_text(encoding='utf-8')}\n[gone](gone.md)\n", encoding="utf-8")
    result = build(copied)
    assert result.returncode == 1
    assert "page does not exist" in result.stdout + result.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_are_read_without_warnings(package: str, caplog: pytest.LogCaptureFixture) -> None:
    """A section that names no parameter, or is indented as nothing is, would be missing or wrong on its page."""

    def parse(found: griffe.Object) -> int:
        parsed = 1 if found.docstring and found.docstring.parsed else 0
        return parsed + sum(parse(each) for each in found.members.values() if not each.is_alias)

    with caplog.at_level(logging.WARNING):
        assert parse(griffe.load(package, search_paths=[ROOT], docstring_parser="google")) > 40
    assert [record.getMessage() for record in caplog.records] == []
