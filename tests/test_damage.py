"""Whatever bit of the pipeline's own files flips, and wherever one is cut off, somebody notices: `benchmarks.damage` in small."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.damage import EVALUATE, KINDS, Damage, Project, build_project


@pytest.fixture(scope="module")
def project(
    made_once: Callable[[str, Callable[[Path], None]], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("damage") / "project"
    copy_linked(made_once("damage", build_project), folder)
    with chdir(folder):
        yield Project()


def copy_linked(source: Path, folder: Path) -> None:
    """Copy a project in which names of one file stay names of one file, as runs and networks are: one damage, one file."""
    copies: dict[int, str] = {}

    def copy(old: str, new: str) -> None:
        inode = os.stat(old).st_ino
        if inode in copies:
            os.link(copies[inode], new)
        else:
            copies[inode] = shutil.copy2(old, new)

    shutil.copytree(source, folder, copy_function=copy)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_noticed(project: Project, kind: str) -> None:
    generator = random.Random(f"damage of {kind}")
    allowed = {"refused", "repaired", "same"} if KINDS[kind].readers else {"not read"}
    for _ in range(2 if KINDS[kind].readers else 1):
        damage = project.draw(kind, generator)
        assert project.judge(damage) in allowed, str(damage)


def test_the_measure_sees_what_nobody_notices(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its digest, a flipped bit of a label is another figure."""
    monkeypatch.setitem(KINDS, "labels", replace(KINDS["labels"], readers=(EVALUATE,)))
    path = Path("work/corpus/labels.npy")
    damage = Damage("labels", path, len(project.files[path]) - 2, 6)  # of the mantissa: within the range of labels
    assert project.judge(damage) == "refused"

    def read_unchecked(where: Path, *_: object) -> np.ndarray:
        return np.load(where)

    monkeypatch.setattr("cache.corpus.manifest.read_array", read_unchecked)
    assert project.judge(damage) == "silent"
