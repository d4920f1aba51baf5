"""Transcripts for trials that come without words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

import pipelines.transcribe_speech as stage
from cache.manifest import Manifest
from extract.transcripts import write_words
from extract.words import Word


@pytest.fixture
def wordless(project: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """The project's manifest, its trials without words, and a recogniser that always hears one."""
    manifest = Manifest.load(project / "work/corpus")
    trials = tuple(replace(t, media={k: v for k, v in t.media.items() if k != "words"}) for t in manifest.trials)
    replace(manifest, trials=trials).save(project / "work/corpus")

    def hear(path: Path, transcript: Path, recogniser: object, restorer: object) -> None:
        transcript.parent.mkdir(parents=True, exist_ok=True)
        write_words(transcript, [Word("happy", 0.5, 1.0)])

    monkeypatch.setattr(stage, "transcribe", hear)
    monkeypatch.setattr(stage, "open_recogniser", lambda name: name)
    return manifest


def test_trials_without_words_get_them_once(wordless: Manifest, project: Path, run: Callable[..., Result]) -> None:
    assert json.loads(run("transcribe", "--json").stdout) == [{"recognised": 3, "kept": 0}]
    manifest = Manifest.load(project / "work/corpus")
    for trial in manifest.trials:
        words = json.loads(manifest.path(trial, "words").read_text(encoding="utf-8"))
        assert [word["word"] for word in words["words"]] == ["happy"]
    assert json.loads(run("transcribe", "--json").stdout) == [{"recognised": 0, "kept": 0}]


def test_the_words_of_the_corpus_win(project: Path, run: Callable[..., Result]) -> None:
    assert json.loads(run("transcribe", "--json").stdout) == [{"recognised": 0, "kept": 0}]


def test_usage(run: Callable[..., Result], tmp_path: Path) -> None:
    assert run("transcribe", tmp_path / "a.wav").exit_code == 2
    result = run("transcribe", "--out", tmp_path / "out", "--recogniser", "siri", tmp_path / "a.wav")
    assert result.exit_code == 2
    assert "Unknown recogniser 'siri'" in result.stderr


def test_a_model_that_is_not_there_is_told_once(run: Callable[..., Result], tmp_path: Path) -> None:
    pytest.importorskip("vosk")
    media = [tmp_path / name for name in ("a.wav", "b.wav")]
    result = run("transcribe", "--out", tmp_path / "out", "--recogniser", f"vosk:{tmp_path}/none", *media)
    assert (result.exit_code, result.stderr.count("There is no Vosk model")) == (1, 1), result.stderr
    assert not (tmp_path / "out").exists()


def test_loose_files_of_one_name_are_refused(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("transcribe", "--out", tmp_path / "out", tmp_path / "x/a.wav", tmp_path / "y/a.mp4")
    assert (result.exit_code, "Two files are named 'a'" in result.stderr) == (1, True)
    assert not (tmp_path / "out").exists()


def test_the_model_of_punctuation_may_be_a_folder(run: Callable[..., Result], tmp_path: Path) -> None:
    arguments = ("transcribe", "--out", tmp_path / "out", "--punctuation-model", tmp_path / "none", tmp_path / "a.wav")
    assert run(*arguments).exit_code == 2
    result = run(*arguments, "--punctuate")
    assert (result.exit_code, f"'{tmp_path}/none' do not exist" in result.stderr) == (1, True), result.stderr
