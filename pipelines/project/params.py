"""The settings of `params.yaml`, typed and checked when they are read: every fault of the file in one message.

That includes sections whose type depends on a name: settings of the corpus, of backbones and of models are their `Config`.
Section `matrix` is read with the others, also from its own file. Every stage is given only the section that it needs, so that
DVC does not re-run a stage for a setting that it does not use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from cache.corpus.manifest import PARTITIONS
from cache.errors import MissingFileError, SettingError, UnknownNameError
from cache.names import config_of, require_folder_name, require_known
from cache.recipe import DTYPES
from cache.settings import Faults, check_ranges, expected_one_of, parse_settings, refusal
from extract.backbones import BACKBONES
from extract.corpora import CORPORA
from extract.faces.crops import CropConfig
from fusion.models import MODELS
from fusion.settings import TrainConfig, unknown_names
from pipelines.project import paths
from pipelines.project.yaml_files import read_yaml

T = TypeVar("T")

MATRIX = "matrix.yaml"
"""File beside params.yaml with its section `matrix`; optional."""
AUTO = "auto"
ALL = "all"
"""Stands for all feature sets."""


@dataclass(frozen=True)
class CorpusParams:
    """Which recordings.

    Attributes:
        name: name of the corpus: see `avfusion list corpora`.
        root: folder of the corpus; "" for a generated one (it goes to `work/corpus`, which DVC restores: keep media that you
            edit elsewhere).
        settings: settings of the corpus.
    """

    name: str = "demo"
    root: str = ""
    settings: Any = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_ranges("section 'corpus'", self, {}, {"name": CORPORA})


@dataclass(frozen=True)
class FeatureSetParams:
    """One feature set of stage one: the embeddings of the corpus by one backbone.

    Attributes:
        weights: a registered name, a path, or "random" (seeded, untrained).
        backbone: see `avfusion list backbones`; by default the name of the set.
        dtype: precision of the stored embeddings, float16 or float32.
        settings: settings of the backbone.
    """

    weights: str
    backbone: str = ""
    dtype: str = "float16"
    settings: Any = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_ranges("a feature set", self, {}, {"dtype": DTYPES})


@dataclass(frozen=True)
class SystemParams:
    """One fusion system: a model over some modalities.

    Attributes:
        model: name of the fusion model: see `avfusion list models`.
        modalities: the system's own name for a modality (a word) → the feature set that it reads, one from `extract` or an
            imported one. The model only knows these names; several sets may come from one backbone.
        settings: settings of the model.
        train: settings of training that differ from those in `fusion.train`.
        pca: modality → number of principal components to reduce its embeddings to, fitted on the fold's training trials;
            other modalities keep all dimensions.
    """

    model: str
    modalities: dict[str, str]
    settings: Any = field(default_factory=dict)
    train: Any = field(default_factory=dict)
    pca: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        faults = {} if self.modalities else {"modalities": "is {}, expected at least one, as 'visual: mobilefacenet'"}
        for name in self.modalities:
            if not name.isidentifier():
                faults[f"modalities.{name}"] = "is not a word, expected letters, digits and '_'"
        for name in self.pca:
            if name not in self.modalities:
                faults[f"pca.{name}"] = f"names no modality of the system; {expected_one_of(name, self.modalities)}"
        check_ranges("a system", self, {}, {"model": MODELS}, faults)


@dataclass(frozen=True)
class BankParams:
    """The features that training holds in memory.

    Attributes:
        memory_gb: budget for the features of a system and their normalised copy, in 10^9 bytes for each worker;
            modalities that do not fit are read from the store while training, with the same result.
    """

    memory_gb: float = 8.0

    def __post_init__(self) -> None:
        check_ranges("the bank", self, {"memory_gb": (0, 1e9)}, {})


@dataclass(frozen=True)
class FoldParams:
    """How the corpus is divided.

    Attributes:
        kind: auto (the corpus's own partition, or grouped folds where it has none), partition, rotated (the six blocks
            of [Zhang2023]), grouped (subjects kept together) or stratified (the same, balanced by the range of labels).
        number: which fold to train, from 0; -1 for every fold, one run each.
        count: number of folds; 0 for six, or one per subject with labels if there are fewer. The partition is always one.
        seed: seed of grouped and stratified folds.
        disjoint: for rotated folds: keep subjects together, as [Zhang2023] says and its code does not.
        path: JSON file with folds to use instead, in the format of `work/models/folds.json`.
    """

    kind: str = "auto"
    number: int = 0
    count: int = 0
    seed: int = 0
    disjoint: bool = True
    path: str = ""


@dataclass(frozen=True)
class FusionParams:
    """Stage two.

    Attributes:
        seeds: one training run each; results are their mean and spread.
        systems: name → system.
        folds: how the corpus is divided.
        bank: the features in memory.
        device: auto, cpu, cuda or cuda:N.
        threads: threads of torch on the CPU, in each worker; more than one slows small models down.
        workers: processes that train in parallel, one run each, with the same results.
        train: settings of training.
    """

    seeds: list[int]
    systems: dict[str, SystemParams]
    folds: FoldParams = field(default_factory=FoldParams)
    bank: BankParams = field(default_factory=BankParams)
    device: str = "auto"
    threads: int = 1
    workers: int = 1
    train: Any = field(default_factory=dict)

    def __post_init__(self) -> None:
        faults = (
            {} if len(set(self.seeds)) == len(self.seeds) else {"seeds": f"is {self.seeds}, expected each seed once"}
        )
        for name in self.systems:
            try:
                require_folder_name("System", name, "Rename it.")
            except SettingError as error:
                faults[f"systems.{name}"] = f"is refused: {error}"
        check_ranges("section 'fusion'", self, {"threads": (1, 1024), "workers": (1, 1024)}, {}, faults)


@dataclass(frozen=True)
class EvaluateParams:
    """What is evaluated.

    Attributes:
        partition: the part of each fold that its networks are scored on: train, validation, test, or auto, which is test
            if every trained fold has labelled trials in it, else validation.
        draws: number of bootstrap samples for the confidence intervals over trials.
        level: share of the samples inside an interval.
        seed: seed of the samples.
    """

    partition: str = AUTO
    draws: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges("section 'evaluate'", self, {}, {"partition": (AUTO, *PARTITIONS)})


@dataclass(frozen=True)
class Params:
    """All of `params.yaml`.

    Attributes:
        corpus: which recordings.
        fusion: the systems and their training.
        crops: detection, tracking and alignment of faces.
        extract: name → feature set.
        evaluate: what is evaluated.
        matrix: more systems to compare, in the form of section `fusion`: many models over many sets of modalities. It may be a
            file of its own, `matrix.yaml`, which keeps `dvc exp show` short; its folds are those of `fusion` unless it has its
            own.
    """

    corpus: CorpusParams
    fusion: FusionParams
    crops: CropConfig = field(default_factory=CropConfig)
    extract: dict[str, FeatureSetParams] = field(default_factory=dict)
    evaluate: EvaluateParams = field(default_factory=EvaluateParams)
    matrix: FusionParams | None = None

    def reads(self, name: str) -> bool:
        """Whether a system reads a feature set."""
        systems = [*self.fusion.systems.values(), *(self.matrix.systems.values() if self.matrix else ())]
        return any(name in system.modalities.values() for system in systems)

    def feature_sets(self, names: Sequence[str]) -> dict[str, FeatureSetParams]:
        """Feature sets by name; "all" stands for all.

        Raises:
            UnknownNameError: if `params.yaml` has no section for one.
        """
        wanted = dict.fromkeys(name for given in names for name in (self.extract if given == ALL else (given,)))
        for name in wanted:
            if name in BACKBONES and name not in self.extract:
                raise UnknownNameError(
                    f"params.yaml has no section for feature set '{name}' in 'extract', only for {', '.join(self.extract) or 'none'}. "
                    f"Add '{name}: {{weights: …}}' there: a registered name, a path, or 'random'."
                )
            require_known("feature set in section 'extract' of params.yaml", name, self.extract)
        return {name: self.extract[name] for name in wanted}


def read_params(path: Path = paths.PARAMS) -> Params:
    """Read and check a parameter file, and the file of its section `matrix` where there is one.

    Raises:
        MissingFileError: if it does not exist.
        SettingError: if it is no YAML, or with every fault of its settings.
    """
    if not path.is_file():
        raise MissingFileError(
            f"No '{path}' here. Run this in the project's folder (only extract-features and transcribe take loose media)."
        )
    raw = read_yaml(path)
    where = f"'{path}'"
    matrix = path.with_name(MATRIX)
    if matrix.is_file():
        if isinstance(raw, dict) and "matrix" in raw:
            raise SettingError(
                f"There is a section 'matrix' and a file '{matrix}'; expected one of them. Remove the other."
            )
        raw = {**raw, "matrix": read_yaml(matrix)} if isinstance(raw, dict) else raw
        where += f" and '{matrix}'"
    params = read_typed(Params, raw, where)
    if params.matrix is not None and params.matrix.folds == FoldParams():
        params = replace(params, matrix=replace(params.matrix, folds=params.fusion.folds))
    return params


def read_typed(kind: type[T], raw: Any, where: str) -> T:
    """Build a dataclass whose fields are sections of params.yaml, with settings of corpus, backbones and models typed.

    Args:
        kind: the dataclass.
        raw: as read.
        where: file or files, for the message.

    Raises:
        SettingError: with every fault.
    """
    built, faults = parse_settings(kind, raw)
    typed: dict[tuple[str, ...], Any] = {}
    for place, table, name, values in _named_sections(raw):
        if isinstance(name, str) and name in table:
            owner = partial(_say_owner, table)
            made, found = parse_settings(config_of(table[name]), values, ".".join(place), owner)
            typed[place], faults = made, {**faults, **found}
        elif table is BACKBONES and isinstance(name, str):
            named = "backbone" in _section(raw, *place[:-1])
            key = ".".join((*place[:-1], "backbone") if named else place[:-1])
            text = f"is '{name}'" if named else "names no backbone by 'backbone: …' and is the name of none"
            faults[key] = f"{text}; {expected_one_of(name, BACKBONES)}"
    named_sets, found = _name_backbones(raw)
    typed, faults = {**typed, **named_sets}, {**faults, **found}
    faults |= _find_unknown_names(raw)
    for section in ("fusion", "matrix"):
        made_here, found = _type_training(_section(raw, section), section)
        typed, faults = {**typed, **made_here}, {**faults, **found}
    if built is None or faults:
        raise refusal(faults, where)
    for place, made in typed.items():
        built = _put(built, place, made)
    return built


def _named_sections(raw: Any) -> Iterator[tuple[tuple[str, ...], Mapping[str, str], Any, Any]]:
    """Sections whose type depends on a name: place, table of names, name, values."""
    if "corpus" in _section(raw):
        corpus = _section(raw, "corpus")
        yield ("corpus", "settings"), CORPORA, corpus.get("name", CorpusParams.name), corpus.get("settings", {})
    for name in _section(raw, "extract"):
        made = _section(raw, "extract", name)
        yield ("extract", name, "settings"), BACKBONES, made.get("backbone", name), made.get("settings", {})
    for section in ("fusion", "matrix"):
        for name in _section(raw, section, "systems"):
            system = _section(raw, section, "systems", name)
            yield (section, "systems", name, "settings"), MODELS, system.get("model"), system.get("settings", {})


def _name_backbones(raw: Any) -> tuple[dict[tuple[str, ...], Any], Faults]:
    """The backbone of each feature set, and faulty names of feature sets."""
    made: dict[tuple[str, ...], Any] = {}
    faults = {}
    for name in _section(raw, "extract"):
        made["extract", name, "backbone"] = _section(raw, "extract", name).get("backbone", name)
        try:
            require_folder_name("Feature set", name, "Rename it.")
        except SettingError as error:
            faults[f"extract.{name}"] = f"is refused: {error}"
        if name == ALL:
            faults[f"extract.{name}"] = "is the name that stands for all feature sets; choose another"
    return made, faults


def _find_unknown_names(raw: Any) -> Faults:
    """Settings of models that name unknown modalities."""
    systems = {
        f"{part}.systems.{name}": _section(raw, part, "systems", name)
        for part in ("fusion", "matrix")
        for name in _section(raw, part, "systems")
    }
    own = {place: _section(system, "modalities") for place, system in systems.items()}
    known = sorted({name for names in own.values() for name in names})
    return {
        f"{place}.settings.{key}": text
        for place, system in systems.items()
        for key, text in unknown_names(_section(system, "settings"), own[place], known).items()
    }


def _type_training(fusion: Mapping[str, Any], section: str) -> tuple[dict[tuple[str, ...], TrainConfig | None], Faults]:
    """Settings of training of a section and of its systems, which inherit those of the section."""
    if not fusion:
        return {}, {}
    shared = fusion.get("train", {})
    made, faults = _parse_training(shared, (section, "train"))
    inherited = {} if faults else shared  # a fault is reported once
    typed: dict[tuple[str, ...], TrainConfig | None] = {(section, "train"): made}
    for name in _section(fusion, "systems"):
        own = _section(fusion, "systems", name).get("train", {})
        values = {**inherited, **own} if isinstance(own, dict) else own
        place = (section, "systems", name, "train")
        typed[place], found = _parse_training(values, place)
        faults |= found
    return typed, faults


def _parse_training(values: Any, place: tuple[str, ...]) -> tuple[TrainConfig | None, Faults]:
    key = ".".join(place)
    made, faults = parse_settings(TrainConfig, values, key)
    if isinstance(values, dict) and "seed" in values:
        faults[f"{key}.seed"] = f"is {values['seed']!r}, expected in '{place[0]}.seeds' only"
    return made, faults


def _section(raw: Any, *names: str) -> Mapping[str, Any]:
    """A section of the values as read; empty if it is missing or not a section."""
    for name in names:
        raw = raw.get(name) if isinstance(raw, dict) else None
    return {name: value for name, value in raw.items() if isinstance(name, str)} if isinstance(raw, dict) else {}


def _put(node: Any, place: tuple[str, ...], value: Any) -> Any:
    """The settings with another value at a place."""
    name, *rest = place
    if rest:
        value = _put(node[name] if isinstance(node, dict) else getattr(node, name), tuple(rest), value)
    return {**node, name: value} if isinstance(node, dict) else replace(node, **{name: value})


def _say_owner(table: Mapping[str, str], setting: str) -> str:
    """Say whose setting it is, e.g. one left behind by another corpus."""
    owners = [name for name, target in table.items() if setting in get_type_hints(config_of(target))]
    return f"It is a setting of {' and '.join(map(repr, owners))}: remove it" if owners else ""
