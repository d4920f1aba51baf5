"""What to extract: backbones, trials and the folder of features, for the project's corpus and for loose files alike.

A `Job` is a command line as data: names, settings and paths, so that it can be sent to any process. `open_job` reads the corpus or
the files, chooses a device of this machine, and returns the `Request` that extraction and its dry run work on.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from cache.corpus.manifest import Manifest
from cache.errors import AvFusionError, SettingError, WeightsError
from cache.places.folders import Where
from cache.recipe import Recipe, differences
from extract.backbones.contract import Backbone, load_backbone
from extract.corpora.file_names import normal
from extract.engine.cropping import crops_folder
from extract.engine.embedding import EngineOptions
from extract.engine.everybody import PeopleFinder
from extract.engine.runtimes import DEFAULT_RUNTIME, Executor, check_running, choose_for, make_executor
from extract.faces.settings import CropConfig
from extract.faces.tracking import ALL
from extract.inputs.contract import GIVEN, require_medium
from pipelines.console.console import note
from pipelines.finished.extraction import warn_of_random
from pipelines.project import paths
from pipelines.project.finetuned import find_folds, resolve_weights
from pipelines.project.loose_media import by_name, each_person, loose_manifest, name_clashes
from pipelines.project.params import CorpusParams, FeatureSetParams, Params
from pipelines.stages.corpus import build_corpus

T = TypeVar("T")


@dataclass(frozen=True)
class Selection:
    """Some trials of a corpus.

    Attributes:
        patterns: shell patterns; a trial's id must match one of them. Empty for every trial.
        limit: only the first N of these; None for all.
        part: (number, count): only this one of several equal parts.
    """

    patterns: tuple[str, ...] = ()
    limit: int | None = None
    part: tuple[int, int] = (0, 1)

    def pick(self, trials: Mapping[str, T]) -> list[T]:
        """The values of the chosen ids.

        Raises:
            SettingError: if no id matches.
        """
        patterns = self.patterns or ("*",)
        chosen = [
            value for name, value in trials.items() if any(fnmatchcase(name, normal(pattern)) for pattern in patterns)
        ]
        if self.patterns and not chosen:
            known = ", ".join(list(trials)[:3])
            asked = "' or '".join(self.patterns)
            raise SettingError(
                f"No trial is named '{asked}'; there are {len(trials)}, e.g. {known}. Change --trials; '*' matches any characters."
            )
        number, count = self.part
        return chosen[: self.limit][number::count]


@dataclass(frozen=True)
class LooseMedia:
    """Files outside any project.

    Attributes:
        files: the files.
        rate: frames per second of files without pictures; None for 25.
        face: see `loose_manifest`.
    """

    files: tuple[Path, ...]
    rate: Fraction | None = None
    face: str = "largest"


@dataclass(frozen=True)
class Job:
    """A request as data: only names, settings and paths, so that it can be sent to another process.

    Attributes:
        sets: name → feature set.
        media: the project's corpus, or loose files.
        config: settings of crops.
        features: folder or URL of all features.
        options: how to run.
        selection: which trials.
    """

    sets: dict[str, FeatureSetParams]
    media: CorpusParams | LooseMedia
    config: CropConfig
    features: Where
    options: EngineOptions
    selection: Selection = Selection()
    fold: int | None = None


@dataclass(frozen=True)
class Request:
    """A job on this machine, ready to be worked on.

    Attributes:
        job: the job.
        corpus: all trials, which decide the recipe.
        chosen: the trials to finish.
        crops_root: folder of crops, with a subfolder for each combination of settings.
        options: the job's options with the chosen device.
        faults: trial id → why it cannot be read.
    """

    job: Job
    corpus: Manifest
    chosen: Manifest
    crops_root: Path
    options: EngineOptions
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def crops(self) -> Path:
        """Folder of the crops with these settings."""
        return crops_folder(self.crops_root, self.job.config)

    @property
    def is_loose(self) -> bool:
        """Whether the trials are loose files."""
        return isinstance(self.job.media, LooseMedia)

    def load(self, name: str) -> Load:
        """Load the backbone of a feature set.

        Raises:
            SettingError: if it cannot run with these options.
            MissingFileError: if no trial has the media that it reads.
        """
        section, backbone, options = self._open(name)
        check_running(backbone, options.device, options.runtime, options.precision, options.compiled)
        if backbone.weights.seed is not None:
            warn_of_random(section.backbone, backbone.weights.seed)
        upstream = backbone.input.upstream(self.corpus, self.job.config)
        faults = dict(self.faults)
        if self.is_loose:  # transcripts beside files count as given, whatever wrote them, so that runs share a recipe
            upstream = {key: GIVEN if key == "words" else value for key, value in upstream.items()}
            faults |= self._lacking(backbone)
        else:
            require_medium(self.corpus, self.chosen.trials, backbone.input)
        return Load(name, backbone, options, backbone.recipe(section.dtype, options.precision, upstream), faults)

    def load_again(self, name: str, recipe: Recipe, faults: dict[str, str]) -> Load:
        """Load the backbone of a feature set in another process than the one that decided the recipe.

        Raises:
            WeightsError: if it is another network here, e.g. because there are other weights in a file of this name.
        """
        section, backbone, options = self._open(name)
        check_running(backbone, options.device, options.runtime, options.precision, options.compiled)
        found = backbone.recipe(section.dtype, options.precision, recipe.upstream)
        if found != recipe:
            raise WeightsError(
                f"Feature set '{name}' is made in another way on '{socket.gethostname()}' than where the command runs "
                f"({differences(recipe, found)}). Give both the same weights, in a folder that both see."
            )
        return Load(name, backbone, options, recipe, faults)

    def _open(self, name: str) -> tuple[FeatureSetParams, Backbone, EngineOptions]:
        """The settings and the backbone of a feature set, and how to run it."""
        section, options = self.job.sets[name], self.options
        if section.runtime and str(options.device) == "cpu":
            options = replace(options, runtime=section.runtime)
        backbone = load_backbone(section.backbone, section.weights, section.settings)
        plain = replace(options, runtime=DEFAULT_RUNTIME, compiled=False)
        if len(self.job.sets) > 1 and not backbone.input.mixes and options != plain:
            note(
                f"Backbone '{section.backbone}' reads sentences of any length, so it runs with {DEFAULT_RUNTIME} and is not compiled."
            )
            options = plain
        return section, backbone, options

    def _lacking(self, backbone: Backbone) -> dict[str, str]:
        """Loose files without the media that a backbone reads, and what to do: a named file must not be skipped."""
        faults = {}
        for trial in self.chosen.trials:
            try:
                require_medium(self.chosen, [trial], backbone.input)
            except AvFusionError as error:
                faults[trial.id] = str(error)
        return faults


@dataclass(frozen=True)
class Load:
    """A feature set with its backbone, loaded for a request.

    Attributes:
        name: name of the set.
        backbone: the network.
        options: how to run it.
        recipe: recipe of its features.
        faults: trial id → why it cannot be read.
    """

    name: str
    backbone: Backbone
    options: EngineOptions
    recipe: Recipe
    faults: dict[str, str]

    @cached_property
    def executor(self) -> Executor:
        """Runs the backbone; made when it is first needed, and kept."""
        how = self.options
        device = choose_for(how.runtime, how.device)
        return make_executor(self.backbone, how.batch_size, device, how.runtime, how.precision, how.compiled)


def project_jobs(
    names: tuple[str, ...], params: Params, options: EngineOptions, selection: Selection, features: Where
) -> list[Job]:
    """The project's feature sets of these names; "all" stands for all of `params.yaml`.

    The first job has all of them; where fine-tuned weights belong to several folds, there is another one for each further fold.

    Raises:
        UnknownNameError: if `params.yaml` has no section for a name.
        MissingFileError: if one needs the weights of a fine-tuning that did not finish.
    """
    sets = params.feature_sets(names)
    folds = {name: find_folds(params, name) for name in sets}
    jobs = []
    for fold in [None, *sorted({fold for own in folds.values() for fold in own[1:]})]:
        resolved = {
            name: replace(section, weights=resolve_weights(params, name, folds[name][0] if fold is None else fold))
            for name, section in sets.items()
            if fold is None or fold in folds[name]
        }
        jobs.append(Job(resolved, params.corpus, params.crops, features, options, selection, fold))
    return jobs


def open_job(job: Job, build: bool = True) -> Request:
    """Prepare a job on this machine.

    Args:
        job: the job.
        build: whether to build the project's corpus if it is missing, and to search videos for people where each is a trial.

    Raises:
        MissingFileError: if the corpus is missing and not to be built.
        CorpusError: if two loose files have the same name.
        SettingError: if there is no such device, face or trial.
    """
    options = replace(job.options, device=choose_for(job.options.runtime, job.options.device))
    if isinstance(job.media, LooseMedia):
        out = Path(str(job.features))
        files = job.selection.pick(by_name(job.media.files))
        corpus, faults = loose_manifest(files, job.media.rate, job.media.face)
        if job.media.face == ALL:
            finder = PeopleFinder(job.config, out / "people", out, options.device)
            corpus, unseen = each_person(corpus, finder, build)
            faults |= unseen
        faults |= {} if options.redo else name_clashes(corpus, out)
        corpus = replace(corpus, trials=tuple(trial for trial in corpus.trials if trial.id not in faults))
        return Request(job, corpus, corpus, out / "crops", options, faults)
    corpus = (
        build_corpus(job.media, paths.CORPUS, job.config)
        if build and not paths.CORPUS.exists()
        else Manifest.load(paths.CORPUS)
    )
    trials: dict[str, Any] = {trial.id: trial for trial in corpus.trials}
    chosen = replace(corpus, trials=tuple(job.selection.pick(trials)))
    return Request(job, corpus, chosen, paths.CROPS, options)
