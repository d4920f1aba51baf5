"""The report shows every name as itself: in tables, texts of pictures, links and figures."""

from __future__ import annotations

import json
import unicodedata
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from markdown_it import MarkdownIt

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.documents.arrays import format_arrays
from cache.documents.documents import digest_bytes, write_document, write_file
from cache.names import encode_trial_id
from cache.targets import Target
from pipelines.console.escaping import printable
from pipelines.project.params import CorpusParams, FusionParams, Params
from pipelines.project.runs import digest_runs, save_run
from pipelines.project.scores import ScoresDocument
from pipelines.report import figures
from pipelines.report.figures import draw_trial
from pipelines.report.markdown import write_report
from pipelines.report.wording import code, drawable, plain

NAMES = [
    "a$b_<img src=x onerror=alert(1)>|`x`",
    "red\x1b[31m\x9b2J\u202etxt\r\n| forged | row |\n\n# heading",
    "100% (of) [it](http://x) *a* _b_ ~~c~~ &lt; \\ \\$ $",
    "$\\frac{1$ $$ \\",
    "日本 Zoë 🙂 e\u0301 \U0010ffff",
    "x" * 200,
    "plain_name-1.2",
]
TARGETS = ("val$ence|<b>", "_arousal_")
FIGURES = {"mean": 0.5, "std": 0.1, "best": 0.6, "ensemble": 0.55, "low": 0.4, "high": 0.6}


class Page(HTMLParser):
    """Cells, pictures and other elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.pictures: list[tuple[str, str]] = []
        self.elements: set[str] = set()
        self.feed(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        found = dict(attrs)
        if tag == "img":
            self.pictures.append((found["alt"] or "", found["src"] or ""))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data.strip("\n")


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What an evaluation leaves, with every name for trials and systems."""
    monkeypatch.chdir(tmp_path)
    clock = FrameClock(Fraction(25), 50)
    labels = np.sin(np.arange(100, dtype=np.float32) / 9).reshape(50, 2)
    trials = tuple(Trial(name, f"s{i}", "test", clock, {}, labels) for i, name in enumerate(NAMES))
    Manifest(tmp_path, trials, tuple(map(Target, TARGETS))).save(tmp_path / "work/corpus")
    predictions = format_arrays({encode_trial_id(trial): labels * np.float32(0.5) for trial in NAMES})
    for name in SYSTEMS:
        write_file(tmp_path / f"work/predictions/{name}.npz", predictions)
    metric = dict.fromkeys((*TARGETS, "mean"), FIGURES)
    metrics = dict.fromkeys(("ccc", "trial_ccc", "pcc", "rmse", "sagr"), metric)
    document = {
        "partition": "te`st",
        "folds": [0],
        "seeds": 2,
        "level": 0.95,
        "predictions": dict.fromkeys(SYSTEMS, digest_bytes(predictions)),
        "systems": dict.fromkeys(SYSTEMS, metrics),
        "metrics": {
            name: {"title": name.upper(), "digits": 3, "by_target": name != "trial_ccc", "brief": False}
            for name in metrics
        },
    }
    write_document(tmp_path / "results/scores.json", ScoresDocument, document)
    for name in SYSTEMS:
        history = [{"system": "", "fold": 0, "seed": 0, "targets": "", "epoch": e, "ccc": 0.1 * e} for e in (1, 2)]
        save_run(tmp_path / "work/models" / name / "fold0/seed0", "", history)
    return tmp_path


SYSTEMS = ["a$b_<i>|`x`", "_hidden_", "日本 $x$"]


