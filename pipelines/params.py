"""The settings of `params.yaml`, typed and checked; unknown keys and wrong types are refused with their full name.

Every stage is given only the section that it reads, so that DVC re-runs no stage for a setting it does not use.
"""

from __future__ import annotations

import inspect
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import dacite

from cache.errors import MissingFileError, SettingError, UnknownNameError
from cache.manifest import PARTITIONS
from cache.names import require_folder_name, require_known
from extract.backbones import BACKBONES
from pipelines.setting_types import check_values
from pipelines.yaml_files import read_yaml

T = TypeVar("T")

MATRIX = "matrix.yaml"
"""Beside params.yaml: its section `matrix`, if that has a file of its own."""
AUTO = "auto"


@dataclass(frozen=True)
class CorpusParams:
    """Which recordings.

    Attributes:
        name: of a corpus: see `avfusion list corpora`.
        root: folder of the corpus; "" for a corpus that is generated in place (`work/corpus` belongs to DVC, which
            restores it: keep media that you edit elsewhere).
        settings: of the corpus's own `Config`.
    """

    name: str = "demo"
    root: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BackboneParams:
    """One backbone of stage one.

    Attributes:
        weights: a registered name, a path, or "random" (seeded, untrained).
        dtype: of the stored embeddings, float16 or float32.
        settings: of the backbone's own `Config`.
    """

    weights: str
    dtype: str = "float16"
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SystemParams:
    """One fusion system: a model over some modalities.

    Attributes:
        model: name of a fusion model: see `avfusion list models`.
        modalities: modality → backbone whose embeddings it reads.
        settings: of the model's own `Config`.
        train: settings of the training loop that differ from those of `fusion.train`.
        pca: modality → number of principal components that its embeddings are reduced to, fitted on the fold's training
            trials; modalities that are not named keep all dimensions.
    """

    model: str
    modalities: dict[str, str]
    settings: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    pca: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BankParams:
    """The features that training holds in memory.

    Attributes:
        memory_gb: budget for the features of a system and their normalised copy, in 10^9 bytes and in each worker;
            modalities beyond it are read from the store while training, with the same result.
    """

    memory_gb: float = 8.0


@dataclass(frozen=True)
class FoldParams:
    """How the corpus is divided.

    Attributes:
        kind: auto (the corpus's own partition, or grouped folds where it has none), partition, rotated (the six blocks
            of [Zhang2023]), grouped (subjects kept together) or stratified (the same, by range of labels).
        number: which fold is trained, from 0; -1 for every fold, one run each.
        count: number of folds; the partition is always one.
        seed: of grouped and stratified folds.
        disjoint: rotated: keep subjects together, as [Zhang2023] says and its code does not.
        path: JSON file with folds that are used in the place of all this, in the form of `work/models/folds.json`.
    """

    kind: str = "auto"
    number: int = 0
    count: int = 6
    seed: int = 0
    disjoint: bool = True
    path: str = ""


@dataclass(frozen=True)
class FusionParams:
    """Stage two.

    Attributes:
        seeds: one training run each; figures are their mean and spread.
        systems: name → system; the first one is the main system of the report.
        folds: how the corpus is divided.
        bank: the features in memory.
        device: auto, cpu, cuda or cuda:N.
        threads: of torch on the CPU, in each worker; more than one slows small models down.
        workers: processes that train side by side, one run each; the results are the same.
        train: settings of the training loop.
    """

    seeds: list[int]
    systems: dict[str, SystemParams]
    folds: FoldParams = field(default_factory=FoldParams)
    bank: BankParams = field(default_factory=BankParams)
    device: str = "auto"
    threads: int = 1
    workers: int = 1
    train: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = {
            "threads": (self.threads, 1),
            "workers": (self.workers, 1),
            "bank.memory_gb": (self.bank.memory_gb, 0),
        }
        faults = [
            f"fusion.{name} is {value:g}, expected at least {low}"
            for name, (value, low) in numbers.items()
            if not value >= low
        ]
        faults += [
            f"seed {seed} stands twice in fusion.seeds" for seed in set(self.seeds) if self.seeds.count(seed) > 1
        ]
        if faults:
            raise SettingError(f"{'; '.join(faults)}. Change params.yaml.")


