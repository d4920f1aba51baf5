"""Predict new videos: features by the recipes of the models, then one answer per video, in files or as a table."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.corpus.manifest import Manifest, Trial
from cache.documents.documents import write_file
from cache.errors import AvFusionError, MediaError, SettingError, StoreError, TrialsFailedError, plain_error
from cache.foreign import sha256_file
from cache.recipe import fingerprint
from extract.engine.cropping import track_face
from extract.engine.everybody import PeopleFinder
from extract.engine.outcome import Outcome
from extract.faces.settings import CropConfig
from extract.faces.tracking import ALL
from fusion.training.reading import AUTO
from pipelines.console.console import note, warn
from pipelines.console.failures import raise_failures
from pipelines.ensembles.ensemble import Ensemble
from pipelines.ensembles.finding import Run, digest_networks, find_networks
from pipelines.ensembles.members import load_members
from pipelines.prediction.answers import FORMATS, Answer
from pipelines.prediction.features import FeatureMaker, choose_crops, sort_seen
from pipelines.prediction.results import Results, choose_file, make_folders
from pipelines.prediction.weights import WeightsFinder
from pipelines.project.loose_media import each_person, loose_manifest

VERSION = 1  # raise it when the same models give other files
_MEMORY_GB = (
    0.05  # of embeddings: ten minutes or so; those of longer videos are read from their stores, with the same result
)
CACHE = "cache"
"""Folder below that of the answers, for crops, words, features and what is known about written files."""


Write = Callable[[Answer, Path], None]
"""Writes a file of an answer."""


@dataclass(frozen=True)
class Asked:
    """What to predict with what.

    Attributes:
        models: see `find_networks`; all of them are one ensemble.
        out: folder of the answers and the cache.
        formats: some of FORMATS.
        overlay: an MP4, or a folder for those of several videos, with the prediction drawn on the video.
        plot: a PNG, or a folder, with the prediction over time.
        weights: feature set → where its weights lie.
        recogniser: see `FeatureMaker`.
        rate: frames per second of files without pictures; None for 25.
        face: which face to follow; see `loose_manifest`; all gives an answer for each person, named `VIDEO#1`, `VIDEO#2`, …
        identity: what knows a person again after a gap or a cut, see `CropConfig`.
        device: auto, cpu, cuda or cuda:N.
        window, hop: of predictions, as section `evaluate` of params.yaml has them; by default as chosen on the validation trials.
        postprocess: what predictions pass, a chain of `fusion.training.postprocessing`.
        redo: whether to make finished answers again.
    """

    models: tuple[Run, ...]
    out: Path
    formats: tuple[str, ...] = ("csv",)
    overlay: Path | None = None
    plot: Path | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)
    recogniser: str = ""
    rate: Fraction | None = None
    face: str = "largest"
    identity: str = ""
    device: str = "auto"
    window: int | str = AUTO
    hop: int | str = AUTO
    postprocess: tuple[str, ...] = ()
    redo: bool = False


def predict_files(videos: Sequence[Path], asked: Asked) -> tuple[list[dict[str, Any]], Outcome]:
    """Write the answers for some videos; those that are there already are kept.

    Returns:
        A row per video for people, and what was computed, kept, or failed.

    Raises:
        MissingFileError: if a model does not exist.
        WeightsError: if a model's weights are not found.
        CorpusError: if two videos have one name.
        SettingError: if a setting is wrong.
    """
    folders = find_networks(asked.models)
    networks = digest_networks(folders)
    manifest, failures = loose_manifest(videos, asked.rate, asked.face)
    outcome = Outcome(failures=dict(failures))
    if asked.face == ALL:
        manifest, unseen = each_person(manifest, _people_finder(folders, asked))
        outcome.failures |= unseen
    files: dict[str, dict[Path, Write]] = {}
    results = {}
    for trial in manifest.trials:
        files[trial.id] = _writers(manifest, trial, asked, len(manifest.trials) + len(outcome.failures))
        video = manifest.path(trial, "audio")
        content = sha256_file(video)
        made_of = _made_of(manifest, trial, content, networks, asked)
        own = Results(asked.out / CACHE, trial.id, video, content, made_of, asked.redo)
        if all(map(own.is_finished, files[trial.id])):
            outcome.kept.append(trial.id)
            continue
        try:
            own.refuse_foreign(files[trial.id])
        except AvFusionError as error:
            outcome.failures[trial.id] = str(error)
            continue
        results[trial.id] = own

    def write(trial_id: str, answer: Answer) -> None:
        with _writing(trial_id):
            _write(answer, results[trial_id], files[trial_id])

    if results:
        make_folders([asked.out / CACHE, *(path.parent for name in results for path in files[name])])
        chosen = replace(manifest, trials=tuple(trial for trial in manifest.trials if trial.id in results))
        outcome.add(answer_all(chosen, folders, asked, write))
    rows = [
        {
            "video": trial.id,
            "frames": trial.clock.num_frames,
            "state": "kept" if trial.id in outcome.kept else "computed",
            "file": str(next(iter(files[trial.id]))),
        }
        for trial in manifest.trials
        if trial.id not in outcome.failures
    ]
    return rows, outcome


def _people_finder(folders: Sequence[Path], asked: Asked) -> PeopleFinder:
    """What finds everybody in the videos, as the crops of the models are made.

    Raises:
        SettingError: if no model reads faces, or two of them find these in different ways.
    """
    recipes = Ensemble.of(load_members(folders)).recipes.values()
    configs = [choose_crops(modality, recipe) for modality, recipe in recipes if "crops" in (recipe.upstream or {})]
    if len({config.faces for config in configs}) != 1:
        found = "reads no faces" if not configs else "find faces in different ways"
        raise SettingError(
            f"--face all gives an answer for each face, but the model {found}. Leave it out, or predict with another model."
        )
    config = replace(configs[0], identity=asked.identity)
    return PeopleFinder(config, asked.out / CACHE / "people", asked.out, asked.device)


def _writers(manifest: Manifest, trial: Trial, asked: Asked, count: int) -> dict[Path, Write]:
    """The files to write for one of some videos, each with what writes it; a sound file has no overlay.

    Raises:
        SettingError: if several videos would be drawn into one file, a place for a drawing is no such file and no folder, or it is
            one for the overlay of a sound file.
    """
    found: dict[Path, Write] = {
        asked.out / f"{trial.id}{FORMATS[kind]}": partial(_write_as, kind) for kind in asked.formats
    }
    drawings: tuple[tuple[str, Path | None, str, Write], ...] = (
        ("--overlay", asked.overlay, ".mp4", _overlay),
        ("--plot", asked.plot, ".png", _plot),
    )
    for option, place, suffix, write in drawings:
        if place is None:
            continue
        path = choose_file(option, place, suffix, trial.id, count)
        if write is not _overlay or "video" in trial.media:
            found[path] = write
            continue
        sound = manifest.path(trial, "audio")
        if path == place:
            raise SettingError(
                f"--overlay '{place}' draws on pictures, but '{sound}' has only sound. Use --plot instead."
            )
        note(f"'{sound}' has no pictures to draw on, so that it has no overlay.")
    return found


def _write(answer: Answer, own: Results, files: Mapping[Path, Write]) -> None:
    own.claim(files)
    for path, write_one in files.items():
        if not own.is_finished(path):
            write_one(answer, path)
            own.finish(path)


@contextmanager
def _writing(name: str) -> Iterator[None]:
    """Convert an error of writing the answer for a video, which is no fault of the video."""
    try:
        yield
    except OSError as error:
        if isinstance(error, AvFusionError):
            raise
        raise StoreError(
            f"The answer for '{name}' cannot be written ({error}). Free space, fix the permissions or name another place, and run "
            "again; what was computed is kept."
        ) from error


def _write_as(kind: str, answer: Answer, path: Path) -> None:
    write_file(path, answer.format(kind))


def _overlay(answer: Answer, path: Path) -> None:
    from pipelines.prediction.overlay import draw_overlay

    draw_overlay(answer, path)


def _plot(answer: Answer, path: Path) -> None:
    from pipelines.report.figures import draw_prediction

    parts = answer.clock, answer.values, answer.spread, answer.targets, answer.seen
    draw_prediction(f"{answer.video.name}, {answer.clock.rate_hz:.5g} frames/s", *parts, path)


def answer_all(
    manifest: Manifest, folders: Sequence[Path], asked: Asked, take: Callable[[str, Answer], None]
) -> Outcome:
    """Make the features of some videos, and hand out the answer for each, one after another.

    Args:
        manifest: the videos.
        folders: of the ensemble's networks.
        asked: how.
        take: receives the id and the answer of a video; its errors are failures of the video.
    """
    ensemble = Ensemble.of(each.answering(asked.window, asked.hop, asked.postprocess) for each in load_members(folders))
    finder = WeightsFinder(asked.weights, folders)
    finder.check_names(name for modality, recipe in ensemble.recipes.values() for name in (modality, recipe.name))
    maker = FeatureMaker(asked.out / CACHE, asked.device, asked.recogniser, identity=asked.identity)
    outcome = Outcome(failures=maker.failures)
    manifest = maker.make(manifest, ensemble.recipes, finder.build)
    for trial in manifest.trials:
        if trial.id in outcome.failures:
            continue
        try:
            take(trial.id, _answer(trial, manifest, ensemble, maker))
        except Exception as error:  # of any library: the other videos go on
            outcome.failures[trial.id] = plain_error(error)
            continue
        outcome.computed.append(trial.id)
    return outcome


def _answer(trial: Trial, manifest: Manifest, ensemble: Ensemble, maker: FeatureMaker) -> Answer:
    """The answer for one video, whose features are there."""
    seen: dict[str, NDArray[np.bool_]] = {}
    for key, (_, recipe) in ensemble.recipes.items():
        valid = maker.open_store(recipe).read(trial.id).valid
        name = maker.seen[key]
        seen[name] = seen[name] | valid if name in seen else valid
    video = manifest.path(trial, "video" if "video" in trial.media else "audio")
    unseen = [name for name, frames in seen.items() if not frames.any()]
    if len(unseen) == len(seen):
        raise MediaError(
            f"Nothing that the model reads ({', '.join(seen)}) was seen in '{video}', so there is nothing to predict from. Check "
            "the file, or choose another face with --face."
        )
    for name in unseen:
        warn(f"No {name} was seen in '{video}'; the prediction rests on the rest.")
    joint = ensemble.predict([trial.id], manifest, maker.find_stores, memory_gb=_MEMORY_GB)[trial.id]
    follow = None
    if maker.crops is not None and "video" in trial.media:
        follow = partial(track_face, manifest, trial, maker.crops, maker.device)
    return Answer(video, trial.clock, ensemble.targets, joint.values, joint.spread, sort_seen(seen), follow)


def _made_of(manifest: Manifest, trial: Trial, content: str, networks: Sequence[str], asked: Asked) -> str:
    """Digest of everything that decides the answer for a video of this content."""
    others = [kind for kind in trial.media if kind not in ("video", "audio")]
    media = {"audio": content} | {kind: sha256_file(manifest.path(trial, kind)) for kind in others}
    how = {"face": trial.face, "clock": trial.clock.to_document(), "recogniser": asked.recogniser}
    if asked.identity:
        how |= CropConfig(identity=asked.identity).identity_document()
    how["answers"] = [str(asked.window), str(asked.hop), *asked.postprocess]
    return fingerprint({"version": VERSION, "networks": list(networks), "media": media, **how})


def raise_unanswered(outcome: Outcome, out: Path) -> None:
    """List failed videos in a file and raise, if there are any.

    Raises:
        TrialsFailedError: naming every failed video.
    """
    raise_failures(("predictions", outcome, out / CACHE / "failures.json"), kind="video")


def predict(
    video: str | Path,
    run: Run | Sequence[Run],
    *,
    cache: str | Path | None = None,
    **how: Any,
) -> dict[str, NDArray[Any]]:
    """Predict a video.

    Args:
        video: a video, or a sound file for models that read only sound.
        run: the folder of a trained run, or the name of a system of the project; several are one ensemble.
        cache: folder to keep crops, words and features in; by default they are made again each time.
        how: weights, recogniser, rate, face, identity, device, window, hop or postprocess, as of `Asked`.

    Returns:
        Column → (T,), a row per frame: frame, time_s, each target, its spread over the ensemble, and what was seen. A
        `pandas.DataFrame` takes it as it is.

    Raises:
        TrialsFailedError: if the video cannot be predicted; says why.
        SettingError: if several videos are given.
        AvFusionError: as `predict_files`.
    """
    if not isinstance(video, str | os.PathLike):
        raise SettingError(
            f"predict takes one video, not a {type(video).__name__}. Call it for each: [predict(video, run) for video in videos]."
        )
    models = (run,) if isinstance(run, str | Path) else tuple(run)
    if not models:
        raise SettingError("The ensemble has 0 models; expected at least one. Name the checkpoints.")
    with tempfile.TemporaryDirectory() as place:
        asked = Asked(models, Path(cache or place), **how)
        folders = find_networks(models)
        if asked.face == ALL:
            raise SettingError("One table is of one face, not of all. Name another face, or use `predict_files`.")
        manifest, failures = loose_manifest([Path(video)], asked.rate, asked.face)
        found: dict[str, Answer] = {}
        if not failures:
            failures = answer_all(manifest, folders, asked, found.__setitem__).failures
        if failures:
            raise TrialsFailedError(" ".join(failures.values()))
        (answer,) = found.values()
        return answer.table()