def test_names_are_shown_as_themselves(finished: Path) -> None:
    path = write_report(Params(CorpusParams(), FusionParams([0, 1], {})))
    text = path.read_text(encoding="utf-8")
    assert printable(text) == text
    page = Page(text)
    assert page.elements <= {"h1", "h2", "p", "code", "table", "thead", "tbody", "tr", "th", "td", "img"}
    assert [page.cells[i] for i, cell in enumerate(page.cells) if cell in SYSTEMS] == SYSTEMS * 2
    assert f"CCC {TARGETS[0]}" in page.cells
    assert f"RMSE {TARGETS[1]}" in page.cells
    (_, *trials) = page.pictures
    assert sorted(alt for alt, _ in trials) == sorted(f"Trial {printable(name, keep='')}"[:200] for name in NAMES)
    for _, link in page.pictures:
        assert (path.parent / unquote(link)).read_bytes().startswith(b"\x89PNG")


def test_figures_are_drawn_of_any_name(tmp_path: Path) -> None:
    """Warnings are errors here: of glyphs that a font lacks, of layouts that do not fit."""
    labels = np.zeros((5, 2), np.float32)
    for number, name in enumerate([*NAMES, "", "\n", "\udcff", "_", "W" * 3000]):
        trial = Trial(name, "s", "test", FrameClock(Fraction(25), 5), {}, labels)
        path = tmp_path / f"{number}.png"
        draw_trial(trial, {name: labels, "b": labels}, (Target(f"{name}."), Target("b")), path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_text_of_figures() -> None:
    assert drawable("Zoë ± 日本\n$x$") == r"Zoë ± \u65e5\u672c\n$x$"
    assert drawable("x" * 100) == "x" * 79 + "…"
    assert drawable("abcdef", 3) == "ab…"
    for mark in drawable("".join(NAMES), 10_000):
        assert unicodedata.category(mark) not in {"Cc", "Cf", "Cs"}


@pytest.mark.parametrize("name", [*NAMES, "`", "``a`", " a ", "a\\", "\\`", "***"])
def test_plain_text_and_code_render_as_they_are(name: str) -> None:
    shown = printable(name, keep="")
    page = Page(f"| a | b |\n|---|---|\n| x{plain(name)}x | |\n")
    assert page.cells[2] == f"x{shown}x"
    assert "img" not in page.elements
    if "|" not in shown:  # which tables take for their own even there
        page = Page(f"| a | b |\n|---|---|\n| x{code(name)}x | |\n")
        assert page.cells[2] == f"x{shown}x"
        assert "code" in page.elements


def test_scores_older_than_the_networks_are_marked(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str] = []
    save = figures._save

    def look(figure: Any, path: Path) -> None:
        labels.extend(_legend(figure))
        save(figure, path)

    monkeypatch.setattr(figures, "_save", look)
    path, models = finished / "results/scores.json", finished / "work/models"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["networks"] = {name: digest_runs(models, name) for name in SYSTEMS}
    write_document(path, ScoresDocument, document)
    fresh = write_report(Params(CorpusParams(), FusionParams([0, 1], {}))).read_text(encoding="utf-8")
    assert "arlier networks" not in fresh
    history = [{"system": "", "fold": 0, "seed": 0, "targets": "", "epoch": e, "ccc": 0.2 * e} for e in (1, 2)]
    save_run(models / SYSTEMS[0] / "fold0/seed0", "other settings", history)
    labels.clear()
    with pytest.warns(UserWarning, match="older than the networks"):
        text = write_report(Params(CorpusParams(), FusionParams([0, 1], {}))).read_text(encoding="utf-8")
    notes = [line for line in text.splitlines() if line.startswith("**Earlier networks:**")]
    assert len(notes) == 2, "above the tables and above the pictures"
    assert "Run `avfusion evaluate; avfusion report`." in notes[0]
    cells = [cell for cell in Page(text).cells if "(earlier networks)" in cell]
    assert cells == [f"{SYSTEMS[0]} (earlier networks)"] * 2
    assert {label for label in labels if "(earlier networks)" in label} == {f"{SYSTEMS[0]} (earlier networks)"}


def _legend(figure: Any) -> list[str]:
    legends = [panel.get_legend() for panel in figure.axes if panel.get_legend()]
    return [text.get_text() for legend in legends for text in legend.get_texts()]
