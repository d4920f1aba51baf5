"""Settings and printed tables of papers: data in `settings/` beside this file, with types and checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.errors import SettingError
from cache.names import require_known
from cache.settings import check_ranges, make_settings
from pipelines.endtoend.settings import FinetuneParams
from pipelines.project.params import FeatureSetParams, FusionParams, SystemParams
from pipelines.project.params_file import read_typed
from pipelines.project.yaml_files import read_yaml

FOLDER = Path(__file__).parent / "settings"
STATISTICS = ("best", "mean")
ABSENT = ("", "-", "–")  # how papers print a missing figure


@dataclass(frozen=True)
class DemoParams:
    """Changes for the demo corpus, so that a table takes minutes.

    Attributes:
        backbones: backbone of the paper → backbone that replaces it.
        seeds: seeds instead of the paper's; empty for the same.
        train: settings of training in every system.
        finetune: settings of every fine-tuning.
        settings: model → settings.
    """

    backbones: dict[str, str] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    train: dict[str, Any] = field(default_factory=dict)
    finetune: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """The settings of a paper.

    Attributes:
        source: key in `docs/refs.bib`.
        extract: feature set → how the paper made it, to be copied to `params.yaml`.
        fusion: systems and their training.
        demo: changes for the demo corpus.
        finetune: fine-tunings, of the same kind as in `params.yaml`; their names differ from those of systems.
        statistic: which figure over the seeds the paper prints: best or mean.
    """

    source: str
    extract: dict[str, FeatureSetParams]
    fusion: FusionParams
    demo: DemoParams
    finetune: dict[str, FinetuneParams] = field(default_factory=dict)
    statistic: str = "mean"

    def __post_init__(self) -> None:
        faults = {
            f"finetune.{name}": "is the name of a system too" for name in self.finetune if name in self.fusion.systems
        }
        check_ranges("a preset", self, {}, {"statistic": STATISTICS}, faults)

    def named(self, name: str) -> SystemParams | FinetuneParams:
        """The system or fine-tuning of a name."""
        return self.fusion.systems[name] if name in self.fusion.systems else self.finetune[name]


@dataclass(frozen=True)
class Column:
    """A column of a printed table: text, a CCC or a number of parameters.

    Attributes:
        name: its title.
        target: the target of its CCC: valence, arousal, or mean of both.
        fold: the fold of its CCC.
        part: which of a row's systems it belongs to.
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
        cells: the printed cells.
        systems: part → system or fine-tuning of the preset that gives our figures.
        target: target of the whole row, if the columns have none.
        corrected: column → figure that the paper must have meant.
        unused_classes: size of an encoder's unused classification layer, which the paper counts.
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
        notes: what to know for a comparison.
    """

    source: str
    caption: str
    columns: list[Column]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)

    def figures(self) -> list[tuple[Row, Column, SystemFigure]]:
        """The cells that have a figure of our own."""
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
    """The figure for a cell: of a system or fine-tuning, a target ("mean" of all; "" for parameters) and a fold."""

    system: str
    target: str
    fold: int


def papers() -> list[str]:
    """Names of the presets."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def tables(paper: str) -> list[str]:
    """Numbers of a paper's tables."""
    return sorted(path.stem.rpartition("-")[2] for path in (FOLDER / "tables").glob(f"{paper}-*.yaml"))


def read_preset(paper: str, demo: bool = False) -> Preset:
    """The settings of a paper.

    Args:
        paper: name of the preset.
        demo: whether to change it for the demo corpus.

    Raises:
        UnknownNameError: if there is no such preset.
        SettingError: if its file is wrong.
    """
    require_known("paper", paper, papers())
    path = FOLDER / f"{paper}.yaml"
    raw = read_yaml(path)
    preset = read_typed(Preset, raw, f"'{path}'")
    return (
        read_typed(Preset, _narrow(raw, preset.demo), f"'{path}', narrowed by its section 'demo'") if demo else preset
    )


def _narrow(raw: dict[str, Any], demo: DemoParams) -> dict[str, Any]:
    """The sections of a preset with the changes for the demo corpus."""
    fusion = raw["fusion"]
    systems = {name: _narrow_one(system, demo, {}) for name, system in fusion["systems"].items()}
    finetune = {name: _narrow_one(run, demo, demo.finetune) for name, run in raw.get("finetune", {}).items()}
    return {
        **raw,
        "fusion": {**fusion, "systems": systems, "seeds": demo.seeds or fusion["seeds"]},
        "finetune": finetune,
    }


def _narrow_one(system: dict[str, Any], demo: DemoParams, more: dict[str, Any]) -> dict[str, Any]:
    return {
        **system,
        **more,
        "modalities": {m: demo.backbones.get(backbone, backbone) for m, backbone in system["modalities"].items()},
        "settings": {**system.get("settings", {}), **demo.settings.get(system["model"], {})},
        "train": {**system.get("train", {}), **demo.train, **more.get("train", {})},
    }


def read_table(paper: str, number: str) -> Table:
    """A printed table of a paper.

    Raises:
        UnknownNameError: if there is no such table.
        SettingError: if its file is wrong.
    """
    require_known("paper", paper, papers())
    require_known(f"table of {paper}", number, tables(paper))
    path = FOLDER / "tables" / f"{paper}-{number}.yaml"
    table = make_settings(Table, read_yaml(path), f"'{path}'")
    for row in table.rows:
        if not row.group and len(row.cells) != len(table.columns):
            raise SettingError(
                f"Row {row.cells} of '{paper}-{number}.yaml' has {len(row.cells)} cells, expected {len(table.columns)}."
            )
    return table
