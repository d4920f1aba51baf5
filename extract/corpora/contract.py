"""The contract of a corpus: it turns a folder of recordings into one manifest.

A corpus is one file in `extract/corpora/` with a frozen `Config` and a `Corpus`, and one line in the table
`extract.corpora.CORPORA`. Every reader guarantees the following, which the contract tests check over the table:

* every trial has a clock, media that exist below the root, a subject, and optionally a partition;
* labels are in the ranges of the declared targets, nan where a target is not annotated;
* the same folder gives the same manifest, and a folder of another kind raises an `AvFusionError` that says so;
* all faults of a folder are reported together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from cache.corpus.manifest import Manifest
from cache.errors import SettingError

FindPeople = Callable[[str, Path], tuple[int, Path] | None]
"""Finds the people of a video, given by its trial and its path: how many there are, and the file that holds them all; None if nobody has
looked yet."""


class Corpus(ABC):
    """Base of all corpora, built from the `Config` of its file.

    Attributes:
        generated: whether `generate` makes the folder, so that none is needed.
        config: the settings; a subclass sets the defaults.
        find_people: for readers that make a trial for each person of a video; set before `read`.
    """

    generated: ClassVar[bool] = False
    config: Any
    find_people: FindPeople | None = None

    def __init__(self, config: Any = None) -> None:
        if config is not None:
            self.config = config

    @staticmethod
    @abstractmethod
    def recognises(root: Path) -> bool:
        """Whether a folder looks like this corpus; false if it does not exist."""

    @abstractmethod
    def read(self, root: Path) -> Manifest:
        """Read a corpus folder.

        Raises:
            MissingFileError: if the folder lacks what makes it this corpus.
            CorpusError: if names, labels or media are missing or wrong; lists every fault.
        """

    def generate(self, root: Path) -> None:
        """Write the whole corpus under a folder, if it can be generated.

        Raises:
            SettingError: if it cannot.
        """
        raise SettingError("This corpus needs a folder. Set corpus.root in params.yaml.")
