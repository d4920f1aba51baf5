"""Predict a medium that still grows: a row for each frame as soon as it is known, in a table and for whoever reads along."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import MediaError, MissingFileError, StoreError
from cache.recipe import Recipe
from extract.backbones.contract import Backbone
from extract.engine.devices import choose_device
from extract.engine.live import MOST_FRAMES, AbsentBackbone, LiveBackbone
from extract.engine.one_file import SOUND_RATE
from extract.faces.detection import Detector, make_detector
from extract.faces.following import FaceFollower
from extract.faces.settings import CropConfig
from extract.media.growing import STANDARD_INPUT
from extract.media.live import LiveMedium, open_live
from fusion.training.live import LiveNetwork
from pipelines.console.console import note, warn
from pipelines.ensembles.ensemble import Ensemble
from pipelines.ensembles.finding import find_networks
from pipelines.ensembles.members import load_members
from pipelines.prediction.answers import FORMATS, format_table, make_table
from pipelines.prediction.features import choose_crops, sort_seen, what_is_seen
from pipelines.prediction.prediction import CACHE, Asked
from pipelines.prediction.results import Results
from pipelines.prediction.weights import WeightsFinder
from pipelines.project.loose_media import by_name

Table = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _Reader:
    """A backbone that follows the medium for some networks, with the crops that it reads."""

    backbone: Backbone
    precision: str
    heading: str
    crops: CropConfig | None

    @classmethod
    def of(cls, modality: str, recipe: Recipe, backbone: Backbone) -> _Reader:
        """The reader for the features of a recipe."""
        crops = choose_crops(modality, recipe) if "crops" in backbone.input.media else None
        precision = recipe.settings.get("precision", "fp32")
        return cls(backbone, precision, what_is_seen(modality, backbone), crops)


def predict_live(source: Path, asked: Asked, patience_s: float, show: Callable[[str], None]) -> Path:
    """Write the answer for a medium that still grows, row by row.

    Args:
        source: a file, a pipe, "-" for standard input, or a camera.
        asked: models, folder, weights, rate, face and device.
        patience_s: how long a file may stay as it is before it counts as finished, seconds.
        show: receives the header and the rows of the table as text, as they come.

    Returns:
        The table that was written.

    Raises:
        SettingError: if a network looks ahead, or reads what is only known long after it was said.
        MissingFileError: if there is no such source, or it lacks what the model reads.
        MediaError: if it cannot be read, or ends without a single frame.
        StoreError: if the table is there and was not written by predict-affect, or is not to be replaced.
        WeightsError: if a model's weights are not found.
    """
    folders = find_networks(asked.models)
    ensemble = Ensemble.of(load_members(folders))
    prediction = _Prediction(ensemble)
    finder = WeightsFinder(asked.weights, folders)
    finder.check_names(name for modality, recipe in ensemble.recipes.values() for name in (modality, recipe.name))
    readers = {
        key: _Reader.of(modality, recipe, finder.build(modality, recipe))
        for key, (modality, recipe) in ensemble.recipes.items()
    }
    device = str(choose_device(asked.device))
    crops = {reader.crops for reader in readers.values() if reader.crops is not None}
    detectors = {config: make_detector(config.faces, device) for config in crops}
    (name,) = ("stdin",) if source == STANDARD_INPUT else by_name([source])
    path = asked.out / f"{name}{FORMATS['csv']}"
    results = Results(asked.out / CACHE, name, source.resolve(), "", "live", redo=True)
    results.refuse_foreign([path])
    if path.exists() and not asked.redo:
        raise StoreError(
            f"'{path}' is there already, and what was followed may never come again. Give another --out, or replace it with --redo."
        )
    note(f"Following '{source}' into '{path}'. Ctrl-C ends it.")
    count = 0
    with open_live(source, asked.rate or SOUND_RATE, patience_s) as medium:
        tables = _follow(medium, readers, detectors, prediction, asked)
        first = next(tables, None)
        if first is None:
            raise MediaError(f"'{source}' ended without a single frame; expected pictures or sound. Check the source.")
        results.claim([path])
        try:
            with path.open("w", encoding="utf-8", newline="") as file:
                for table in chain([first], tables):
                    text = format_table(table, header=not count)
                    file.write(text)
                    file.flush()
                    count += len(table["frame"])
                    show(text)
        finally:
            note(f"{count} frames are in '{path}'.")
            results.finish(path)
            if medium.damaged:
                warn(f"Damaged or incomplete parts of '{source}': {medium.damaged}.")
            if not medium.clock.is_regular:
                warn(
                    f"Pictures of '{source}' did not come at one rate, or some were lost; time_s says when each was shown."
                )
    for what, frames in prediction.seen_in.items():
        if not frames:
            warn(f"No {what} was seen in '{source}'; the prediction rests on the rest.")
    return path


def _follow(
    medium: LiveMedium,
    readers: Mapping[str, _Reader],
    detectors: Mapping[CropConfig, Detector],
    prediction: _Prediction,
    asked: Asked,
) -> Iterator[Table]:
    """Rows of the answer, as they come."""
    faces = {
        config: FaceFollower(config, asked.face, detector, medium.pixel_aspect)
        for config, detector in detectors.items()
        if medium.has_pictures
    }
    medium.watchers += [face.see for face in faces.values()]
    backbones = _open_backbones(medium, readers, faces, asked.device)
    headings = {key: reader.heading for key, reader in readers.items()}
    done = 0
    for _ in medium.read():
        if medium.finished:
            for face in faces.values():
                face.finish()
        while (ready := min(medium.clock.known, *(one.ready() for one in backbones.values()))) > done:
            if ready - done < MOST_FRAMES and medium.is_behind:
                break  # several together take less time
            stop = min(ready, done + MOST_FRAMES)
            rows = {key: one.take(done, stop) for key, one in backbones.items()}
            times_s = np.array([float(medium.clock.edge_s(frame)) for frame in range(done, stop)])
            yield from prediction.push(times_s, rows, headings)
            done = stop
            medium.forget(stop)
            for face in faces.values():
                face.forget(stop)
    yield from prediction.finish()


def _open_backbones(
    medium: LiveMedium, readers: Mapping[str, _Reader], faces: Mapping[CropConfig, FaceFollower], device: str
) -> dict[str, LiveBackbone | AbsentBackbone]:
    """The backbones that follow a medium; what it lacks is left out as for a finished file, unless it lacks all.

    Raises:
        MissingFileError: if it has nothing that the networks read.
    """
    backbones: dict[str, LiveBackbone | AbsentBackbone] = {}
    lacking: list[MissingFileError] = []
    for key, reader in readers.items():
        face = faces.get(reader.crops) if reader.crops else None
        try:
            backbones[key] = LiveBackbone(reader.backbone, medium, face, device, reader.precision)
        except MissingFileError as error:
            lacking.append(error)
            backbones[key] = AbsentBackbone(reader.backbone.dim, medium)
    if len(lacking) == len(readers):
        raise lacking[0]
    for lack in lacking:
        warn(str(lack))
    return backbones


@dataclass
class _Prediction:
    """Networks that follow one medium together; rows wait for the slowest of them.

    Attributes:
        seen_in: heading → frames in which the model saw it.
    """

    ensemble: Ensemble
    seen_in: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._networks = [member.network for member in self.ensemble.members]
        self._live = [LiveNetwork(network) for network in self._networks]
        self._values = [np.empty((0, len(network.targets)), np.float32) for network in self._networks]
        self._frames: Table = {}
        self._written = 0

    def push(
        self,
        times_s: NDArray[np.float64],
        rows: Mapping[str, tuple[NDArray[np.float32], NDArray[np.bool_]]],
        headings: Mapping[str, str],
    ) -> Iterator[Table]:
        """Rows that are known with the next frames."""
        seen: dict[str, NDArray[np.bool_]] = {}
        for key, (_, valid) in rows.items():
            seen[headings[key]] = seen.get(headings[key], np.zeros(len(valid), bool)) | valid
        for name, column in {"time_s": times_s, **sort_seen(seen)}.items():
            self._frames[name] = np.concatenate((self._frames[name], column)) if name in self._frames else column
        for name, valid in seen.items():
            self.seen_in[name] = self.seen_in.get(name, 0) + int(valid.sum())
        for index, (network, live) in enumerate(zip(self._networks, self._live, strict=True)):
            own = {modality: rows[recipe.fingerprint] for modality, recipe in network.recipes.items()}
            self._values[index] = np.concatenate((self._values[index], live.push(own)))
        return self._take()

    def finish(self) -> Iterator[Table]:
        """The rest."""
        for index, live in enumerate(self._live):
            self._values[index] = np.concatenate((self._values[index], live.finish()))
        return self._take()

    def _take(self) -> Iterator[Table]:
        """The rows that all networks know."""
        count = min(map(len, self._values))
        if not count:
            return
        joint = self.ensemble.join([values[:count] for values in self._values])
        known = {name: column[:count] for name, column in self._frames.items()}
        times_s = known.pop("time_s")
        frames = np.arange(self._written, self._written + count)
        yield make_table(frames, times_s, self.ensemble.targets, joint.values, joint.spread, known)
        self._written += count
        self._frames = {name: column[count:] for name, column in self._frames.items()}
        self._values = [values[count:] for values in self._values]
