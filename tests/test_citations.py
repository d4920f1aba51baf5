"""Every work that code, presets or docs cite has an entry in docs/refs.bib, and every entry is cited."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("cache", "extract", "fusion", "pipelines", "docs", "benchmarks", "examples")
KEY = r"[A-Z][A-Za-z]+(?:19|20)\d\d[A-Za-z]*"
ENTRIES = re.findall(rf"^@\w+{{({KEY}),", (ROOT / "docs/refs.bib").read_text(encoding="utf-8"), re.MULTILINE)


def cited() -> dict[str, set[str]]:
    """Key → files that cite it: in brackets, in a weights card (`paper=`) or in a preset (`source:`)."""
    files = [
        path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".md", ".yaml"}
    ]
    found: dict[str, set[str]] = {}
    for path in [ROOT / "README.md", *files]:
        text = path.read_text(encoding="utf-8")
        marks = re.findall(rf"(?:\[|; |paper=\"|source: ){KEY}(?=[\],;'\"]|\s*$)", text, re.MULTILINE)
        for mark in marks:
            found.setdefault(re.sub(r"^(\[|; |paper=\"|source: )", "", mark), set()).add(str(path.relative_to(ROOT)))
    return found


def test_every_cited_work_has_one_entry() -> None:
    missing = {key: sorted(files) for key, files in cited().items() if key not in ENTRIES}
    assert not missing
    assert len(ENTRIES) == len(set(ENTRIES))


def test_every_entry_is_cited() -> None:
    assert set(ENTRIES) <= set(cited())
