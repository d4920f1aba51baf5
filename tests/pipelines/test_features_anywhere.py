"""Features in another folder or behind a URL: every command that writes or reads them finds them there."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from cache.places.folders import Where, is_file, join_place, split_place
from cache.store.receipt import open_receipt
from pipelines.project import paths

RECEIPTS = ("receipts/mobilefacenet.json", "receipts/conv1d.json")


@pytest.fixture(params=["local", "s3"])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for features."""
    name = uuid.uuid4().hex
    if request.param == "local":
        return str(tmp_path / name)
    return f"{request.getfixturevalue('s3')}/{name}"


def read(where: Where) -> bytes:
    folder, name = split_place(where)
    content = folder.read(name)
    assert content is not None, where
    return content


def test_the_whole_pipeline_works_there(project: Path, elsewhere: str, run: Callable[..., Result]) -> None:
    """Receipts are those of a local run, a trial that is missing is made again, and models train from there."""
    shutil.move("features", "local")
    there = ("--features", elsewhere)
    extract = ("extract", "--backbone", "mobilefacenet", "--backbone", "conv1d", *there, "--json")
    planned = json.loads(run(*extract, "--dry-run").stdout)
    assert [(row["to_do"], row["kept"]) for row in planned] == [(3, 0), (3, 0)]
    assert [row["computed"] for row in json.loads(run(*extract).stdout)] == [3, 3]
    for name in RECEIPTS:
        assert read(join_place(elsewhere, name)) == (Path("local") / name).read_bytes()
    store, receipt = open_receipt(join_place(elsewhere, RECEIPTS[1]))
    store.drop(next(iter(receipt.trials)))
    assert [row["computed"] for row in json.loads(run(*extract).stdout)] == [0, 1]
    assert read(join_place(elsewhere, RECEIPTS[1])) == (Path("local") / RECEIPTS[1]).read_bytes()
    for command in (("train", "--system", "fused"), ("cache", "verify")):
        result = run(*command, *there)
        assert result.exit_code == 0, result.output
    assert not Path("features").exists()
    assert Path("work/models/fused/fold0/seed1").is_dir()
    assert "'conv1d', which does not exist" in run("train").stderr


def test_evaluation_report_and_failures_too(
    project: Path, s3: str, run: Callable[..., Result], edit_params: Callable[..., None]
) -> None:
    elsewhere = f"{s3}/{uuid.uuid4().hex}"
    edit_params(
        lambda params: params["fusion"].update(workers=2, systems={"fused": params["fusion"]["systems"]["fused"]})
    )
    shutil.rmtree("features")
    there = ("--features", elsewhere)
    sound = next(Path("work/corpus").rglob("*.mp4"))
    content = sound.read_bytes()
    sound.write_bytes(b"")
    assert run("extract", "--backbone", "conv1d", *there).exit_code == 1
    failures, receipt = (join_place(elsewhere, f"{name}.json") for name in ("conv1d.failures", "receipts/conv1d"))
    assert len(json.loads(read(failures))) == 1
    assert not is_file(receipt)
    sound.write_bytes(content)
    result = run("extract", "--backbone", "conv1d", "--backbone", "mobilefacenet", *there)
    assert result.exit_code == 0, result.output
    assert (is_file(failures), is_file(receipt)) == (False, True)
    for command in ("train", "evaluate", "report"):
        result = run(command, *there)
        assert result.exit_code == 0, result.output
    assert "conv1d, mobilefacenet ran with random weights" in (paths.RESULTS / "report.md").read_text(encoding="utf-8")
    assert not Path("features").exists()


def test_loose_media_have_their_own_place(run: Callable[..., Result]) -> None:
    loose = ("extract", "--backbone", "conv1d", "--weights", "random", "--out", "out", "a.wav")
    assert "go into --out" in run(*loose, "--features", "features").stderr


def test_reproducing_looks_there(project: Path, tmp_path: Path, run: Callable[..., Result]) -> None:
    result = run("reproduce", "karas2022", "--table", "2", "--features", str(tmp_path / "nowhere"))
    assert result.exit_code == 1
    assert "The table needs" in result.stderr
    assert "mobilefacenet" in result.stderr
