"""The papers' settings and printed tables: data in `presets/`, typed and checked here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from cache.errors import SettingError
from cache.names import require_known
from pipelines.params import BackboneParams, FusionParams, from_mapping
from pipelines.yaml_files import read_yaml

FOLDER = Path(__file__).parents[1] / "presets"
STATISTICS = ("best", "mean")
ABSENT = ("", "-", "–")  # how the papers print a figure that they do not have

T = TypeVar("T")


@dataclass(frozen=True)
class DemoParams:
    """What changes on the demo corpus, so that a table takes minutes.

    Attributes:
        backbones: backbone of the paper → backbone of the demo that stands in for it.
        seeds: in the place of the paper's; empty for the same.
        train: settings of training in every system.
        settings: model → settings of its `Config`.
    """

    backbones: dict[str, str] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    train: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """The settings of a paper.

    Attributes:
        source: key of `docs/refs.bib`.
        extract: backbone → how the paper ran it; to be copied to `params.yaml`.
        fusion: systems and their training.
        demo: what changes on the demo corpus.
        statistic: which figure of the seeds the paper prints: best or mean.
    """

    source: str
    extract: dict[str, BackboneParams]
    fusion: FusionParams
    demo: DemoParams
    statistic: str = "mean"

    def __post_init__(self) -> None:
        require_known("statistic", self.statistic, STATISTICS)

    def narrowed(self) -> Preset:
        """The same as it runs on the demo corpus."""
        demo = self.demo
        systems = {
            name: replace(
                system,
                modalities={m: demo.backbones.get(backbone, backbone) for m, backbone in system.modalities.items()},
                settings={**system.settings, **demo.settings.get(system.model, {})},
                train={**system.train, **demo.train},
            )
            for name, system in self.fusion.systems.items()
        }
        return replace(self, fusion=replace(self.fusion, systems=systems, seeds=demo.seeds or self.fusion.seeds))


@dataclass(frozen=True)
class Column:
    """A column of a printed table: text, a CCC or a number of parameters.

    Attributes:
        name: as printed.
        target: whose CCC it holds: valence, arousal, or mean of both.
        fold: of which fold.
        part: which of a row's systems it is of.
        count: sequence (parameters of the fusion model) or total (with encoders).
    """

    name: str
    target: str = ""
    fold: int | None = None
    part: str = ""
    count: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a printed table: a heading, or one cell per column.

    Attributes:
        group: text of a heading.
        cells: as printed.
        systems: part → system of the preset that our figures are of.
        target: of the whole row, where it is not the column's.
        corrected: column → figure that the paper must have meant.
        unused_classes: size of an encoder's classification layer that the paper counts and nobody uses.
    """

    group: str = ""
    cells: list[str] = field(default_factory=list)
    systems: dict[str, str] = field(default_factory=dict)
    target: str = ""
    corrected: dict[str, str] = field(default_factory=dict)
    unused_classes: int = 0


@dataclass(frozen=True)
class Table:
    """A printed table.

    Attributes:
        source: paper, table and section.
        caption: what it shows.
        columns: from left to right.
        rows: from top to bottom.
        notes: what a reader must know to compare.
    """

    source: str
    caption: str
    columns: list[Column]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)

    def figures(self) -> list[tuple[Row, Column, SystemFigure]]:
        """The cells that we can put a figure of our own beside."""
        found = []
        for row in self.rows:
            for column, printed in zip(self.columns, row.cells, strict=bool(row.cells)):
                target = column.target or row.target
                wanted = (target and (column.target or column.fold is not None)) or column.count
                if wanted and column.part in row.systems and printed not in ABSENT:
                    found.append((row, column, SystemFigure(row.systems[column.part], target, column.fold or 0)))
        return found


@dataclass(frozen=True)
class SystemFigure:
    """Which figure a cell wants: a system's, a target's ("mean" of all; "" for parameters), of a fold."""

    system: str
    target: str
    fold: int


def papers() -> list[str]:
    """Names of the presets."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def tables(paper: str) -> list[str]:
    """Numbers of a paper's tables."""
    return sorted(path.stem.rpartition("-")[2] for path in (FOLDER / "tables").glob(f"{paper}-*.yaml"))


def read_preset(paper: str) -> Preset:
    """The settings of a paper.

    Raises:
        UnknownNameError: if there is no such preset.
        SettingError: if its file is wrong.
    """
    require_known("paper", paper, papers())
    return _read(Preset, FOLDER / f"{paper}.yaml")


def read_table(paper: str, number: str) -> Table:
    """A printed table of a paper.

    Raises:
        UnknownNameError: if the paper's table is not here.
        SettingError: if its file is wrong.
    """
    require_known("paper", paper, papers())
    require_known(f"table of {paper}", number, tables(paper))
    table = _read(Table, FOLDER / "tables" / f"{paper}-{number}.yaml")
    for row in table.rows:
        if not row.group and len(row.cells) != len(table.columns):
            raise SettingError(
                f"Row {row.cells} of '{paper}-{number}.yaml' has {len(row.cells)} cells, expected {len(table.columns)}."
            )
    return table


def _read(kind: type[T], path: Path) -> T:
    return from_mapping(kind, read_yaml(path), str(path))
