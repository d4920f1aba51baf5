"""A video of the project with a trained system."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.corpus.manifest import Manifest


@pytest.fixture
def video(trained: Path) -> Path:
    """The video of the second trial, which has a label for each picture."""
    manifest = Manifest.load(Path("work/corpus"))
    return manifest.path(manifest.trials[1], "video")
