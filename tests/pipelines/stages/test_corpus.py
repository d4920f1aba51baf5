"""Several processes that build one corpus: one builds, the others wait and take over what it built."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cache.corpus.manifest import Manifest
from cache.store.locks import claim
from pipelines.project import paths
from pipelines.project.params import CorpusParams
from pipelines.stages import corpus as build_corpus
from pipelines.stages.corpus import _CLAIM

ROOT = Path(__file__).parents[3]
SETTINGS = {"num_trials": 3, "num_subjects": 3, "min_s": 1.0, "max_s": 1.2}
PROGRAM = """
from extract.corpora.demo.corpus import DemoCorpus
from pipelines.cli.commands import avfusion
generate = DemoCorpus.generate
def counted(self, root):
    with open("generated", "a") as file:
        file.write("once\\n")
    generate(self, root)
DemoCorpus.generate = counted
avfusion(["corpus", "build"])
"""


def test_one_builds_and_the_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["corpus"]["settings"] = SETTINGS
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    paths.CORPUS.parent.mkdir()
    ours = claim(paths.CORPUS, _CLAIM)
    assert ours is not None
    with ours:
        builders = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
            for _ in range(3)
        ]
        for builder in builders:
            assert builder.stderr is not None
            line = builder.stderr.readline()
            assert "Waiting for another process" in line
            assert "taken by process" in line
    for builder in builders:
        _, rest = builder.communicate(timeout=120)
        assert builder.returncode == 0, rest
    assert Path("generated").read_text() == "once\n"
    assert len(Manifest.load(paths.CORPUS).trials) == 3


def test_who_waited_builds_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = CorpusParams(settings=SETTINGS)
    build_corpus.build_corpus(params, paths.CORPUS)
    ours = claim(paths.CORPUS, _CLAIM)
    assert ours is not None
    monkeypatch.setattr(time, "sleep", lambda seconds: ours.release())
    with pytest.warns(UserWarning, match="Waiting for another process"):
        manifest = build_corpus.build_corpus(CorpusParams(settings={**SETTINGS, "num_trials": 4}), paths.CORPUS)
    assert len(manifest.trials) == 4


def test_patience_ends_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths.CORPUS.parent.mkdir()
    monkeypatch.setattr(build_corpus, "_PATIENCE_S", -1.0)
    ours = claim(paths.CORPUS, _CLAIM)
    assert ours is not None
    with (
        ours,
        pytest.warns(UserWarning, match="Waiting"),
        pytest.raises(build_corpus.StoreError, match="Then run again"),
    ):
        build_corpus.build_corpus(CorpusParams(settings=SETTINGS), paths.CORPUS)
