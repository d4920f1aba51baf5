"""Everybody in a video: each person who is seen for long enough gets a number, a row of a contact sheet, and can be a trial."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cache.corpus.manifest import Trial
from cache.documents.documents import write_file
from cache.foreign import sha256_file
from cache.names import encode_trial_id
from extract.engine.contact_sheet import draw_sheet, rows_of
from extract.engine.cropping import FaceNetworks
from extract.faces.finding import VideoFaces
from extract.faces.people import count_people, everybody, save_people
from extract.faces.settings import PERSON, CropConfig
from extract.media.timeline import scan


class Found(NamedTuple):
    """The people of a video.

    Attributes:
        people: how many there are.
        file: with all of them, see `extract.faces.people`.
        sheet: PNG that shows who is who.
    """

    people: int
    file: Path
    sheet: Path

    def trials(self, video: Trial) -> list[Trial]:
        """A trial for each person, `VIDEO#1` being the first one who is seen; all of them are one subject."""
        media = {**video.media, "people": self.file.absolute().as_posix()}
        numbers = [f"{PERSON}{number + 1}" for number in range(self.people)]
        return [replace(video, id=f"{video.id}{number}", media=media, face=number) for number in numbers]


@dataclass(frozen=True)
class PeopleFinder:
    """Finds the people of videos, each video once; loads its networks when it first needs them.

    Attributes:
        config: settings of the crops.
        folder: where the people are kept.
        sheets: where the contact sheets are written, `NAME.people.png`.
        device: of the networks.
    """

    config: CropConfig
    folder: Path
    sheets: Path
    device: str | torch.device = "auto"

    def find(self, name: str, video: Path) -> Found:
        """The people of a video, on the clock of its own pictures.

        Raises:
            MissingFileError: if there is no such file.
            MediaError: if it is empty, truncated, of an unknown format, or has no pictures.
            WeightsError: if those of `crops.identity` do not fit or cannot be fetched.
        """
        known = self.find_known(name, video)
        if known is not None:
            return known
        file, sheet = self._places(name)
        clock = scan(video).clock
        networks = self._networks
        faces = VideoFaces(video, clock, self.config.faces, networks.detector, name, networks.identity)
        people = everybody(faces.crowd, round(self.config.min_seen_s * clock.rate_hz))
        for folder in (self.folder, self.sheets):
            folder.mkdir(parents=True, exist_ok=True)
        write_file(sheet, draw_sheet(rows_of(faces, people, name)))
        save_people(people, self._made_of(video), file)
        return Found(len(people), file, sheet)

    def find_known(self, name: str, video: Path) -> Found | None:
        """The people of a video that was searched before with the same settings; None if it was not.

        Raises:
            MissingFileError: if there is no such file.
        """
        file, sheet = self._places(name)
        people = count_people(file, self._made_of(video)) if file.is_file() and sheet.is_file() else None
        return None if people is None else Found(people, file, sheet)

    def _places(self, name: str) -> tuple[Path, Path]:
        """The file and the sheet of a video's people."""
        stem = encode_trial_id(name)
        return self.folder / f"{stem}.json", self.sheets / f"{stem}.people.png"

    def _made_of(self, video: Path) -> dict[str, Any]:
        """Everything that the people of a video depend on."""
        crops = self.config.to_document()
        how = {"algorithm": crops["algorithm"], "faces": crops["faces"], "min_seen_s": self.config.min_seen_s}
        return {"video": sha256_file(video), **how, **self.config.identity_document()}

    @cached_property
    def _networks(self) -> FaceNetworks:
        return FaceNetworks(self.config, self.device)
