"""Search spaces: what a search may change of a system, as YAML files beside this module or of one's own.

Section `models` has the parameters of each model, `settings` those of its own and `train` those of training; a list is a choice, a
range has `low` and `high`, both included: whole numbers if both are, on a logarithmic scale with `log: true`. Section
`architecture` is optional: models and feature sets that a first stage chooses among.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from math import isfinite
from pathlib import Path
from typing import Any

from cache.errors import MissingFileError, SettingError
from cache.names import config_of, require_known
from cache.settings import Faults, make_settings, parse_settings, refusal
from fusion.models import MODELS
from fusion.settings import TrainConfig, unknown_names
from pipelines.project.yaml_files import read_yaml

FOLDER = Path(__file__).parent / "spaces"
Cell = int | float | str | bool
Point = Mapping[str, Cell]
"""Parameter, as `settings.d_model` → its value; lists are their JSON."""


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included.

    Attributes:
        low: the lowest.
        high: the highest.
        log: whether each factor, not each difference, is as likely.
    """

    low: int | float
    high: int | float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise SettingError(
                f"A range goes from {self.low} to {self.high}; expected low below high, and above 0 with 'log: true'."
            )

    @property
    def whole(self) -> bool:
        """Whether it consists of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def holds(self, value: Any) -> bool:
        """Whether a value lies in it."""
        return isinstance(value, (int, float)) and self.low <= value <= self.high

    @property
    def examples(self) -> tuple[Any, ...]:
        """Values that stand for all."""
        return (self.low, self.high)


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    options: tuple[Any, ...]

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return as_cell(value) in map(as_cell, self.options)

    @property
    def examples(self) -> tuple[Any, ...]:
        """All of them."""
        return self.options


Domain = Range | Choice
Domains = dict[str, Domain]


def as_cell(value: Any) -> Cell:
    """A value as engines and tables take it: lists as JSON."""
    return json.dumps(list(value)) if isinstance(value, (list, tuple)) else value


def from_cell(value: Any) -> Any:
    """The value itself."""
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


@dataclass(frozen=True)
class Space:
    """A file with a search space, checked.

    Attributes:
        name: its name or path.
        models: model → its parameters.
        architecture: `model` and `modalities.NAME` → what the first stage chooses among; none without such a stage.
    """

    name: str
    models: dict[str, Domains]
    architecture: dict[str, Choice]

    def architectures(self) -> Iterator[Point]:
        """Every combination of the first stage."""
        for values in product(*(domain.options for domain in self.architecture.values())):
            yield dict(zip(self.architecture, values, strict=True))

    def parameters(self, model: str, modalities: Mapping[str, str]) -> Domains:
        """The parameters of a model, without those of modalities that the system lacks.

        Raises:
            SettingError: if the space has none of this model.
        """
        if model not in self.models:
            raise SettingError(
                f"Space '{self.name}' has no parameters of model '{model}', only of {', '.join(self.models)}. Add them to its "
                "'models', or choose another space."
            )
        domains = self.models[model]
        given: dict[str, Any] = nest(dict.fromkeys(domains)).get("settings", {})
        gone = unknown_names(given, modalities, modalities)
        return {name: domain for name, domain in domains.items() if name.removeprefix("settings.") not in gone}


@dataclass(frozen=True)
class _Architecture:
    model: list[str] = field(default_factory=list)
    modalities: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Model:
    settings: Any = field(default_factory=dict)
    train: Any = field(default_factory=dict)


@dataclass(frozen=True)
class _File:
    models: dict[str, _Model]
    source: str = ""
    architecture: _Architecture = field(default_factory=_Architecture)


def packaged() -> list[str]:
    """Names of the spaces in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_space(name: str, model: str) -> Space:
    """The space of a name or a file; without one, the parameters of a model in the package, and no first stage.

    Raises:
        UnknownNameError: if there is none of this name.
        MissingFileError: if there is no such file.
        SettingError: with all faults of the file.
    """
    if not name:
        spaces = map(find_space, packaged(), [model] * len(packaged()))
        found = next(space for space in spaces if model in space.models)
        return Space(found.name, {model: found.models[model]}, {})
    is_file = "/" in name or name.endswith((".yaml", ".yml"))
    if not is_file:
        require_known("space", name, packaged())
    path = Path(name) if is_file else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise MissingFileError(f"No search space '{path}'. Spaces of the package are {', '.join(packaged())}.")
    return _check(name, make_settings(_File, read_yaml(path), f"'{path}'"), f"'{path}'")


