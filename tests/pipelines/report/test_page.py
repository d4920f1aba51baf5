"""The page holds everything, from the files of the project alone, and stays small; names are text."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.corpus.manifest import Manifest
from pipelines.project import paths
from pipelines.project.scores import read_scores
from pipelines.report import timelines
from pipelines.report.markdown import write_report
from pipelines.report.page_plots import COLOURS, look_of
from pipelines.report.page_tables import errors, remake
from pipelines.report.predictions import Predicted, read_predictions


class Page(HTMLParser):
    """Elements of a page with their attributes, and its text without scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._within = ""
        self.data: dict[str, Any] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within = tag

    def handle_data(self, data: str) -> None:
        if self._within == "script" and self.elements[-1][1].get("id") == "content":
            self.data = json.loads(data)
        elif self._within not in ("script", "style"):
            self.text.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._within = ""


def test_names_are_text_and_only_our_scripts_run(evaluated: Any) -> None:
    text = evaluated.page.read_text(encoding="utf-8")
    page = Page(text)
    assert [tag for tag, _ in page.elements].count("script") == 3
    assert all(not any(name.startswith("on") for name in attributes) for _, attributes in page.elements)
    assert {attributes.get("src") for _, attributes in page.elements} == {None}
    policy = next(own["content"] for _, own in page.elements if "Content-Security-Policy" in own.values())
    assert "default-src 'none'" in policy
    assert len(re.findall(r"'sha256-[^']+'", policy.split(";")[1])) == 2
    assert "unsafe" not in policy.split(";")[1]
    for name in (*evaluated.trials, *evaluated.systems):
        assert name in page.text
    assert [trial["id"] for trial in page.data["trials"]] == list(evaluated.trials)


def test_everything_that_made_it_is_told(evaluated: Any) -> None:
    text = " ".join(Page(evaluated.page.read_text(encoding="utf-8")).text)
    for told in (
        "w<i>",
        "https://example.org/w",
        "MIT & more",
        "abababababab",
        "torch",
        "zarr",
        "avfusion train",
        "[0.400, 0.600]",
    ):
        assert told in text


def test_trials_have_faces_and_gaps(evaluated: Any) -> None:
    trial = Page(evaluated.page.read_text(encoding="utf-8")).data["trials"][1]
    assert trial["missing"] == {"visual": [[3.2, 4.8]]}
    assert [time for time, _ in trial["faces"]] == pytest.approx([0.8 * number for number in range(10)])
    assert base64.b64decode(trial["faces"][0][1].removeprefix("data:image/jpeg;base64,")).startswith(b"\xff\xd8")
    assert trial["times"] == [0.0, 0.04]


def test_long_trials_and_many_faces_are_thinned(evaluated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(evaluated.folder)
    for name, most in (("MOST_POINTS", 150), ("MOST_FACES_OF_TRIAL", 4)):
        monkeypatch.setattr(timelines, name, most)
    manifest, predicted = _read()
    made = timelines.make_timelines(predicted, [0, 2], {}, manifest, evaluated.params)
    assert [trial["id"] for trial in made] == [evaluated.trials[0], evaluated.trials[2]]
    assert [trial["step"] for trial in made] == [2, 2]
    assert len(made[0]["faces"]) == 4
    numbers = np.frombuffer(base64.b64decode(made[0]["lines"][0]), "<i2").reshape(2, 100)
    labels = predicted.trials[0][0].labels
    assert labels is not None
    assert (numbers[:, :5] == -32768).all()
    np.testing.assert_allclose(numbers[:, 5:].T / 10_000, labels[10::2], atol=1e-4)


def test_of_many_trials_the_worst_and_the_best_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timelines, "MOST_TRIALS", 9)
    wrong = [0.1, 0.9, *(0.2 + 0.01 * number for number in range(30)), None, 0.95]
    rows = [[None, value, None] for value in wrong]
    assert timelines.choose_trials([rows[:9]]) == list(range(9))
    assert timelines.choose_trials([]) == []
    chosen = timelines.choose_trials([rows, [[None, value and value / 2, None] for value in wrong]])
    assert chosen == [0, 1, 2, 3, 17, 30, 31, 32, 33]
    assert timelines.choose_trials([rows, [[None, None, None]] * len(rows)]) == chosen


def test_errors_are_those_of_the_definition(evaluated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(evaluated.folder)
    _, predicted = _read()
    found = errors(predicted)
    trial, predictions = predicted.trials[2]
    assert trial.labels is not None
    known = np.isfinite(trial.labels).all(axis=1)
    own, true = predictions["fused"][known].astype(float), trial.labels[known].astype(float)
    each = np.sqrt(((own - true) ** 2).mean(axis=0))
    assert found["trials"][0][2][:3] == pytest.approx([*each, np.sqrt((each**2).mean())], abs=1e-4)
    ccc = (
        2
        * ((own - own.mean(0)) * (true - true.mean(0))).mean(0)
        / (own.var(0) + true.var(0) + (own.mean(0) - true.mean(0)) ** 2)
    )
    assert found["trials"][0][2][3] == pytest.approx(ccc.mean(), abs=1e-4)
    assert found["names"] == ["s&<i>0", "s&<i>1"]
    assert found["ids"][2] == [evaluated.trials[2], "s&<i>0"]
    assert found["subjects"][0][0][2] == pytest.approx(
        np.sqrt((found["trials"][0][0][2] ** 2 + found["trials"][0][2][2] ** 2) / 2), abs=1e-4
    )


def test_lines_differ_in_colour_or_dashes() -> None:
    assert len({look_of(number) for number in range(24)}) == 24
    assert len(set(COLOURS)) == 6


def test_the_same_project_makes_the_same_page(evaluated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(evaluated.folder)
    before = evaluated.page.read_bytes()
    evaluated.page.unlink()
    write_report(evaluated.params)
    assert evaluated.page.read_bytes() == before


def _read() -> tuple[Manifest, Predicted]:
    manifest = Manifest.load(paths.CORPUS)
    return manifest, read_predictions(read_scores(paths.PROJECT.scores), manifest)


def test_the_commit_is_named_also_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert remake()["commit"] == "not in a Git repository"
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "init", "-q"], check=True)
    assert remake()["commit"] == "none yet"
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    assert len(remake()["commit"]) == 40
