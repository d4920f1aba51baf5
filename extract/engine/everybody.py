"""Everybody in a video: each person who is seen for long enough gets a number, a row of a contact sheet, and can be a trial."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cache.corpus.manifest import Trial
from cache.documents.documents import write_file
from cache.foreign import sha256_file
from cache.names import encode_trial_id
from cache.recipe import fingerprint
from extract.engine.contact_sheet import draw_sheet, read_key, rows_of
from extract.engine.cropping import FaceNetworks
from extract.faces.finding import VideoFaces
from extract.faces.people import Person, count_people, everybody, read_people, save_people
from extract.faces.settings import PERSON, CropConfig
from extract.media.timeline import scan
from extract.media.video import read_frames


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

    def load_identity(self) -> None:
        """Load what tells people apart, if it is asked for: its faults are known before any search.

        Raises:
            SettingError: if `crops.identity` is no known name, and no file.
            WeightsError: as `find`.
        """
        _ = self._networks.identity

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
        made_of = self._made_of(video)
        file, sheet, key = self._places(name, made_of)
        clock = scan(video).clock
        number = count_people(file, made_of)
        if number is None:
            least = round(self.config.min_seen_s * clock.rate_hz)
            people = everybody(self._search(name, video, made_of), least)
            save_people(people, made_of, file)
            number = len(people)
        if read_key(sheet) != key:
            read = partial(read_frames, video, clock, name)
            self.sheets.mkdir(parents=True, exist_ok=True)
            write_file(sheet, draw_sheet(rows_of(read, clock, read_people(file), name), key))
        return Found(number, file, sheet)

    def _search(self, name: str, video: Path, made_of: dict[str, Any]) -> list[Person]:
        """Everybody in a video, however shortly; kept by what that depends on, so that another `crops.min_seen_s` takes no search."""
        made_of = {key: value for key, value in made_of.items() if key != "min_seen_s"}
        file, _, _ = self._places(name, made_of)
        if count_people(file, made_of) is None:
            networks = self._networks
            faces = VideoFaces(video, scan(video).clock, self.config.faces, networks.detector, name, networks.identity)
            people = everybody(faces.crowd.people, 0)
            self.folder.mkdir(parents=True, exist_ok=True)
            save_people(people, made_of, file)
        return read_people(file)

    def find_known(self, name: str, video: Path) -> Found | None:
        """The people of a video that was searched before with the same settings; None if it was not.

        Raises:
            MissingFileError: if there is no such file.
        """
        made_of = self._made_of(video)
        file, sheet, key = self._places(name, made_of)
        people = count_people(file, made_of) if read_key(sheet) == key else None
        return None if people is None else Found(people, file, sheet)

    def _places(self, name: str, made_of: dict[str, Any]) -> tuple[Path, Path, str]:
        """The file and the sheet of a video's people, and what tells them from those of other settings.

        Each has a file of its own, so that a corpus, which names it, never means other people than those it was built with.
        """
        stem, key = encode_trial_id(name), fingerprint(made_of)[:8]
        return self.folder / f"{stem}.{key}.json", self.sheets / f"{stem}.people.png", key

    def _made_of(self, video: Path) -> dict[str, Any]:
        """Everything that the people of a video depend on."""
        crops = self.config.to_document()
        how = {"algorithm": crops["algorithm"], "faces": crops["faces"], "min_seen_s": self.config.min_seen_s}
        return {"video": sha256_file(video), **how, **self.config.identity_document()}

    @cached_property
    def _networks(self) -> FaceNetworks:
        return FaceNetworks(self.config, self.device)