def _check(name: str, file: _File, where: str) -> Space:
    models: dict[str, Domains] = {}
    faults: Faults = {}
    for model, sections in file.models.items():
        if model not in MODELS:
            faults[f"models.{model}"] = f"is no model, expected one of {', '.join(MODELS)}"
            continue
        models[model] = {}
        for section, kind in (("settings", config_of(MODELS[model])), ("train", TrainConfig)):
            domains = dict(_domains(getattr(sections, section), section))
            found = {f"models.{model}.{key}": domain for key, domain in domains.items() if isinstance(domain, str)}
            faults |= found
            models[model] |= {key: domain for key, domain in domains.items() if not isinstance(domain, str)}
            faults |= {} if found else _find_faults(kind, models[model], section, f"models.{model}")
        decided = {"train.epochs": "--epochs", "train.seed": "the first of fusion.seeds"}
        faults |= {
            f"models.{model}.{key}": f"is decided by {by}" for key, by in decided.items() if key in models[model]
        }
        if not models[model] and not faults:
            faults[f"models.{model}"] = "is empty, expected parameters in 'settings' or 'train'"
    faults |= {f"architecture.model.{each}": "is no model" for each in file.architecture.model if each not in MODELS}
    if faults or not models:
        raise refusal(faults or {"models": "is empty, expected at least one model"}, where)
    choices = {f"modalities.{name}": sets for name, sets in file.architecture.modalities.items()}
    choices = {"model": file.architecture.model, **choices}
    return Space(name, models, {key: Choice(tuple(each)) for key, each in choices.items() if each})


def _domains(values: Any, place: str) -> Iterator[tuple[str, Domain | str]]:
    """Place → its range or choice, or what is wrong with it."""
    if isinstance(values, list):
        each = {(type(value), as_cell(value)): value for value in values}  # once
        yield place, Choice(tuple(each.values())) if each else "is empty, expected at least one value"
    elif isinstance(values, dict) and "low" in values:
        endless = [name for name, end in values.items() if isinstance(end, float) and not isfinite(end)]
        made, faults = parse_settings(Range, values)
        told = "; ".join(f"{key} {fault}".strip() for key, fault in faults.items())
        yield place, f"goes to {values[endless[0]]}, expected finite numbers" if endless else made or told
    elif isinstance(values, dict):
        for name, value in values.items():
            yield from _domains(value, f"{place}.{name}")
    else:
        yield place, f"is {values!r}, expected a list of values, or low and high"


def _find_faults(kind: type, domains: Domains, section: str, place: str) -> Faults:
    """Parameters that the settings do not have, or of which they refuse an end or a choice."""
    faults: Faults = {}
    for name, domain in domains.items():
        if name.startswith(f"{section}."):
            for value in domain.examples:
                _, found = parse_settings(kind, nest({name: value})[section], section)
                own = {key: text for key, text in found.items() if key.startswith(name)}
                faults |= {f"{place}.{key}": text for key, text in own.items()}
    return faults


def nest(point: Mapping[str, Any]) -> dict[str, Any]:
    """`{"settings.d_model": 64}` as `{"settings": {"d_model": 64}}`."""
    nested: dict[str, Any] = {}
    for name, value in point.items():
        *sections, last = name.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return nested
