"""Transcripts for trials that come without words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import pipelines.stages.transcripts as stage
from cache.corpus.manifest import Manifest
from cache.errors import MediaError
from extract.corpora.reading import TRANSCRIPTS
from extract.words.transcripts import read_words, write_words
from extract.words.words import Word


@pytest.fixture
def wordless(project: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """The project's manifest, its trials without words, and a recogniser that always hears one."""
    manifest = Manifest.load(project / "work/corpus")
    trials = tuple(replace(t, media={k: v for k, v in t.media.items() if k != "words"}) for t in manifest.trials)
    replace(manifest, trials=trials).save(project / "work/corpus")

    def hear(path: Path, transcript: Path, recogniser: object, restorer: object, made_by: object) -> None:
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
    assert json.loads(run("transcribe", "--json").stdout) == [{"recognised": 0, "kept": 3}]
    assert json.loads(run("transcribe", "--redo", "--json").stdout) == [{"recognised": 3, "kept": 0}]


@pytest.mark.slow
@pytest.mark.usefixtures("wordless")
def test_a_damaged_transcript_fails_its_trial_alone_until_it_is_made_again(
    project: Path, run: Callable[..., Result]
) -> None:
    assert run("transcribe").exit_code == 0
    first, *others = sorted((project / "work/words").glob("*.json"))
    whole = first.read_bytes()
    first.write_bytes(whole.replace(b"happy", b"hippy"))
    failed = run("extract", "--backbone", "bert")
    assert failed.exit_code == 1
    assert f"bert: 1 of {1 + len(others)} trials failed" in failed.stderr
    assert first.name in failed.stderr
    assert not any(path.name in failed.stderr for path in others)
    first.unlink()
    assert json.loads(run("transcribe", "--json").stdout) == [{"recognised": 1, "kept": len(others)}]
    assert first.read_bytes() == whole
    (row,) = json.loads(run("extract", "--backbone", "bert", "--json").stdout)
    assert (row["computed"], row["kept"]) == (1, len(others))


def loose(run: Callable[..., Result], out: Path, *arguments: object) -> dict[str, int]:
    result = run("transcribe", "--json", "--out", out, *arguments)
    assert result.exit_code == 0, result.stderr
    (row,) = json.loads(result.stdout)
    return row


@pytest.mark.usefixtures("wordless")
def test_transcripts_of_loose_files_are_kept_unless_redone(tmp_path: Path, run: Callable[..., Result]) -> None:
    media, out = [tmp_path / name for name in ("a.wav", "b.wav", "c.d.mp4")], tmp_path / "out"
    out.mkdir()
    (out / "a.json").write_text("by hand")
    assert loose(run, out, *media) == {"recognised": 2, "kept": 1}
    assert (out / "a.json").read_text() == "by hand"
    assert loose(run, out, *media) == {"recognised": 0, "kept": 3}
    assert (out / "a.json").read_text() == "by hand"
    assert loose(run, out, "--redo", media[0]) == {"recognised": 1, "kept": 0}
    assert (out / "a.json").read_bytes() == (out / "c.d.json").read_bytes()


@pytest.mark.usefixtures("wordless")
@pytest.mark.parametrize("suffix", [".srt", ".vtt", ".TextGrid"])
def test_no_second_transcript_is_written_beside_another_kind(
    suffix: str, tmp_path: Path, run: Callable[..., Result]
) -> None:
    media, out = [tmp_path / name for name in ("a.wav", "b.wav")], tmp_path / "out"
    out.mkdir()
    other = out / f"a{suffix}"
    other.write_text("by hand")
    assert loose(run, out, *media) == {"recognised": 1, "kept": 1}
    result = run("transcribe", "--out", out, "--redo", *media)
    assert (result.exit_code, "words: 1 of 2 trials failed" in result.stderr) == (1, True), result.stderr
    assert f"a: There is '{other}' already" in result.stderr
    assert "run without --redo" in result.stderr
    assert sorted(path.name for path in out.iterdir()) == sorted((other.name, "b.json", stage.FAILURES))
    assert other.read_text() == "by hand"


@pytest.mark.usefixtures("wordless")
def test_two_transcripts_of_a_name_are_told_and_left(tmp_path: Path, run: Callable[..., Result]) -> None:
    for suffix in (".json", ".srt"):
        (tmp_path / f"a{suffix}").write_text("by hand")
    result = run("transcribe", "--out", tmp_path, tmp_path / "a.wav")
    assert (result.exit_code, "2 transcripts" in result.stderr) == (1, True), result.stderr
    assert (tmp_path / "a.json").read_text() == "by hand"


@pytest.mark.usefixtures("wordless")
@pytest.mark.parametrize("redo", [[], ["--redo"]])
def test_a_folder_is_no_transcript(redo: list[str], tmp_path: Path, run: Callable[..., Result]) -> None:
    (tmp_path / "a.json").mkdir()
    result = run("transcribe", "--out", tmp_path, *redo, tmp_path / "a.wav")
    assert (result.exit_code, f"'{tmp_path}/a.json' is a folder" in result.stderr) == (1, True), result.stderr


def test_the_list_of_failures_is_nobodys_transcript(
    wordless: Manifest, tmp_path: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    hear = stage.transcribe

    def fail(path: Path, *rest: Any) -> Any:
        if path.stem == "broken":
            raise MediaError("no sound")
        return hear(path, *rest)

    monkeypatch.setattr(stage, "transcribe", fail)
    assert not stage.FAILURES.endswith(TRANSCRIPTS)
    stems = ("failures", ".failures", "words.failures", Path(stage.FAILURES).stem, stage.FAILURES)
    media, out = [tmp_path / f"{stem}.wav" for stem in dict.fromkeys(stems)], tmp_path / "out"
    result = run("transcribe", "--out", out, *media, tmp_path / "broken.wav")
    assert (result.exit_code, str(out / stage.FAILURES) in result.stderr) == (1, True), result.stderr
    assert json.loads((out / stage.FAILURES).read_text()) == {"broken": "no sound"}
    for path in media:
        assert [word.text for word in read_words(out / f"{path.stem}.json")] == ["happy"]
    assert loose(run, out, *media) == {"recognised": 0, "kept": len(media)}
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{path.stem}.json" for path in media)


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
    assert (result.exit_code, result.stderr.count("No Vosk model")) == (1, 1), result.stderr
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
    assert not any(name in result.stderr for name in ("random", "minilm")), result.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("wordless")
def test_two_at_once_share_the_work(project: Path, run: Callable[..., Result]) -> None:
    program = (
        "import os, time; import pipelines.stages.transcripts as stage; from extract.words.transcripts import write_words; "
        "from extract.words.words import Word\n"
        "def hear(path, transcript, recogniser, restorer, made_by):\n"
        "    with open('heard', 'a') as file: file.write(f'{transcript.name}\\n')\n"
        "    time.sleep(0.5)\n"
        "    write_words(transcript, [Word('happy', 0.5, 1.0)])\n"
        "stage.transcribe, stage.open_recogniser = hear, lambda name: name\n"
        "from pipelines.cli.commands import avfusion; avfusion(['transcribe', '--json'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(stage.__file__).parents[2])}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    rows = []
    for process in both:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        rows += json.loads(out)
    heard = (project / "heard").read_text().split()
    assert len(heard) == len(set(heard)) == 3
    assert sum(row["recognised"] for row in rows) == 3
    assert all(row["recognised"] + row["kept"] == 3 for row in rows)
