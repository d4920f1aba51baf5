"""Reads `params.yaml`: every setting typed and checked, every fault of the file in one message.

That includes sections whose type depends on a name: settings of the corpus, of backbones and of models are their `Config`.
Section `matrix` is read with the others, also from its own file.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from cache.errors import MissingFileError, SettingError
from cache.names import config_of, require_folder_name
from cache.settings import Faults, expected_one_of, parse_settings, refusal
from extract.backbones import BACKBONES
from extract.corpora import CORPORA
from fusion.models import MODELS
from fusion.settings import TrainConfig, unknown_names
from pipelines.project import paths
from pipelines.project.corpus_files import built_targets, has_changed
from pipelines.project.finetuned import find_faults
from pipelines.project.params import ALL, CorpusParams, FoldParams, Params
from pipelines.project.yaml_files import read_yaml
from pipelines.sections.crossing import expand

T = TypeVar("T")

MATRIX = "matrix.yaml"
"""File beside params.yaml with its section `matrix`; optional."""


def read_params(path: Path = paths.PARAMS, changes: Path | None = None) -> Params:
    """Read and check a parameter file, and the file of its section `matrix` where there is one.

    Args:
        path: the file.
        changes: another one, whose settings replace those of the first; systems and other named parts as a whole.

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
    if changes is not None:
        raw = _change(raw, read_yaml(changes))
        where += f", changed by '{changes}'"
    crossed: Faults = {}
    if isinstance(raw, dict) and "matrix" in raw:
        section, crossed = expand(raw["matrix"])
        raw = {**raw, "matrix": section}
    params, faults = _build(Params, raw)
    faults = {**faults, **crossed}
    weights = params if params is not None else _build(Params, _keep_weights(raw, faults))[0]
    if weights is not None:
        faults = {**find_faults(weights), **faults}
    if params is not None and params.evaluate.best_folds > 1 and params.fusion.folds.number >= 0:
        faults["evaluate.best_folds"] = (
            f"is {params.evaluate.best_folds}, expected 0 or 1 where one fold is trained; set fusion.folds.number to -1 for all"
        )
    faults |= _find_unknown_targets(raw, path.parent / paths.CORPUS)
    if params is None or faults:
        raise refusal(faults, where)
    if params.matrix is not None and params.matrix.folds == FoldParams():
        params = replace(params, matrix=replace(params.matrix, folds=params.fusion.folds))
    return params


_NAMED = 2  # sections within sections until that of a system, such as fusion, systems


def _change(raw: Any, changes: Any, depth: int = 0) -> Any:
    """Sections with the settings of others instead; whatever has a name of its own is replaced as a whole."""
    if depth > _NAMED or not isinstance(raw, dict) or not isinstance(changes, dict):
        return changes
    return {**raw, **{name: _change(raw.get(name), each, depth + 1) for name, each in changes.items()}}


def read_typed(kind: type[T], raw: Any, where: str) -> T:
    """Build a dataclass whose fields are sections of params.yaml, with settings of corpus, backbones and models typed.

    Args:
        kind: the dataclass.
        raw: as read.
        where: file or files, for the message.

    Raises:
        SettingError: with every fault.
    """
    built, faults = _build(kind, raw)
    if built is None:
        raise refusal(faults, where)
    return built


def _keep_weights(raw: Any, faults: Faults) -> Any:
    """What says where weights come from, without faulty settings, for the faults between these sections."""
    least = {"seeds": [0], "systems": {}, "train": _section(raw, "fusion", "train")}
    kept = copy.deepcopy(
        {"corpus": {}, "fusion": least, **{name: _section(raw, name) for name in ("extract", "finetune")}}
    )
    for key in faults:
        *place, name = key.split(".")
        section = _find(kept, place)
        if isinstance(section, dict) and len(place) > 1:
            section.pop(name, None)
        if place[:1] == ["finetune"] and name == "model":
            section |= {
                "model": next(iter(MODELS)),
                "settings": {},
            }  # any does: which one trains weights does not matter here
    return kept


def _build(kind: type[T], raw: Any) -> tuple[T | None, Faults]:
    """Sections with all settings typed, or none and every fault of single sections."""
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
    for name in _section(raw, "extract"):
        typed["extract", name, "backbone"] = _section(raw, "extract", name).get("backbone", name)
    faults |= _find_faulty_names(raw) | _find_faulty_seeds(raw) | _find_unknown_names(raw)
    trained, found = _type_training(raw)
    typed, faults = {**typed, **trained}, {**faults, **found}
    if built is None or faults:
        return None, faults
    for place, made in typed.items():
        built = _put(built, place, made)
    return built, {}


def _named_sections(raw: Any) -> Iterator[tuple[tuple[str, ...], Mapping[str, str], Any, Any]]:
    """Sections whose type depends on a name: place, table of names, name, values."""
    if "corpus" in _section(raw):
        corpus = _section(raw, "corpus")
        yield ("corpus", "settings"), CORPORA, corpus.get("name", CorpusParams.name), corpus.get("settings", {})
    for name in _section(raw, "extract"):
        made = _section(raw, "extract", name)
        yield ("extract", name, "settings"), BACKBONES, made.get("backbone", name), made.get("settings", {})
    for place in (("fusion", "systems"), ("matrix", "systems"), ("finetune",)):
        for name in _section(raw, *place):
            system = _section(raw, *place, name)
            yield (*place, name, "settings"), MODELS, system.get("model"), system.get("settings", {})