@dataclass(frozen=True)
class EvaluateParams:
    """What is evaluated.

    Attributes:
        partition: the part of each fold that its networks are scored on: train, validation, test, or auto, which is test
            where every trained fold has labelled trials in it, else validation.
        draws: bootstrap samples behind the confidence intervals over trials.
        level: share of the samples inside an interval.
        seed: of the samples.
    """

    partition: str = AUTO
    draws: int = 1000
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Params:
    """All of `params.yaml`.

    Attributes:
        corpus: which recordings.
        fusion: the systems and their training.
        crops: detection, tracking and alignment of faces.
        extract: backbone → its settings.
        evaluate: what is evaluated.
        matrix: more systems, as section `fusion`, that are only compared: many models over many sets of modalities; may stand
            in a file of its own, `matrix.yaml`, which keeps `dvc exp show` short; its folds are those of `fusion` unless it
            says otherwise.
    """

    corpus: CorpusParams
    fusion: FusionParams
    crops: dict[str, Any] = field(default_factory=dict)
    extract: dict[str, BackboneParams] = field(default_factory=dict)
    evaluate: EvaluateParams = field(default_factory=EvaluateParams)
    matrix: FusionParams | None = None

    def backbone(self, name: str) -> BackboneParams:
        """Settings of one backbone.

        Raises:
            UnknownNameError: if `params.yaml` has no section for it.
        """
        if name in BACKBONES and name not in self.extract:
            raise UnknownNameError(
                f"params.yaml has no section for backbone '{name}' in 'extract', only for {', '.join(self.extract) or 'none'}. "
                f"Add '{name}: {{weights: …}}' there: a registered name, a path, or 'random'."
            )
        require_known("backbone in section 'extract' of params.yaml", name, self.extract)
        return self.extract[name]


def read_params(path: Path) -> Params:
    """Read and check a parameter file.

    Raises:
        MissingFileError: if it does not exist.
        SettingError: if it is no YAML, has an unknown key or a value of the wrong type.
        UnknownNameError: if a backbone or a partition of this name does not exist.
    """
    if not path.is_file():
        raise MissingFileError(
            f"No '{path}' here. Run in the project's folder (only extract-features and transcribe take loose media)."
        )
    params = _add_matrix(from_mapping(Params, read_yaml(path), str(path)), path.with_name(MATRIX))
    if params.matrix is not None and params.matrix.folds == FoldParams():
        params = replace(params, matrix=replace(params.matrix, folds=params.fusion.folds))
    for name in params.extract:
        require_known("backbone in section 'extract' of params.yaml", name, BACKBONES)
    require_known("partition in section 'evaluate' of params.yaml", params.evaluate.partition, (AUTO, *PARTITIONS))
    for section, systems in (
        ("fusion", params.fusion.systems),
        ("matrix", params.matrix.systems if params.matrix else {}),
    ):
        for name, system in systems.items():
            require_folder_name("System", name, f"Change it in {section}.systems.")
            if not system.modalities:
                raise SettingError(
                    f"System '{name}' has no modalities; expected at least one, such as 'visual: mobilefacenet'. Add it in "
                    f"'{section}.systems.{name}.modalities'."
                )
    return params


def _add_matrix(params: Params, path: Path) -> Params:
    """The settings with a section `matrix` from a file of its own, where there is one.

    Raises:
        SettingError: if the file is wrong, or the section stands in both.
    """
    if not path.is_file():
        return params
    if params.matrix is not None:
        raise SettingError(f"There is a section 'matrix' and a file '{path}'; expected one of them. Remove the other.")
    return replace(params, matrix=from_mapping(FusionParams, read_yaml(path), str(path)))


def from_mapping(kind: type[T], mapping: Any, where: str) -> T:
    """Build a settings dataclass from plain values.

    Args:
        kind: a dataclass; nested ones are built from nested mappings.
        mapping: key → value.
        where: file or section, for messages.

    Raises:
        SettingError: if a key is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(mapping, dict):
        raise SettingError(f"'{where}' holds {type(mapping).__name__}, expected keys and values.")
    check_values(kind, mapping, where)
    try:
        return dacite.from_dict(kind, mapping, dacite.Config(strict=True, cast=[float, tuple]))
    except (dacite.DaciteError, ValueError, TypeError) as error:
        raise SettingError(f"Setting in '{where}' is wrong: {str(error).rstrip('.')}. See docs/params.md.") from error


def attribute_docs(kind: type) -> dict[str, str]:
    """Meaning of each field, from the `Attributes:` section of a dataclass's docstring."""
    known = {field.name for field in fields(kind)}
    docs: dict[str, str] = {}
    current: list[str] = []
    for line in inspect.cleandoc(kind.__doc__ or "").partition("Attributes:")[2].splitlines():
        head, colon, text = line.strip().partition(":")
        names = [name.strip() for name in head.split(",")]
        if colon and line.startswith("    ") and line[4:5] != " " and known.issuperset(names):
            current, line = names, text
        for name in current:
            docs[name] = f"{docs.get(name, '')} {line.strip()}".strip()
    return docs


def rows(kind: type, prefix: str = "") -> list[tuple[str, str, str]]:
    """(key, default, meaning) of each setting of a dataclass, nested ones in place."""
    result: list[tuple[str, str, str]] = []
    docs = attribute_docs(kind)
    for item in fields(kind):
        default = item.default_factory() if callable(item.default_factory) else item.default
        if is_dataclass(default) and not isinstance(default, type):
            result += rows(type(default), f"{prefix}{item.name}.")
        else:
            shown = "required" if default is MISSING else repr(default)
            result.append((f"{prefix}{item.name}", shown, docs.get(item.name, "")))
    return result
