"""Labels and media that change after the corpus was built are told, never used silently."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import pytest

from cache.clock import FrameClock
from cache.errors import CorpusError
from cache.manifest import Manifest, Trial
from pipelines import paths
from pipelines.corpus_files import FILES, list_files, load_corpus, load_files, look, look_again, save_files
from pipelines.params import CorpusParams


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("labels/a.csv", "videos/a.mp4", "crops/a/00001.jpg", ".git/x"):
        path = tmp_path / "own" / name
        path.parent.mkdir(parents=True)
        path.write_text(name)
    trial = Trial("a", "a", "", FrameClock(Fraction(25), 3), {})
    Manifest(Path("own"), (trial,)).save(paths.CORPUS)
    save_files("own", look(CorpusParams(name="folder", root="own")), paths.CORPUS / FILES)
    return tmp_path / "own"


def test_files_and_folders_are_listed_without_pictures(own: Path) -> None:
    assert list(list_files(own)) == [".", "crops", "labels", "videos", "crops/a", "labels/a.csv", "videos/a.mp4"]


def test_nothing_changed(own: Path) -> None:
    assert [trial.id for trial in load_corpus().trials] == ["a"]


@pytest.mark.parametrize("name", ["labels/a.csv", "videos/a.mp4"])
def test_a_changed_file_is_refused(own: Path, name: str) -> None:
    (own / name).write_text("changed")
    with pytest.raises(CorpusError, match=f"own/{name}' was changed after .* Run 'avfusion corpus build'"):
        load_corpus()


@pytest.mark.parametrize("name", ["videos/b.mp4", "crops/a/00002.jpg"])
def test_a_new_file_is_refused(own: Path, name: str) -> None:
    (own / name).write_text("new")
    with pytest.raises(CorpusError, match="was changed after the corpus was built"):
        load_corpus()


def test_a_lost_file_is_refused_but_an_unmounted_corpus_is_not(own: Path) -> None:
    own.rename(own.with_name("away"))
    load_corpus()
    own.with_name("away").rename(own)
    (own / "videos/a.mp4").unlink()
    with pytest.raises(CorpusError):
        load_corpus()


def test_looking_again_keeps_the_bytes_until_something_changes(own: Path, tmp_path: Path) -> None:
    params, path = CorpusParams(name="folder", root="own"), tmp_path / "files.json"
    look_again(params, path)
    before = path.stat().st_mtime_ns
    look_again(params, path)
    assert path.stat().st_mtime_ns == before
    os.utime(own / "labels/a.csv", ns=(1, 1))
    look_again(params, path)
    known = load_files(path)
    assert known is not None
    assert known[1]["labels/a.csv"] == [len("labels/a.csv"), 1]
    look_again(CorpusParams(), path)
    assert load_files(path) == ("", {})
