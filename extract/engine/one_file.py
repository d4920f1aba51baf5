"""Embeddings of one file as arrays: what a notebook needs, without a project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest, Trial
from cache.errors import MissingFileError, TrialsFailedError
from cache.recipe import Recipe
from cache.store.store import FeatureStore
from extract.backbones.contract import load_backbone
from extract.engine.cropping import crop_trials, crops_folder
from extract.engine.embedding import EngineOptions, extract_features
from extract.engine.outcome import Outcome
from extract.faces.settings import CropConfig
from extract.media.audio import media_clock
from extract.media.timeline import first_picture_s

SOUND_RATE = Fraction(25)  # frames per second of files without pictures


@dataclass(frozen=True, eq=False)
class Embedded:
    """What a backbone sees in a file.

    Attributes:
        embeddings: (T, D) float32, zero where it sees nothing.
        valid: (T,) where it sees a face, sound or a word.
        times_s: (T,) start of each frame, seconds.
        recipe: how they were made.
    """

    embeddings: NDArray[np.float32]
    valid: NDArray[np.bool_]
    times_s: NDArray[np.float64]
    recipe: Recipe


def trial_of_file(name: str, path: Path, rate: Fraction = SOUND_RATE) -> Trial:
    """A file as a trial with a frame per picture, or per tick of `rate` if it only has sound.

    Raises:
        MissingFileError: if there is no such file.
        MediaError: if it holds neither pictures nor sound.
    """
    clock = media_clock(path, rate)
    place = path.resolve().as_posix()
    kinds = {"audio": place} | ({"video": place} if first_picture_s(path) is not None else {})
    return Trial(name, name, "", clock, kinds)


def embed(
    path: Path | str,
    backbone: str,
    weights: str = "random",
    settings: Mapping[str, Any] | None = None,
    words: Path | str | None = None,
    crops: CropConfig | None = None,
    device: str = "auto",
) -> Embedded:
    """Embed every frame of a video or sound file, by the same steps as `extract-features`; nothing is left on disk.

    Args:
        path: the file.
        backbone: name of the backbone.
        weights: a registered name, the path of a file, or "random".
        settings: settings of the backbone.
        words: transcript, for backbones of text.
        crops: settings of face crops.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        UnknownNameError: if there is no such backbone.
        MissingFileError: if the file or its medium is missing.
        TrialsFailedError: if the file cannot be read.
    """
    network = load_backbone(backbone, weights, dict(settings or {}))
    trial = trial_of_file("file", Path(path))
    if words is not None:
        trial.media["words"] = Path(words).resolve().as_posix()
    manifest, config = Manifest(Path("/"), (trial,)), crops or CropConfig()
    if network.input.is_absent(trial):
        raise MissingFileError(
            f"'{path}' has no {network.input.media[-1]}, which '{backbone}' reads. "
            + (
                "Give a transcript, words=PATH."
                if "words" in network.input.media
                else "Give another file, or take another backbone."
            )
        )
    with TemporaryDirectory(prefix="avfusion-") as folder:
        faces, features = Path(folder) / "crops", Path(folder) / "features.zarr"
        if "crops" in network.input.media:
            _require(crop_trials(manifest, manifest.trials, config, faces, device), path)
        recipe = network.recipe("float32", upstream=network.input.upstream(manifest, config))
        store = FeatureStore.create(features, recipe)
        options = EngineOptions(device=device)
        _require(
            extract_features(network, store, manifest, manifest.trials, crops_folder(faces, config), options), path
        )
        embeddings, valid = store.read(trial.id)
        return Embedded(np.array(embeddings, np.float32), np.array(valid), trial.clock.times_s(), recipe)


def _require(outcome: Outcome, path: Path | str) -> None:
    if outcome.failures:
        raise TrialsFailedError(f"'{path}': {next(iter(outcome.failures.values()))}")