def _find_faulty_names(raw: Any) -> Faults:
    """Names of feature sets, systems and fine-tunings that cannot name a folder, also where other faults hide the section's own."""
    faults = {}
    for place, kind in (
        (("extract",), "Feature set"),
        (("fusion", "systems"), "System"),
        (("matrix", "systems"), "System"),
        (("finetune",), "Fine-tuning"),
    ):
        for name in _section(raw, *place):
            try:
                require_folder_name(kind, name, "")
            except SettingError as error:
                faults[".".join((*place, name))] = f"is refused: {str(error).rstrip()}"
    if paths.SETS in _section(raw, "finetune"):
        faults[f"finetune.{paths.SETS}"] = "is the name of a folder of the program's own; choose another"
    if ALL in _section(raw, "extract"):
        faults[f"extract.{ALL}"] = "is the name that stands for all feature sets; choose another"
    return faults


def _find_faulty_seeds(raw: Any) -> Faults:
    """Seeds of training that are out of range or named twice, also where other faults hide the section's own."""
    faults = {}
    for section in ("fusion", "matrix"):
        given = _section(raw, section).get("seeds")
        seeds = [seed for seed in given if type(seed) is int] if isinstance(given, list) else []
        if len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**63 for seed in seeds):
            faults[f"{section}.seeds"] = f"is {given}, expected each seed once, all of them 0 to 2^63 - 1"
    return faults


def _find_unknown_names(raw: Any) -> Faults:
    """Settings of models and of training that name unknown modalities."""
    systems = {
        ".".join((*place, name)): _section(raw, *place, name)
        for place in (("fusion", "systems"), ("matrix", "systems"), ("finetune",))
        for name in _section(raw, *place)
    }
    own = {place: _section(system, "modalities") for place, system in systems.items()}
    known = sorted({name for names in own.values() for name in names})
    faults = {
        f"{place}.settings.{key}": text
        for place, system in systems.items()
        for key, text in unknown_names(_section(system, "settings"), own[place], known).items()
    }
    shared = {section: _section(raw, section) for section in ("fusion", "matrix")}
    for place, section in {**shared, **systems}.items():
        for setting in ("drop_unseen", "normalise_of"):
            named = _section(section, "train").get(setting)
            for name in named if isinstance(named, (list, dict)) else ():
                if name not in known:
                    text = f"names '{name}', a modality that no system has; {expected_one_of(str(name), known)}"
                    faults[f"{place}.train.{setting}"] = text
    return faults


_TRAININGS = (
    ("fusion", ("fusion", "systems")),
    ("matrix", ("matrix", "systems")),
    ("fusion", ("finetune",)),
)
"""Section with shared settings of training → sections whose parts inherit them."""


def _type_training(raw: Any) -> tuple[dict[tuple[str, ...], TrainConfig | None], Faults]:
    """Settings of training of all sections, and of their systems and fine-tunings, which inherit those of the section."""
    typed: dict[tuple[str, ...], TrainConfig | None] = {}
    faults: Faults = {}
    for section, place in _TRAININGS:
        shared = _section(raw, section).get("train", {})
        found: Faults = {}
        if _section(raw, section):
            typed[section, "train"], found = _parse_training(shared, (section, "train"))
            faults |= found
        inherited = {} if found else shared  # a fault is reported once
        for name in _section(raw, *place):
            own = _section(raw, *place, name).get("train", {})
            key = (*place, name, "train")
            typed[key], found = _parse_training({**inherited, **own} if isinstance(own, dict) else own, key)
            faults |= found
    return typed, faults


def _find_unknown_targets(raw: Any, folder: Path) -> Faults:
    """Targets of training that the corpus lacks, where it was built already and has not changed since."""
    wanted: dict[str, tuple[str, ...]] = {}
    for section, place in _TRAININGS:
        shared = _section(raw, section, "train").get("targets", list(TrainConfig.targets))
        for name in _section(raw, *place):
            own = _section(raw, *place, name, "train").get("targets")
            given, where = (shared, (section,)) if own is None else (own, (*place, name))
            if isinstance(given, list):
                wanted[".".join((*where, "train", "targets"))] = tuple(given)
    least = {"corpus": _section(raw, "corpus"), "fusion": {"seeds": [0], "systems": {}}}
    corpus, _ = _build(Params, least)
    known = () if corpus is None else built_targets(corpus.corpus, folder)
    faults = {
        key: f"is {list(names)}, but the corpus has no '{lacking[0]}'; {expected_one_of(str(lacking[0]), known)}"
        for key, names in wanted.items()
        if known and (lacking := [name for name in names if name not in known])
    }
    return {} if faults and has_changed(folder) else faults


_SEEDS = {"fusion": "fusion.seeds", "matrix": "matrix.seeds", "finetune": "finetune.NAME.seed"}


def _parse_training(values: Any, place: tuple[str, ...]) -> tuple[TrainConfig | None, Faults]:
    key = ".".join(place)
    made, faults = parse_settings(TrainConfig, values, key)
    if isinstance(values, dict) and "seed" in values:
        faults[f"{key}.seed"] = f"is {values['seed']!r}, expected in '{_SEEDS[place[0]]}' only"
    return made, faults


def _find(raw: Any, place: Sequence[str]) -> Any:
    for name in place:
        raw = raw.get(name) if isinstance(raw, dict) else None
    return raw


def _section(raw: Any, *names: str) -> Mapping[str, Any]:
    """A section of the values as read; empty if it is missing or not a section."""
    found = _find(raw, names)
    return {name: value for name, value in found.items() if isinstance(name, str)} if isinstance(found, dict) else {}


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
