"""Labels and media that change after the corpus was built are told, never used silently; their content counts, nothing else."""

from __future__ import annotations

import os
import shutil
import time
from fractions import Fraction
from pathlib import Path

import pytest

from cache.clock import FrameClock
from cache.corpus.manifest import Manifest, Trial
from cache.errors import CorpusError
from pipelines.project import corpus_files, paths
from pipelines.project.corpus_files import (
    FILES,
    Listing,
    list_names,
    load_corpus,
    load_files,
    look,
    look_again,
    save_files,
)
from pipelines.project.params import CorpusParams

OWN = CorpusParams(name="folder", root="own")


def fill(root: Path) -> Path:
    for name in ("labels/a.csv", "videos/a.mp4", "crops/a/00001.jpg", ".git/x"):
        path = root / name
        path.parent.mkdir(parents=True)
        path.write_text(name)
    return root


def settle(root: Path) -> None:
    """Let all times of change lie long enough ago to be believed."""
    newest = max(path.stat().st_ctime_ns for path in (root, *root.rglob("*")))
    time.sleep(max(0, newest + 2.1e9 - time.time_ns()) / 1e9)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "own")
    trial = Trial("a", "a", "", FrameClock(Fraction(25), 3), {})
    Manifest(Path("own"), (trial,)).save(paths.CORPUS)
    save_files(OWN, look(OWN), paths.CORPUS / FILES)
    return tmp_path / "own"


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    digest = corpus_files._digest
    monkeypatch.setattr(corpus_files, "_digest", lambda path: (read.append(path.name), digest(path))[1])
    return read


def test_files_and_folders_are_listed_without_pictures(own: Path) -> None:
    assert list_names(own) == [".", "crops", "labels", "videos", "crops/a", "labels/a.csv", "videos/a.mp4"]


def test_nothing_changed(own: Path) -> None:
    assert [trial.id for trial in load_corpus().trials] == ["a"]


@pytest.mark.parametrize("name", ["labels/a.csv", "videos/a.mp4"])
def test_a_changed_file_is_refused(own: Path, name: str) -> None:
    (own / name).write_text("changed")
    with pytest.raises(CorpusError, match=f"own/{name}' was changed after .* Run 'avfusion corpus build'"):
        load_corpus()


@pytest.mark.parametrize("settled", [False, True])
def test_a_change_that_keeps_size_and_time_is_seen(own: Path, settled: bool) -> None:
    path = own / "labels/a.csv"
    if settled:
        settle(own)
    load_corpus()
    before = path.stat()
    path.write_text(path.read_text().swapcase())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CorpusError, match="labels/a.csv"):
        load_corpus()


@pytest.mark.parametrize("name", ["videos/b.mp4", "crops/a/00002.jpg"])
def test_a_new_file_is_refused(own: Path, name: str) -> None:
    (own / name).write_text("new")
    with pytest.raises(CorpusError, match="was changed .* Run 'avfusion corpus build' again"):
        load_corpus()


def test_what_only_looks_changed_is_none(own: Path) -> None:
    os.utime(own / "labels/a.csv", ns=(1, 1))
    (own / "videos/.DS_Store").write_text("x")
    copy = own.with_name("copy")
    shutil.copytree(own, copy)
    shutil.rmtree(own)
    copy.rename(own)
    load_corpus()


def test_a_lost_file_is_refused_but_an_unmounted_corpus_is_not(own: Path) -> None:
    own.rename(own.with_name("away"))
    load_corpus()
    own.with_name("away").rename(own)
    (own / "videos/a.mp4").unlink()
    with pytest.raises(CorpusError):
        load_corpus()


def test_files_are_read_once_on_a_machine(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(own)
    load_corpus()
    read = count_reads(monkeypatch)
    load_corpus()
    assert read == []
    (own / "labels/a.csv").write_text("0,0")
    with pytest.raises(CorpusError):
        load_corpus()
    assert read == ["a.csv"]
    paths.CORPUS_SEEN.write_text("damaged")
    look(OWN)
    assert len(read) == 1 + len(list_names(own))


def test_looking_again_keeps_the_bytes_until_something_changes(own: Path, tmp_path: Path) -> None:
    path = tmp_path / "files.json"
    look_again(OWN, path)
    before = path.stat().st_mtime_ns
    os.utime(own / "labels/a.csv", ns=(1, 1))
    look_again(OWN, path)
    assert path.stat().st_mtime_ns == before
    known = load_files(path)
    (own / "labels/a.csv").write_text("changed")
    look_again(OWN, path)
    assert load_files(path) not in (known, None)
    look_again(CorpusParams(), path)
    assert load_files(path) == Listing("", corpus_files._digest_settings(CorpusParams()), {})


def test_the_bytes_are_those_of_another_machine(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "elsewhere"
    time.sleep(0.01)
    fill(other / "own")
    look_again(OWN, tmp_path / "files.json")
    monkeypatch.chdir(other)
    look_again(OWN, Path("files.json"))
    assert Path("files.json").read_bytes() == (tmp_path / "files.json").read_bytes()
