"""What to extract: backbones, trials and where features go; the project's corpus and loose files are one kind of request.

A `Job` is what a command line says: names, settings and paths, so that any process can be handed one. `open_job` looks at
the corpus, or the files, and at the devices of this machine, and gives the `Request` that extraction and its plan work on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from cache.corpus.manifest import Manifest
from cache.errors import AvFusionError, SettingError
from cache.places.folders import Where
from cache.recipe import Recipe
from extract.backbones.contract import Backbone, load_backbone
from extract.corpora.file_names import normal
from extract.engine.cropping import crops_folder
from extract.engine.embedding import EngineOptions
from extract.engine.runtimes import DEFAULT_RUNTIME, check_running, choose_for
from extract.faces.crops import CropConfig
from extract.inputs.contract import GIVEN, require_medium
from pipelines.console.console import note, warn
from pipelines.project import paths
from pipelines.project.loose_media import by_name, loose_manifest, name_clashes
from pipelines.project.params import CorpusParams, FeatureSetParams, Params
from pipelines.stages.corpus import build_corpus

T = TypeVar("T")


@dataclass(frozen=True)
class Selection:
    """Some trials of a corpus.

    Attributes:
        patterns: shell patterns, of which a trial's id fits one; none for every trial.
        limit: at most so many of these, the first ones; None for all.
        part: number and count of equal parts, of which only this one is taken.
    """

    patterns: tuple[str, ...] = ()
    limit: int | None = None
    part: tuple[int, int] = (0, 1)

    def pick(self, trials: Mapping[str, T]) -> list[T]:
        """What belongs to the chosen ids.

        Raises:
            SettingError: if none fits.
        """
        patterns = self.patterns or ("*",)
        chosen = [
            value for name, value in trials.items() if any(fnmatchcase(name, normal(pattern)) for pattern in patterns)
        ]
        if self.patterns and not chosen:
            known = ", ".join(list(trials)[:3])
            asked = "' or '".join(self.patterns)
            raise SettingError(
                f"No trial is named '{asked}'; there are {len(trials)}, such as {known}. Change "
                "--trials; '*' stands for any characters."
            )
        number, count = self.part
        return chosen[: self.limit][number::count]


@dataclass(frozen=True)
class LooseMedia:
    """Files beside any project.

    Attributes:
        files: the files.
        rate: frames per second of those without pictures; None for 25.
        face: see `loose_manifest`.
    """

    files: tuple[Path, ...]
    rate: Fraction | None = None
    face: str = "largest"


@dataclass(frozen=True)
class Job:
    """What a command line asks for; names, settings and paths only, so that it can be sent to another process.

    Attributes:
        sets: name → feature set.
        media: the project's corpus, or loose files.
        config: settings of crops.
        features: folder or URL of features.
        options: how to run.
        selection: of trials.
    """

    sets: dict[str, FeatureSetParams]
    media: CorpusParams | LooseMedia
    config: CropConfig
    features: Where
    options: EngineOptions
    selection: Selection = Selection()


@dataclass(frozen=True)
class Request:
    """A job on this machine, ready to be worked on.

    Attributes:
        job: as it was asked for.
        corpus: all trials, of which the recipe speaks.
        chosen: those to have finished.
        faults: trial id → why it cannot be read.
        crops_root: folder of crops, of these and other settings.
        options: with the device that was chosen.
    """

    job: Job
    corpus: Manifest
    chosen: Manifest
    crops_root: Path
    options: EngineOptions
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def crops(self) -> Path:
        """Folder of crops of these settings."""
        return crops_folder(self.crops_root, self.job.config)

    @property
    def is_loose(self) -> bool:
        """Whether it is about loose files."""
        return isinstance(self.job.media, LooseMedia)

    def load(self, name: str) -> Load:
        """The backbone of a feature set, how it runs, and what it makes of the request.

        Raises:
            SettingError: if it cannot run as asked.
            MissingFileError: if no trial has what it reads.
        """
        section, options = self.job.sets[name], self.options
        backbone = load_backbone(section.backbone, section.weights, section.settings)
        plain = replace(options, runtime=DEFAULT_RUNTIME, compiled=False)
        if len(self.job.sets) > 1 and not backbone.input.mixes and options != plain:
            note(
                f"Backbone '{section.backbone}' reads sentences of any length: it runs with {DEFAULT_RUNTIME}, and is not compiled."
            )
            options = plain
        check_running(backbone, options.device, options.runtime, options.precision, options.compiled)
        if backbone.weights.seed is not None:
            warn(
                f"Backbone '{section.backbone}' has random weights (seed {backbone.weights.seed}): its features are untrained, good for trying "
                "the pipeline only. Set trained weights in params.yaml or with --weights."
            )
        upstream = backbone.input.upstream(self.corpus, self.job.config)
        faults = dict(self.faults)
        if (
            self.is_loose
        ):  # transcripts beside loose files are given, whoever wrote them, so that runs share their recipe
            upstream = {key: GIVEN if key == "words" else value for key, value in upstream.items()}
            faults |= self._lacking(backbone)
        else:
            require_medium(self.corpus, self.chosen.trials, backbone.input)
        return Load(name, backbone, options, backbone.recipe(section.dtype, options.precision, upstream), faults)

    def _lacking(self, backbone: Backbone) -> dict[str, str]:
        """Loose files without what a backbone reads, and what to do about it: who names a file wants its features."""
        faults = {}
        for trial in self.chosen.trials:
            try:
                require_medium(self.chosen, [trial], backbone.input)
            except AvFusionError as error:
                faults[trial.id] = str(error)
        return faults


@dataclass(frozen=True)
class Load:
    """A feature set whose backbone was loaded for a request.

    Attributes:
        name: of the set.
        backbone: the network.
        options: how it runs.
        recipe: of its features.
        faults: trial id → why it cannot be read.
    """

    name: str
    backbone: Backbone
    options: EngineOptions
    recipe: Recipe
    faults: dict[str, str]


def project_job(
    names: tuple[str, ...], params: Params, options: EngineOptions, selection: Selection, features: Where
) -> Job:
    """The project's feature sets of these names; "all" stands for all of `params.yaml`.

    Raises:
        UnknownNameError: if `params.yaml` has no section for a name.
    """
    return Job(params.feature_sets(names), params.corpus, params.crops, features, options, selection)


def loose_job(
    weights: Mapping[str, str], media: LooseMedia, options: EngineOptions, selection: Selection, out: Path
) -> Job:
    """Loose files into `out`, by backbones with these weights; each makes a feature set of its name."""
    sets = {name: FeatureSetParams(chosen, name) for name, chosen in weights.items()}
    return Job(sets, media, CropConfig(), out, options, selection)


def open_job(job: Job, build: bool = True) -> Request:
    """Look at what a job is about.

    Args:
        job: the job.
        build: whether the project's corpus is built where it is missing.

    Raises:
        MissingFileError: if the corpus is missing and is not to be built.
        CorpusError: if two loose files have the same name.
        SettingError: if there is no such device, face or trial.
    """
    options = replace(job.options, device=choose_for(job.options.runtime, job.options.device))
    if isinstance(job.media, LooseMedia):
        out = Path(str(job.features))
        files = job.selection.pick(by_name(job.media.files))
        corpus, faults = loose_manifest(files, job.media.rate, job.media.face)
        faults |= {} if options.redo else name_clashes(corpus, out)
        corpus = replace(corpus, trials=tuple(trial for trial in corpus.trials if trial.id not in faults))
        return Request(job, corpus, corpus, out / "crops", options, faults)
    corpus = (
        build_corpus(job.media, paths.CORPUS) if build and not paths.CORPUS.exists() else Manifest.load(paths.CORPUS)
    )
    trials: dict[str, Any] = {trial.id: trial for trial in corpus.trials}
    chosen = replace(corpus, trials=tuple(job.selection.pick(trials)))
    return Request(job, corpus, chosen, paths.CROPS, options)
